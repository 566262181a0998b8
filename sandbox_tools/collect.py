"""Output on its way to the model, piece by piece: bytes -> redact -> decode -> budget. Memory is bounded.

The order is the point: a budget that cuts first could halve a secret, and half a secret is not recognised. What is so
far from both ends that it cannot be shown is not redacted but dropped.
"""

from __future__ import annotations

from typing import Final

from sandbox_tools.output import MIN_MAX_CHARS, OutputWindow, TextDecoder
from sandbox_tools.redaction import Redactor
from sandbox_tools.runtime import OutputStream

_STREAMS: Final[tuple[OutputStream, ...]] = ("stdout", "stderr")

_STDERR_SHARE: Final = 0.4
"""Part of the budget that stderr gets when stdout and stderr are both too long for it."""

_MAX_CHAR_BYTES: Final = 4
_CONTINUATION: Final = bytes(range(0x80, 0xC0))
"""The bytes of a character in UTF-8 after its first."""

_RESERVE_CHARS: Final = 400
"""Kept free for what a tool writes around the output: how it ended, headings, how to read on."""


class ProcessOutput:
    """stdout and stderr of one process. Implements `tools.base.CollectedOutput`."""

    def __init__(self, redactor: Redactor, max_chars: int) -> None:
        self._budget = max(max_chars - _RESERVE_CHARS, max_chars // 2)
        self._redactor = redactor
        self._ends = {stream: _BothEnds(redactor, self._budget) for stream in _STREAMS}

    def feed(self, stream: OutputStream, data: bytes) -> None:
        """Take a piece of output; an `OutputSink`."""
        self._ends[stream].feed(data)

    def render(self) -> str:
        """End the streams and return both, each under its heading; "" when there was no output."""
        return self._rendered([self._ends[stream].close() for stream in _STREAMS])

    def take(self) -> str:
        """As `render`, for what came since the last `take`, of a process that goes on."""
        return self._rendered([self._ends[stream].take() for stream in _STREAMS])

    def _rendered(self, windows: list[OutputWindow]) -> str:
        parts = []
        for stream, window, budget in zip(_STREAMS, windows, self._budgets(*windows), strict=True):
            if window.total_chars:
                text = window.render(max(budget, MIN_MAX_CHARS), self._redactor.output)
                parts.append(f"--- {stream} ---\n{text}" + ("" if text.endswith("\n") else "\n"))
        if any(ends.undecodable for ends in self._ends.values()):
            parts.append("(Some of the output is not UTF-8; those bytes are shown as \N{REPLACEMENT CHARACTER}.)")
        return "".join(parts).rstrip("\n")

    def _budgets(self, stdout: OutputWindow, stderr: OutputWindow) -> tuple[int, int]:
        """Give what one stream leaves to the other."""
        out, err = stdout.total_chars, stderr.total_chars
        err_budget = max(int(self._budget * _STDERR_SHARE), self._budget - out)
        return max(self._budget - min(err, err_budget), self._budget - err_budget), err_budget


class FilePage:
    """Some lines of a text file. Implements `tools.base.CollectedPage`."""

    def __init__(self, redactor: Redactor, max_chars: int, *, first: int, limit: int | None) -> None:
        self._text = _RedactedText(redactor)
        self._budget = max(max_chars - _RESERVE_CHARS, max_chars // 2)
        self._first = first
        self._limit = limit
        self._taken: list[str] = []
        self._chars = 0
        self._line = 1
        self._line_is_empty = True

    @property
    def lines(self) -> int:
        """Lines seen so far."""
        return self._line - (1 if self._line_is_empty else 0)

    def feed(self, data: bytes) -> bool:
        """Take a piece of the file; True when no more is needed."""
        return self._take(self._text.feed(data))

    def render(self, *, size: int | None, at_end: bool) -> str | None:
        """Return the lines and, when there is more, how to read on; None when the file ends before them."""
        if at_end:
            at_end = not self._take(self._text.close())
        text = "".join(self._taken)
        if not text:
            return "(empty file)" if self.lines == 0 and self._first == 1 else None
        notes = [] if at_end and len(text) <= self._budget else [self._read_on(text, size)]
        if len(text) > self._budget:
            text = self._cut(text)
        if self._text.undecodable:
            notes.append("(Some of the file is not UTF-8; those bytes are shown as \N{REPLACEMENT CHARACTER}.)")
        return text if not notes else text + ("" if text.endswith("\n") else "\n") + "\n".join(notes)

    def _take(self, text: str) -> bool:
        """Take the wanted lines of `text`; True when there is more than the page holds."""
        for line in _lines(text):
            if self._limit is not None and self._line >= self._first + self._limit:
                return True
            if self._line >= self._first:
                self._taken.append(line)
                self._chars += len(line)
            self._line_is_empty = line.endswith("\n")
            self._line += self._line_is_empty
            if self._chars > self._budget:
                return True
        return False

    def _cut(self, text: str) -> str:
        """Return the whole lines that fit; a first line that does not fit alone is cut."""
        end = text.rfind("\n", 0, self._budget) + 1
        return text[: end or self._budget]

    def _read_on(self, text: str, size: int | None) -> str:
        of_size = "" if size is None else f" of a file of {size:,} bytes"
        shown = self._cut(text) if len(text) > self._budget else text
        lines = shown.count("\n")
        if not shown.endswith("\n"):
            return (
                f"[... line {self._first + lines:,}{of_size} is too long to show whole; its first "
                f"{len(shown):,} characters are shown. See the rest with exec, e.g. `cut -c` or `jq` ...]"
            )
        last = self._first + lines - 1
        return f"[... lines {self._first:,} to {last:,}{of_size} are shown; read on with offset={last + 1} ...]"


class _BothEnds:
    """The start and the end of one stream, redacted. What is between them is only counted, as it was written.

    While the end follows the start without a gap, both pass through one redactor. Once there is a gap, the end is
    redacted by itself, from a margin before it that is as long as what a registered value can cover.
    """

    def __init__(self, redactor: Redactor, max_chars: int) -> None:
        self._redactor = redactor
        self._text = _RedactedText(redactor)
        self._window = OutputWindow(max_chars)
        self._end = bytearray()
        """What came after the head was full, not redacted; its last part once there is a gap."""
        self._has_gap = False
        self._chars = 0
        self._lines = 0
        self._head_undecodable = False

    @property
    def undecodable(self) -> bool:
        """Whether a byte that may be shown is not UTF-8."""
        return self._text.undecodable or self._head_undecodable

    def feed(self, data: bytes) -> None:
        self._chars += _count_chars(data)
        self._lines += data.count(b"\n")
        if not self._window.head_is_full:
            self._window.feed(self._text.feed(data))
            return
        self._end += data
        if len(self._end) > 2 * self._end_bytes():  # not at every piece: that would copy too often
            del self._end[: -self._end_bytes()]
            self._has_gap = True

    def close(self) -> OutputWindow:
        """End the stream and return what of it can be shown."""
        self._show_end(final=True)
        return self._window

    def take(self) -> OutputWindow:
        """Return what of it can be shown by now, and begin anew. What may be the start of a secret is kept back."""
        self._show_end(final=False)
        taken, self._window = self._window, OutputWindow(self._window.max_chars)
        self._has_gap = False
        self._chars = self._lines = 0
        return taken

    def _show_end(self, *, final: bool) -> None:
        if self._has_gap:
            self._head_undecodable = self.undecodable
            self._text = _RedactedText(self._redactor, after_gap=True)
        end = self._text.feed(bytes(self._end)) + (self._text.close() if final else self._text.peek())
        self._end.clear()
        if self._has_gap:
            self._skip_to(end)
        self._window.feed(end)

    def _skip_to(self, end: str) -> None:
        lines = self._lines - self._window.total_lines - end.count("\n")
        self._window.skip(self._chars - self._window.total_chars - len(end), lines)

    def _end_bytes(self) -> int:
        return _MAX_CHAR_BYTES * self._window.max_chars + self._redactor.margin


def _count_chars(data: bytes) -> int:
    return len(data) if data.isascii() else len(data.translate(None, _CONTINUATION))


class _RedactedText:
    """Bytes in, redacted text out."""

    def __init__(self, redactor: Redactor, *, after_gap: bool = False) -> None:
        self._redact = redactor.stream(after_gap=after_gap)
        self._decode = TextDecoder()
        self._in_character = after_gap

    @property
    def undecodable(self) -> bool:
        return self._decode.replaced > 0

    def feed(self, data: bytes) -> str:
        return self._decode.feed(self._whole(self._redact.feed(data)))

    def close(self) -> str:
        return self._decode.feed(self._whole(self._redact.close())) + self._decode.close()

    def peek(self) -> str:
        """Return what is held back and too little to tell a secret; the stream goes on."""
        return self._decode.feed(self._whole(self._redact.peek()))

    def _whole(self, data: bytes) -> bytes:
        """Leave out the rest of a character that began in the gap."""
        if self._in_character:
            data = data.lstrip(_CONTINUATION)
            self._in_character = not data
        return data


def _lines(text: str) -> list[str]:
    """Lines end with a line feed only; `str.splitlines` knows ten more ends."""
    parts = text.split("\n")
    return [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
