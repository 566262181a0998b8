"""What a user gives the processes of a sandbox as environment variables: secrets by name, and plain variables.

A value lives in a handle, is registered with the redactor before any other code sees it, and is revealed only where a
sandbox or a command is made with it.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeAlias, TypeVar

from sandbox_tools.errors import ConfigurationError, WeakSecretError
from sandbox_tools.injection import InjectedSecret, Injection
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.redaction.secret import Opaque, reveal

Given: TypeAlias = Mapping[str, str] | Collection[str]
"""Values by name, or names of variables of this process. `NAME:public` is a `PublicValue`, where those may be."""

GivenSecrets: TypeAlias = Mapping[str, str | InjectedSecret] | Collection[str]
"""As `Given`; a value may be one that never enters the sandbox. By name that is `NAME@HOST`, or `NAME@HOST,HOST`."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_SECRET_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]{0,31}")
"""A name that a placeholder can show."""

_LOOKS_SECRET: Final = re.compile(
    r"(.*_)?(TOKEN|SECRETS?|PASSWORD|KEY|CREDENTIALS|DSN|DATABASE_URL)", re.IGNORECASE | re.DOTALL
)

_PUBLIC: Final = ":public"

_uses: Final[Counter[Secret]] = Counter()
_lock: Final = threading.Lock()
"""Several toolsets may be given the same value: the last one retires it."""


class PublicValue(str):
    """A value of a variable that is no secret, although the name looks like it: `{"SORT_KEY": PublicValue("created")}`.

    It is not registered. A value that is registered for another reason is redacted all the same.
    """

    __slots__ = ()


class Environment(Opaque):
    """Variables by name, each behind a handle.

    Attributes:
        injections: What a proxy has to swap, of those whose variable is only a placeholder.
    """

    __slots__ = ("_by_name", "injections")

    def __init__(self, by_name: Mapping[str, Secret] | None = None, injections: Collection[Injection] = ()) -> None:
        self._by_name = dict(by_name or {})
        self.injections: Final = tuple(injections)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def __str__(self) -> str:
        """Name them to a model, and say what is special about one."""
        special = {injection.name: str(injection) for injection in self.injections}
        return ", ".join(special.get(name, name) for name in self._by_name)

    def values(self, names: Collection[str] | None = None) -> dict[str, str]:
        """Return what these variables are, or all of them, for the request that sets them and nothing else."""
        return {name: reveal(self._by_name[name]) for name in (self._by_name if names is None else names)}

    def holds(self, secret: Secret) -> bool:
        """Tell whether the value of a handle is in the value of a variable."""
        return any(reveal(secret) in reveal(own) for own in self._by_name.values())


@contextmanager
def secrets_of(registry: Registry, given: GivenSecrets | None) -> Iterator[Environment]:
    """Register the secrets that commands may use, until the end of the block.

    Args:
        given: Each of them can be redacted, or is refused.

    Raises:
        ConfigurationError: No process can be given such a variable, or it is not set here.
        WeakSecretError: A value cannot be redacted. The message says why, and does not show it.
    """
    held: list[Secret] = []
    try:
        values = _secrets_by_name(given)
        environment = _held_secrets(registry, values, held)
        del given, values  # a traceback shows the variables of a generator
        yield environment
    finally:
        _release(registry, held)


@contextmanager
def variables_of(registry: Registry, given: Given | None, *, on_notice: Callable[[str], None]) -> Iterator[Environment]:
    """Register those variables of a sandbox whose names say that they are secret, until the end of the block.

    Args:
        on_notice: Told of a value that should be redacted, and cannot be.

    Raises:
        ConfigurationError: No process can be given such a variable, or it is not set here.
    """
    held: list[Secret] = []
    try:
        values = variables_by_name(given)
        environment = _held_variables(registry, values, held, on_notice)
        del given, values
        yield environment
    finally:
        _release(registry, held)


def looks_secret(name: str) -> bool:
    """Tell whether the name of a variable says that its value is secret."""
    return _LOOKS_SECRET.fullmatch(name) is not None


def variables_by_name(given: Given | None) -> Mapping[str, str]:
    """Return variables with their values.

    Raises:
        ConfigurationError: No process can be given such a variable, or it is not set here.
    """
    rule = "A variable is named like LOG_LEVEL: letters, digits and _."
    if given is None or isinstance(given, str | Mapping):
        return _by_name(given, _NAME, rule)
    values = _by_name([name.removesuffix(_PUBLIC) for name in given], _NAME, rule)
    return {name: value if name in given else PublicValue(value) for name, value in values.items()}


def _secrets_by_name(given: GivenSecrets | None) -> Mapping[str, str | InjectedSecret]:
    rule = "A secret is named like GITHUB_TOKEN: 1 to 32 of A-Z, 0-9 and _."
    if given is None or isinstance(given, str | Mapping):
        return _by_name(given, _SECRET_NAME, rule)
    hosts = {name: names.split(",") if at else [] for name, at, names in (item.partition("@") for item in given)}
    values = _by_name(tuple(hosts), _SECRET_NAME, rule)
    return {name: InjectedSecret(values[name], hosts=hosts[name]) if hosts[name] else values[name] for name in hosts}


_Value = TypeVar("_Value")


def _by_name(
    given: Mapping[str, _Value] | Collection[str] | None, names: re.Pattern[str], rule: str
) -> Mapping[str, _Value | str]:
    if isinstance(given, str):
        raise ConfigurationError("secrets and envs are mappings of names to values, or lists of names.")
    if not all(names.fullmatch(name) for name in given or ()):
        raise ConfigurationError(rule)  # without what was given: it may be a value in the place of a name
    if given is None or isinstance(given, Mapping):
        return given or {}
    missing = [name for name in given if name not in os.environ]
    if missing:
        raise ConfigurationError(f"{missing[0]} is not set in the environment of this process.")
    return {name: os.environ[name] for name in given}


def register_variable(registry: Registry, name: str, value: str, *, on_notice: Callable[[str], None]) -> Secret | None:
    """Register the value of a variable whose name says that it is secret.

    None: it does not say so, the value is a `PublicValue`, or it cannot be redacted.

    Args:
        on_notice: Told of a value that should be redacted, and cannot be.
    """
    if isinstance(value, PublicValue) or not looks_secret(name):
        return None
    try:
        return registry.register(name.upper()[:32], value)
    except WeakSecretError as exc:
        problem = str(exc)
    on_notice(f"{problem} It is passed on all the same, and is not redacted.")
    return None


def _held_secrets(registry: Registry, values: Mapping[str, str | InjectedSecret], held: list[Secret]) -> Environment:
    variables: dict[str, Secret] = {}
    injections: list[Injection] = []
    with _lock:
        for name, value in values.items():
            if isinstance(value, InjectedSecret):
                injections.append(value.registered(registry, name))
                _held(injections[-1].secret, held)
                variables[name] = Secret(name, injections[-1].placeholder)
            else:
                _check(name, value)
                variables[name] = _held(registry.register(name, value), held)
    return Environment(variables, injections)


def _held_variables(
    registry: Registry, values: Mapping[str, str], held: list[Secret], on_notice: Callable[[str], None]
) -> Environment:
    variables: dict[str, Secret] = {}
    with _lock:
        for name, value in values.items():
            _check(name, value)
            secret = register_variable(registry, name, value, on_notice=on_notice)
            variables[name] = Secret(name, value) if secret is None else _held(secret, held)
    return Environment(variables)


def _check(name: str, value: str) -> None:
    is_unicode = value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if "\0" in value or not is_unicode:
        raise ConfigurationError(f"The value of {name} cannot be that of a variable: it has a NUL, or is no Unicode.")


def _held(secret: Secret, held: list[Secret]) -> Secret:
    held.append(secret)
    _uses[secret] += 1
    return secret


def _release(registry: Registry, held: list[Secret]) -> None:
    with _lock:
        _uses.subtract(held)
        for secret in set(held):
            if not _uses[secret]:
                del _uses[secret]
                registry.retire(secret)
