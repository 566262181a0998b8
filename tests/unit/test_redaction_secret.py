"""A handle must not give its value to anything that prints, copies or serialises."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import secrets
import traceback
from collections.abc import Callable

import pydantic
import pytest
from rich.pretty import pretty_repr

from sandbox_tools.redaction import Redactor, Registry, Secret
from sandbox_tools.redaction.secret import reveal

VALUE = secrets.token_hex(20)
REGISTRY = Registry()
SECRET = REGISTRY.register("API_KEY", VALUE)
REDACTOR = Redactor(REGISTRY)


@dataclasses.dataclass
class Holder:
    key: object


def _frames_with_locals(value: object) -> str:
    try:
        raise ValueError(type(value).__name__)
    except ValueError as error:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


SINKS: dict[str, Callable[[object], object]] = {
    "repr": repr,
    "str": str,
    "format": lambda value: f"{value} {value!r} {value!s:>40} {value:>40}",
    "percent": lambda value: "%s %r" % (value, value),  # noqa: UP031 - one of the ways to print
    "json": json.dumps,
    "json with default": lambda value: json.dumps(value, default=str),
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": lambda value: copy.deepcopy({"key": value}),
    "vars": vars,
    "asdict": lambda value: dataclasses.asdict(Holder(value)),
    "state": lambda value: value.__getstate__(),
    "pydantic": lambda value: pydantic.RootModel[object](value).model_dump_json(),
    "rich": pretty_repr,
    "traceback with local variables": _frames_with_locals,
}


@pytest.mark.parametrize("holder", [SECRET, REGISTRY, REGISTRY.patterns(), REDACTOR, REDACTOR.stream()], ids=repr)
@pytest.mark.parametrize("sink", sorted(SINKS))
def test_no_sink_shows_the_value(sink: str, holder: object) -> None:
    try:
        shown = SINKS[sink](holder)
    except Exception as error:
        shown = error
    assert VALUE not in f"{shown} {shown!r}"


@pytest.mark.parametrize("holder", [SECRET, REGISTRY, REGISTRY.patterns(), REDACTOR, REDACTOR.stream()], ids=repr)
def test_pickling_is_refused(holder: object) -> None:
    with pytest.raises(TypeError, match="cannot be serialised"):
        pickle.dumps(holder)


def test_a_handle_has_a_name_and_a_copy_is_the_handle_itself() -> None:
    assert (SECRET.name, repr(SECRET)) == ("API_KEY", "<secret API_KEY>")
    assert copy.copy(SECRET) is SECRET
    assert copy.deepcopy([SECRET])[0] is SECRET


def test_no_attribute_of_a_handle_has_the_value() -> None:
    assert VALUE not in repr([getattr(SECRET, name) for name in dir(SECRET) if name != "__abstractmethods__"])


def test_a_handle_is_equal_to_itself_only() -> None:
    assert SECRET != VALUE
    assert Registry().register("API_KEY", VALUE) != SECRET


def test_the_name_of_a_handle_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        SECRET.name = "OTHER"  # type: ignore[misc]  # that it is refused is the test


def test_reveal_returns_the_value() -> None:
    assert reveal(SECRET) == VALUE
    assert isinstance(SECRET, Secret)
