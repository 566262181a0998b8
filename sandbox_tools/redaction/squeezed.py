"""The squeezed view of a text: only its ASCII letters and digits.

It sees through line wraps, spaces, colons, quotes and commas between the characters of a value, and through UTF-16.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, compress
from typing import Final

from sandbox_tools.redaction.matcher import Match

_KEPT: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DROPPED: Final = bytes(set(range(256)) - set(_KEPT))
_IS_KEPT: Final = bytes(byte in _KEPT for byte in range(256))
_BLOCK_BYTES: Final = 1024


def squeeze(data: bytes) -> bytes:
    """Return the squeezed view of `data`."""
    return data.translate(None, _DROPPED)


def size_of_last(count: int, data: bytes, most: int) -> int:
    """Return how many bytes at the end of `data` the last `count` bytes of its squeezed view come from, or as many of
    those as are in its last `most` bytes.
    """
    flags = data[-most:].translate(_IS_KEPT)
    return len(flags) - len(flags.rsplit(b"\1", count)[0])


class Places:
    """Where in a text the bytes of its squeezed view are. Works out only what is asked for."""

    __slots__ = ("_before", "_flags", "_known")

    def __init__(self, data: bytes) -> None:
        self._flags = data.translate(_IS_KEPT)
        counts = (self._flags.count(1, at, at + _BLOCK_BYTES) for at in range(0, len(data), _BLOCK_BYTES))
        self._before = list(accumulate(counts, initial=0))
        self._known: dict[int, tuple[int, ...]] = {}

    def __getitem__(self, index: int) -> int:
        block = bisect_right(self._before, index) - 1
        if block not in self._known:
            start = block * _BLOCK_BYTES
            flags = self._flags[start : start + _BLOCK_BYTES]
            self._known[block] = tuple(compress(range(start, start + len(flags)), flags))
        return self._known[block][index - self._before[block]]

    def of(self, match: Match) -> Match:
        """Translate a match in the squeezed view into the match in the text."""
        index, negative_size, name = match
        start = self[index]
        return start, start - self[index - negative_size - 1] - 1, name
