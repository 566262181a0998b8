"""The JSON lines between a code context and `guest/kernel.py`, which describes them.

User code runs in the kernel's process, so every line is hostile input: bounded before it is kept, and checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sandbox_tools.wire.envelope import WireError, parse_json_object
from sandbox_tools.wire.files import whole_number
from sandbox_tools.wire.process import decode_base64

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""Longest line that we keep, in bytes. The kernel cuts what it sends to 7 MiB."""

YIELDED: Final = 75
"""Exit code of a kernel that ran nothing, because another one has its lock."""

TEXT_FORMS: Final = frozenset(
    ("text/plain", "text/html", "text/markdown", "text/latex", "image/svg+xml", "application/json")
)
IMAGE_FORMS: Final = frozenset(("image/png", "image/jpeg"))

_MAX_QUOTES: Final = 64
_MAX_OBJECTS: Final = 4
"""What a line may hold. All content is base64, so the structure is small; parsed, 8 MiB of "[]," would take 20 times
that memory."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The kernel runs."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A run has had its turn."""


@dataclass(frozen=True, slots=True)
class Printed:
    """Output of user code, of its threads, or of a process that it started. It is not told whose."""

    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True, slots=True)
class Shown:
    """A result, in the forms that it has."""

    text: Mapping[str, str]
    images: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Raised:
    """The exception that ended a run."""

    name: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a run. `interrupted`: an interrupt reached it."""

    interrupted: bool


@dataclass(frozen=True, slots=True)
class OfRun:
    """An event of a run.

    Attributes:
        number: Counts the events of the run from 1; a higher one than the next means that some are lost.
    """

    run_id: object
    number: int
    event: Begun | Printed | Shown | Raised | Done


KernelEvent = Ready | OfRun


class LineDecoder:
    """Incremental decoder of lines; any chunking of the same bytes gives the same lines.

    Args:
        from_the_middle: The first bytes may be the rest of a line: they are left out up to the first line end.
    """

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES, from_the_middle: bool = False) -> None:
        self._max_line_bytes = max_line_bytes
        self._from_the_middle = from_the_middle
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each line that `data` completes, without its end.

        Raises:
            WireError: A line is longer than `max_line_bytes`.
        """
        if self._from_the_middle:
            _, found, data = data.partition(b"\n")
            self._from_the_middle = not found
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._keep(end)
            yield bytes(self._buffer)
            self._buffer.clear()
        self._keep(rest)

    def _keep(self, piece: bytes) -> None:
        if len(self._buffer) + len(piece) > self._max_line_bytes:
            raise WireError(f"a line has more than {self._max_line_bytes} bytes")
        self._buffer += piece


def run_request(run_id: str, code: str, *, after: int = 0) -> bytes:
    """Return the line that runs `code`, or asks for the events after number `after` of a run that it began before."""
    return _line({"op": "run", "id": run_id, "code": code, "after": after})


def interrupt_request(run_id: str) -> bytes:
    """Return the line that interrupts a run."""
    return _line({"op": "interrupt", "id": run_id})


def event_from_line(line: bytes) -> KernelEvent | None:
    """Read one line; None for an event that we do not know.

    Raises:
        WireError: It is not an event, or a known one of the wrong shape.
    """
    if not line:
        return None
    if b"[" in line or line.count(b"{") > _MAX_OBJECTS or line.count(b'"') > _MAX_QUOTES:
        raise WireError("a line of the kernel has too much structure")
    message = parse_json_object(line, what="a line of the kernel")
    name = message.get("ev")
    if name == "ready":
        return Ready()
    event = _event_of_run(name, message)
    return None if event is None else OfRun(message.get("id"), whole_number(message.get("n")), event)


def _event_of_run(name: object, message: Mapping[str, object]) -> Begun | Printed | Shown | Raised | Done | None:
    if name == "out":
        return _printed(message)
    if name == "result":
        return _shown(message)
    if name == "error":
        return Raised(*(_text(message.get(key)) for key in ("name", "message", "traceback")))
    if name == "done":
        return Done(message.get("interrupted") is True)
    return Begun() if name == "begun" else None


def _printed(message: Mapping[str, object]) -> Printed:
    data = decode_base64(message.get("b64"))
    return Printed("stderr" if message.get("stream") == "stderr" else "stdout", data)


def _shown(message: Mapping[str, object]) -> Shown:
    text = {mime: _text(form) for mime, form in _forms(message.get("text")) if mime in TEXT_FORMS}
    images = {mime: decode_base64(form) for mime, form in _forms(message.get("images")) if mime in IMAGE_FORMS}
    return Shown(text, images)


def _forms(value: object) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        raise WireError("forms of a result are not an object")
    return list(value.items())


def _text(value: object) -> str:
    return decode_base64(value).decode("utf-8", "replace")


def _line(message: Mapping[str, object]) -> bytes:
    """Between two line ends: what stands before may be half a request whose connection broke."""
    return b"\n" + json.dumps(message).encode("ascii") + b"\n"
