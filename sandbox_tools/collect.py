"""Output on its way to the model, piece by piece: bytes -> redact -> decode -> budget. Memory is bounded.

The order is the point: a budget that cuts first could halve a secret, and half a secret is not recognised.
"""

from __future__ import annotations

from typing import Final

from sandbox_tools.output import MIN_MAX_CHARS, OutputWindow, TextDecoder
from sandbox_tools.redaction import Redactor
from sandbox_tools.runtime import OutputStream

_STREAMS: Final[tuple[OutputStream, ...]] = ("stdout", "stderr")

_STDERR_SHARE: Final = 0.4
"""Part of the budget that stderr gets when stdout and stderr are both too long for it."""

_RESERVE_CHARS: Final = 400
"""Kept free for what a tool writes around the output: how it ended, headings, how to read on."""


class ProcessOutput:
    """stdout and stderr of one process. Implements `tools.base.CollectedOutput`."""

    def __init__(self, redactor: Redactor, max_chars: int) -> None:
        self._budget = max(max_chars - _RESERVE_CHARS, max_chars // 2)
        self._texts = {stream: _RedactedText(redactor) for stream in _STREAMS}
        self._windows = {stream: OutputWindow(self._budget) for stream in _STREAMS}

    def feed(self, stream: OutputStream, data: bytes) -> None:
        """Take a piece of output; an `OutputSink`."""
        self._windows[stream].feed(self._texts[stream].feed(data))

    def render(self) -> str:
        """End the streams and return both, each under its heading; "" when there was no output."""
        for stream in _STREAMS:
            self._windows[stream].feed(self._texts[stream].close())
        parts = []
        for stream, budget in zip(_STREAMS, self._budgets(), strict=True):
            if self._windows[stream].total_chars:
                text = self._windows[stream].render(max(budget, MIN_MAX_CHARS))
                parts.append(f"--- {stream} ---\n{text}" + ("" if text.endswith("\n") else "\n"))
        if any(text.undecodable for text in self._texts.values()):
            parts.append("(Some of the output is not UTF-8; those bytes are shown as \N{REPLACEMENT CHARACTER}.)")
        return "".join(parts).rstrip("\n")

    def _budgets(self) -> tuple[int, int]:
        """Give what one stream leaves to the other."""
        out, err = (self._windows[stream].total_chars for stream in _STREAMS)
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


class _RedactedText:
    """Bytes in, redacted text out."""

    def __init__(self, redactor: Redactor) -> None:
        self._redact = redactor.stream()
        self._decode = TextDecoder()

    @property
    def undecodable(self) -> bool:
        return self._decode.replaced > 0

    def feed(self, data: bytes) -> str:
        return self._decode.feed(self._redact.feed(data))

    def close(self) -> str:
        return self._decode.feed(self._redact.close()) + self._decode.close()


def _lines(text: str) -> list[str]:
    """Lines end with a line feed only; `str.splitlines` knows ten more ends."""
    parts = text.split("\n")
    return [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
