"""Finding many byte patterns at once, with the standard library only, and fast where nothing is found.

One machine word is read every `step` bytes. A pattern of at least `word + step` bytes contains one of these words
wherever it lies, so one set operation in C tells whether anything can be there; almost always nothing can. The cost
per byte does not depend on the number of patterns. Around a word that belongs to a pattern the candidates are looked
up one by one: that is linear as well, whatever the data is. Where it pays, Hyperscan tells before that nothing can be
there (see literals.py); what is found is the same.
"""

from __future__ import annotations

import sys
from array import array
from typing import Final, Literal, NamedTuple

from sandbox_tools.redaction.literals import Literals
from sandbox_tools.redaction.secret import Opaque

_BLOCK_WORDS: Final = 512
"""How much is looked at word by word when something is in it."""

_NEAR_SIZE: Final = 1_048_573
"""Entries of the table of words: a prime, so that every byte of a word counts. More words than this still work, but
more is held back."""

_WORD_CODES: Final[dict[int, Literal["I", "Q"]]] = {4: "I", 8: "Q"}


Match = tuple[int, int, str]
"""Where a pattern begins, its size as a negative number, and whose it is: sorted, the earliest and longest is first."""


class _Pattern(NamedTuple):
    data: bytes
    anchor: int
    name: str


class Matcher(Opaque):
    """A set of patterns. It may grow while it is in use, but forgets nothing.

    Patterns are added to a small one for each value; one that streams are searched with includes many of those. Most
    that the small one knows of words is in an array, because a set takes ten times the memory.

    Attributes:
        anchor_size: `word + step`, the size in bytes of the shortest pattern that it can hold and of a fragment.
        longest: Size of the longest pattern in bytes, 0 without patterns.
    """

    __slots__ = (
        "_anchored",
        "_fragments",
        "_literals",
        "_near",
        "_seeds",
        "_step",
        "_table",
        "_word",
        "anchor_size",
        "longest",
    )

    def __init__(self, *, word: int, step: int) -> None:
        self._word = word
        self._step = step
        self.anchor_size = word + step
        self.longest = 0
        self._fragments: dict[bytes, str] = {}
        """Names by pattern, for patterns of exactly the anchor size."""
        self._anchored: dict[bytes, tuple[_Pattern, ...]] = {}
        """Other patterns by the bytes at their anchor."""
        self._seeds: set[int] = set()
        """The words that may be the first to be read in a fragment or an anchor."""
        self._literals = Literals()
        """The anchors, and of each fragment a word that begins in its first `step` bytes: where none of these is, no
        pattern is."""
        self._near = array(_WORD_CODES[word])
        """All words of the patterns that were added here, at every address."""
        self._table = bytearray()
        """1 at the place of each word that was included: what ends with one may be the start of a pattern. Empty when
        nothing was."""

    def add(self, form: bytes, name: str) -> None:
        """Look for `form` as a whole. Only while nobody else uses this matcher."""
        # The middle of a secret is its least common part: prefixes and host names are at the ends.
        anchor = (len(form) - self.anchor_size) // 2
        key = form[anchor : anchor + self.anchor_size]
        self._anchored[key] = (*self._anchored.get(key, ()), _Pattern(form, anchor, name))
        self._literals.add([key])
        self._seeds.update(self._words(key[:-1]))  # at so many addresses that one of them is read
        self._near += self._words(form)
        self.longest = max(self.longest, len(form))

    def add_fragments(self, form: bytes, name: str) -> None:
        """Look for every piece of `form` that has the anchor size. Only while nobody else uses this matcher."""
        size = self.anchor_size
        self._fragments |= {form[at : at + size]: name for at in range(len(form) - size + 1)}
        self._literals.add(form[at : at + self._word] for at in range(0, len(form) - self._word + 1, self._step))
        words = self._words(form)
        self._seeds.update(words)
        self._near += words
        self.longest = max(self.longest, size)

    def include(self, other: Matcher) -> None:
        """Add the patterns of a matcher with the same word and step, to which they were added one by one.

        Others may search with this one meanwhile: the words, which lead to the patterns, come last.
        """
        if not other.longest:
            return
        table = self._table or bytearray(_NEAR_SIZE)
        for word in other._near:
            table[word % _NEAR_SIZE] = 1
        self._table = table
        self.longest = max(self.longest, other.longest)
        both = self._anchored.keys() & other._anchored.keys()
        clashes = {key: self._anchored[key] + other._anchored[key] for key in both}
        self._anchored |= other._anchored | clashes
        self._fragments |= other._fragments
        self._literals.add(other._literals.values)
        self._seeds |= other._seeds

    def find(self, data: bytes) -> list[Match]:
        """Return every pattern that is complete in `data`, in no particular order."""
        found: list[Match] = []
        if self._seeds and not self._literals.are_absent(data):
            for at in self._words_in(data):
                self._look_around(data, at, found)
        return found

    def pending(self, data: bytes) -> int:
        """Return a size: no included pattern that begins before the last so many bytes of `data` can end after them."""
        if not self._table:
            return 0
        word = self._word
        at = len(data) - word
        if at < 0:
            return len(data)
        first = max(-1, len(data) - self.longest)
        while at > first and self._table[int.from_bytes(data[at : at + word], sys.byteorder) % _NEAR_SIZE]:
            at -= 1
        return len(data) - at - 1

    def _words_in(self, data: bytes) -> list[int]:
        """Return where a word that is read may be the first of a fragment or an anchor."""
        size = len(data) // self._word * self._word
        words = memoryview(data)[:size].cast(_WORD_CODES[self._word])[:: self._step // self._word]
        if self._seeds.isdisjoint(words):  # nearly all time is spent in this call
            return []
        places: list[int] = []
        for first in range(0, len(words), _BLOCK_WORDS):
            block = words[first : first + _BLOCK_WORDS]
            if not self._seeds.isdisjoint(block):
                places += [(first + index) * self._step for index, word in enumerate(block) if word in self._seeds]
        return places

    def _look_around(self, data: bytes, at: int, found: list[Match]) -> None:
        """Add the patterns in which the word at `at` is the first to be read of a fragment or an anchor."""
        for start in range(max(0, at - self._step + 1), at + 1):
            key = data[start : start + self.anchor_size]
            if key in self._fragments:
                found.append((start, -self.anchor_size, self._fragments[key]))
            for form, anchor, name in self._anchored.get(key, ()):
                if start >= anchor and data.startswith(form, start - anchor):
                    found.append((start - anchor, -len(form), name))

    def _words(self, form: bytes) -> array[int]:
        """Return the words of `form` at every address, aligned or not."""
        words = array(_WORD_CODES[self._word])
        for shift in range(self._word):
            words.frombytes(form[shift : shift + (len(form) - shift) // self._word * self._word])
        return words
