"""The output budget: what of a long text a model is shown. Pure; redact first, because a cut can halve a secret."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Final

DEFAULT_MAX_CHARS: Final = 20_000
"""About 5,000 tokens: enough for a long traceback or a test run, a small part of a model's context."""

MIN_MAX_CHARS: Final = 256
"""Room for the notice, whatever its numbers are, and for some text around it."""

_HEAD_SHARE: Final = 0.6
_NEAR_SHARE: Final = 0.1
"""How much of the head or the tail may be given up to cut at the end of a line."""

_REPLACEMENT: Final = "\ufffd"
_REPLACEMENT_BYTES: Final = _REPLACEMENT.encode()


class OutputWindow:
    """Keeps the start and the end of a text that arrives in pieces, in bounded memory.

    Attributes:
        max_chars: The most that `render` returns.
        total_chars: Size in characters of all that was fed or skipped.
        total_lines: Line ends ("\\n") in all that was fed or skipped.
    """

    def __init__(self, max_chars: int = DEFAULT_MAX_CHARS) -> None:
        """Make an empty window.

        Raises:
            ValueError: `max_chars` is below `MIN_MAX_CHARS`.
        """
        self.max_chars: Final = _checked(max_chars)
        self.total_chars = 0
        self.total_lines = 0
        self._head = ""
        self._tail = ""

    def feed(self, text: str) -> None:
        """Take a piece of the text."""
        self.total_chars += len(text)
        self.total_lines += text.count("\n")
        if len(self._head) < self.max_chars:
            self._head += text[: self.max_chars - len(self._head)]
        self._tail += text[-self.max_chars :]
        if len(self._tail) > 2 * self.max_chars:  # not at every piece: that would copy too often
            self._tail = self._tail[-self.max_chars :]

    @property
    def head_is_full(self) -> bool:
        """Whether the start needs no more; only the end does, and the totals."""
        return len(self._head) == self.max_chars

    def skip(self, chars: int, lines: int) -> None:
        """Say how much of the text is not fed, between what was and what will be. Only while the head is full."""
        self.total_chars += chars
        self.total_lines += lines
        self._tail = ""

    def render(self, max_chars: int | None = None, clean: Callable[[str], str] = str) -> str:
        """Return the text if it fits, else its start, a line that says what was left out, and its end.

        Args:
            max_chars: Most characters of the result, the notice included; no more than the window's own.
            clean: Changes the start and the end before they are cut, while the window still holds more of them.

        Raises:
            ValueError: `max_chars` is below `MIN_MAX_CHARS`.
        """
        limit = min(self.max_chars, _checked(max_chars)) if max_chars is not None else self.max_chars
        return fit(clean(self._head), limit) if self.total_chars <= limit else self._cut(limit, clean)

    def _cut(self, limit: int, clean: Callable[[str], str]) -> str:
        # At least two lines: "lines" is longer than "line".
        longest_notice = self._notice(self.total_chars, max(self.total_lines, 2))
        room = limit - len(longest_notice) - len("\n\n")
        start, end = clean(self._head), clean(self._tail)
        head = _head(start, int(room * _HEAD_SHARE))
        if start.startswith("\n", len(head)):
            head += "\n"  # the line end that would be put there anyway
        tail = _tail(end, room - int(room * _HEAD_SHARE))
        omitted_lines = self.total_lines - head.count("\n") - tail.count("\n")
        notice = self._notice(self.total_chars - len(head) - len(tail), omitted_lines)
        line_end = "" if head.endswith("\n") else "\n"
        return f"{head}{line_end}{notice}\n{tail}"

    def _notice(self, chars: int, lines: int) -> str:
        which = f"{chars:,} of {self.total_chars:,} characters ({lines:,} {'line' if lines == 1 else 'lines'})"
        return f"[... {which} omitted; the start and the end are shown ...]"


def fit(text: str, max_chars: int = DEFAULT_MAX_CHARS) -> str:
    """Return `text` if it has at most `max_chars` characters, else its start, a notice and its end.

    Raises:
        ValueError: `max_chars` is below `MIN_MAX_CHARS`.
    """
    if len(text) <= _checked(max_chars):
        return text
    window = OutputWindow(max_chars)
    window.feed(text)
    return window.render()


class TextDecoder:
    """Decodes UTF-8 that is cut anywhere; what is not UTF-8 becomes U+FFFD.

    Attributes:
        replaced: How many U+FFFD stand for bytes that could not be decoded.
    """

    def __init__(self) -> None:
        self.replaced = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._before = b""

    def feed(self, data: bytes) -> str:
        """Take a piece of the bytes and return the text that is complete."""
        return self._decode(data, final=False)

    def close(self) -> str:
        """End the bytes and return the rest of the text."""
        return self._decode(b"", final=True)

    def _decode(self, data: bytes, *, final: bool) -> str:
        text = self._decoder.decode(data, final)
        if _REPLACEMENT in text:
            # One that was in the input is no replacement; it may have begun in the piece before.
            self.replaced += text.count(_REPLACEMENT) - (self._before + data).count(_REPLACEMENT_BYTES)
        self._before = (self._before + data[-2:])[-2:]
        return text


def _checked(max_chars: int) -> int:
    if max_chars < MIN_MAX_CHARS:
        raise ValueError(f"max_chars must be at least {MIN_MAX_CHARS}.")
    return max_chars


def _head(text: str, size: int) -> str:
    end = text.rfind("\n", size - int(size * _NEAR_SHARE), size) + 1 or size
    return text[: end - 1 if _splits_pair(text, end) else end]


def _tail(text: str, size: int) -> str:
    start = len(text) - size
    if start <= 0:
        return text
    # A line that begins exactly at the cut needs no other.
    start = text.find("\n", start - 1, start + int(size * _NEAR_SHARE)) + 1 or start
    return text[start + 1 if _splits_pair(text, start) else start :]


def _splits_pair(text: str, at: int) -> bool:
    """Whether `at` is between the halves of a surrogate pair (two code points in text that came from UTF-16)."""
    return "\ud800" <= text[at - 1] <= "\udbff" and "\udc00" <= text[at] <= "\udfff"
