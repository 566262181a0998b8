"""Secrets that never enter a sandbox: it holds a placeholder, which the proxy outside swaps for the value."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from sandbox_tools.errors import ConfigurationError
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.redaction.secret import Opaque, reveal

_HOST: Final = re.compile(r"(?=.{1,253})[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")

_HEADER: Final = re.compile(r"(?=.{1,64})[a-z0-9]+(-[a-z0-9]+)*")

_VALUE: Final = re.compile(r"[\x21-\x7e]+")

_NEVER: Final = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""They are between a program and a proxy, or the proxy writes them anew."""


class InjectedSecret(Opaque):
    """A value that commands use without any code in the sandbox having it; for sandboxes on this machine only.

    A command that names it has a placeholder as its variable. When that is in one of the named headers of a request for
    `http://HOST`, the proxy sends the value in its place, over https. Anywhere else the request is refused.

    Args:
        value: Printable ASCII without spaces.
        hosts: Names, exactly; a wildcard would let the value go where nobody looked.
        headers: Names. The password of Basic authentication is found as well.

    Raises:
        ConfigurationError: One of them cannot be used. The message does not show the value.
    """

    __slots__ = ("_headers", "_hosts", "_secret")

    def __init__(self, value: str, *, hosts: Collection[str], headers: Collection[str] = ("Authorization",)) -> None:
        self._secret = Secret("INJECTED", value)
        self._hosts = _names(hosts, _HOST, "hosts", "api.github.com")
        self._headers = _names(headers, _HEADER, "headers", "Authorization")
        if not _VALUE.fullmatch(value):
            raise ConfigurationError("The value of an InjectedSecret is printable ASCII without spaces.")
        if self._headers & _NEVER:
            raise ConfigurationError("An InjectedSecret cannot be in a header that the proxy writes itself.")

    def registered(self, registry: Registry, name: str) -> Injection:
        """Register the value under a name, and make a placeholder for it."""
        return Injection(
            name=name,
            placeholder=f"sandbox_tools_secret_{secrets.token_hex(24)}",
            secret=registry.register(name, reveal(self._secret)),
            hosts=self._hosts,
            headers=self._headers,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """What a proxy swaps.

    Attributes:
        placeholder: What the sandbox holds. Worth nothing outside.
        hosts: Lower-case names.
        headers: Lower-case names.
    """

    name: str
    placeholder: str = field(repr=False)
    secret: Secret
    hosts: frozenset[str]
    headers: frozenset[str]

    def __str__(self) -> str:
        """Say what it is good for, to a model."""
        hosts = " or ".join(f"http://{host}" for host in sorted(self.hosts))
        return f"{self.name} (only in {' or '.join(sorted(self.headers))} of requests for {hosts}, sent as https)"


def _names(given: Collection[str], rule: re.Pattern[str], what: str, example: str) -> frozenset[str]:
    names = frozenset(() if isinstance(given, str) else (name.lower() for name in given))
    if not names or not all(rule.fullmatch(name) for name in names):
        raise ConfigurationError(f"The {what} of an InjectedSecret are a list of names such as {example}.")
    return names
