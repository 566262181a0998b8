"""All patterns of all registered values, in the two views that a text is read in: as it is, and squeezed.

The squeezed view keeps only ASCII letters and digits, so it sees through line wraps, spaces, colons, quotes and commas
between the characters of a value, and through UTF-16.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import compress
from typing import Final

from sandbox_tools.redaction.forms import forms_of
from sandbox_tools.redaction.matcher import Match, Matcher
from sandbox_tools.redaction.secret import Opaque

SPREAD_BYTES: Final = 1024
"""How far the characters of one squeezed piece may be spread; bounds what a stream must hold back."""

_RECENT_BYTES: Final = 64
_WORD: Final = 8
"""Twice this is the size of a fragment. Smaller pieces of a value would also be found in ordinary text."""

_SHORT_WORD: Final = 4
"""Twice this is the size of the smallest value that can be registered."""

_KEPT: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DROPPED: Final = bytes(set(range(256)) - set(_KEPT))
_IS_KEPT: Final = bytes(byte in _KEPT for byte in range(256))


class Patterns(Opaque):
    """What to look for. Immutable."""

    __slots__ = ("_long", "_short", "_squeezed")

    def __init__(self, *, long: Matcher, short: Matcher, squeezed: Matcher) -> None:
        self._long = long
        self._short = short
        self._squeezed = squeezed

    @classmethod
    def of(cls, name: str, value: str) -> Patterns:
        """Return the patterns of one value."""
        long, short, squeezed = Matcher(_WORD), Matcher(_SHORT_WORD), Matcher(_WORD)
        forms = forms_of(value)
        for form in forms.whole:
            (long if len(form) >= long.anchor_size else short).add(form, name)
        for form in forms.fragments:
            long.add_fragments(form, name)
            squeezed.add_fragments(_squeeze(form), name)
        return cls(long=long, short=short, squeezed=squeezed)

    @classmethod
    def merged(cls, parts: Iterable[Patterns]) -> Patterns:
        """Return the patterns of several values together."""
        parts = tuple(parts)
        return cls(
            long=Matcher.merged(_WORD, (part._long for part in parts)),
            short=Matcher.merged(_SHORT_WORD, (part._short for part in parts)),
            squeezed=Matcher.merged(_WORD, (part._squeezed for part in parts)),
        )

    def find(self, data: bytes) -> list[Match]:
        """Return every match in `data`, the earliest first and of those the longest first."""
        matches = {*self._long.find(data), *self._short.find(data), *self._find_squeezed(data)}
        return sorted(matches, key=lambda match: (match.start, -match.end, match.name))

    def pending(self, data: bytes) -> int:
        """Return a size: no match that begins before the last so many bytes of `data` can end after them."""
        return max(self._long.pending(data), self._short.pending(data), self._pending_squeezed(data))

    def _find_squeezed(self, data: bytes) -> Iterator[Match]:
        matches = tuple(self._squeezed.find(_squeeze(data))) if self._squeezed.longest else ()
        if not matches:
            return
        places = tuple(compress(range(len(data)), data.translate(_IS_KEPT)))
        for start, end, name in matches:
            first, last = places[start], places[end - 1]
            if last - first < SPREAD_BYTES:
                yield Match(first, last + 1, name)

    def _pending_squeezed(self, data: bytes) -> int:
        if not self._squeezed.longest:
            return 0
        recent = _squeeze(data[-_RECENT_BYTES:])
        # With a whole word in the recent bytes that no pattern contains, what is pending began after that word did.
        spread = len(recent) < _WORD or self._squeezed.pending(recent) >= _WORD
        return min(len(data), SPREAD_BYTES if spread else _RECENT_BYTES)


def _squeeze(data: bytes) -> bytes:
    return data.translate(None, _DROPPED)
