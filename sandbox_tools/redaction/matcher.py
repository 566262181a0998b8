"""Finding many byte patterns at once, with the standard library only, and fast where nothing is found.

A pattern of `2 * word` bytes contains a whole word at an aligned address wherever it lies. So the data is read as
machine words, and one set operation in C tells whether any of them belongs to a pattern; almost always none does. The
cost per byte does not depend on the number of patterns. Around a word that does, the candidates are looked up one by
one: that is linear as well, whatever the data is.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from sandbox_tools.redaction.secret import Opaque

_WORD_CODES: Final = {4: "I", 8: "Q"}


class Match(NamedTuple):
    """Where a pattern is, `start` included and `end` not, and whose it is."""

    start: int
    end: int
    name: str


class _Pattern(NamedTuple):
    data: bytes
    anchor: int
    name: str


class Matcher(Opaque):
    """A set of patterns. Immutable once it is in use.

    Attributes:
        anchor_size: `2 * word`, the size in bytes of the shortest pattern that it can hold and of a fragment.
        longest: Size of the longest pattern in bytes, 0 without patterns.
    """

    __slots__ = ("_anchored", "_fragments", "_inner", "_seeds", "_word", "anchor_size", "longest")

    def __init__(self, word: int) -> None:
        self._word = word
        self.anchor_size = 2 * word
        self.longest = 0
        self._fragments: dict[bytes, str] = {}
        """Names by pattern, for patterns of exactly the anchor size."""
        self._anchored: dict[bytes, tuple[_Pattern, ...]] = {}
        """Other patterns by the bytes at their anchor."""
        self._seeds: set[int] = set()
        """The words that may be the first aligned one in a fragment or an anchor."""
        self._inner: set[int] = set()
        """All other words of patterns: what ends with one may be the start of a pattern."""

    def add(self, form: bytes, name: str) -> None:
        """Look for `form` as a whole. Only while nobody else uses this matcher."""
        # The middle of a secret is its least common part: prefixes and host names are at the ends.
        anchor = (len(form) - self.anchor_size) // 2
        key = form[anchor : anchor + self.anchor_size]
        self._anchored[key] = (*self._anchored.get(key, ()), _Pattern(form, anchor, name))
        self._seeds |= self._words(key)
        self._inner |= self._words(form)
        self.longest = max(self.longest, len(form))

    def add_fragments(self, form: bytes, name: str) -> None:
        """Look for every piece of `form` that has the anchor size. Only while nobody else uses this matcher."""
        size = self.anchor_size
        self._fragments |= {form[at : at + size]: name for at in range(len(form) - size + 1)}
        self._seeds |= self._words(form)
        self.longest = max(self.longest, size)

    @classmethod
    def merged(cls, word: int, parts: Iterable[Matcher]) -> Matcher:
        """Return one matcher with the patterns of all `parts`."""
        whole = cls(word)
        for part in parts:
            both = whole._anchored.keys() & part._anchored.keys()
            clashes = {key: whole._anchored[key] + part._anchored[key] for key in both}
            whole._anchored |= part._anchored | clashes
            whole._fragments |= part._fragments
            whole._seeds |= part._seeds
            whole._inner |= part._inner
            whole.longest = max(whole.longest, part.longest)
        return whole

    def find(self, data: bytes) -> Iterator[Match]:
        """Yield every pattern that is complete in `data`, in no particular order."""
        if not self._seeds:
            return
        # Faster than iterating over a memoryview; most of all time is spent in these two calls.
        words = struct.unpack_from(f"{len(data) // self._word}{_WORD_CODES[self._word]}", data)
        if self._seeds.isdisjoint(words):
            return
        for index, word in enumerate(words):
            if word in self._seeds:
                yield from self._around(data, index * self._word)

    def pending(self, data: bytes) -> int:
        """Return a size: no pattern that begins before the last so many bytes of `data` can end after them."""
        most = max(min(len(data), self.longest - 1), 0)
        size = min(most, self._word - 1)
        while size < most and self._is_inside(data, len(data) - size - 1):
            size += 1
        return size

    def _around(self, data: bytes, at: int) -> Iterator[Match]:
        """Yield the patterns in which the word at `at` is the first aligned one of a fragment or an anchor."""
        for start in range(max(0, at - self._word + 1), at + 1):
            key = data[start : start + self.anchor_size]
            if key in self._fragments:
                yield Match(start, start + self.anchor_size, self._fragments[key])
            for form, anchor, name in self._anchored.get(key, ()):
                if start >= anchor and data.startswith(form, start - anchor):
                    yield Match(start - anchor, start - anchor + len(form), name)

    def _is_inside(self, data: bytes, at: int) -> bool:
        word = int.from_bytes(data[at : at + self._word], sys.byteorder)
        return word in self._seeds or word in self._inner

    def _words(self, form: bytes) -> set[int]:
        """Return the words of `form` at every address, aligned or not."""
        code = _WORD_CODES[self._word]
        counts = [(len(form) - shift) // self._word for shift in range(self._word)]
        return {
            word for shift, count in enumerate(counts) for word in struct.unpack_from(f"{count}{code}", form, shift)
        }
