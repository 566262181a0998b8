"""All patterns of all registered values, in the two views that a text is read in: as it is, and squeezed.

The squeezed view keeps only ASCII letters and digits, so it sees through line wraps, spaces, colons, quotes and commas
between the characters of a value, and through UTF-16.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress
from typing import Final

from sandbox_tools.redaction.forms import forms_of
from sandbox_tools.redaction.matcher import Match, Matcher
from sandbox_tools.redaction.secret import Opaque

SPREAD_BYTES: Final = 1024
"""How far the characters of one squeezed match may be spread; bounds what a stream must hold back."""

_RECENT_BYTES: Final = 64
_WORD: Final = 8

_KEPT: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DROPPED: Final = bytes(set(range(256)) - set(_KEPT))
_IS_KEPT: Final = bytes(byte in _KEPT for byte in range(256))


class Patterns(Opaque):
    """What to look for. Immutable once it is in use."""

    __slots__ = ("_long", "_short", "_squeezed", "_squeezed_short")

    def __init__(self) -> None:
        self._long = Matcher(word=_WORD, step=8)
        """Forms of 16 bytes and more, and fragments of 16: fewer would also be found in ordinary text."""
        self._short = Matcher(word=4, step=4)
        """Forms of 8 to 15 bytes."""
        self._squeezed = Matcher(word=_WORD, step=16)
        """Fragments of 24 bytes in the squeezed view. It joins what was apart, so it needs more to be sure."""
        self._squeezed_short = Matcher(word=_WORD, step=8)
        """Forms that have only 16 to 23 letters and digits, in the squeezed view. Seldom used."""

    @classmethod
    def of(cls, name: str, value: str) -> Patterns:
        """Return the patterns of one value."""
        patterns = cls()
        patterns._add(name, value)
        return patterns

    @classmethod
    def merged(cls, parts: Iterable[Patterns]) -> Patterns:
        """Return the patterns of several values together."""
        merged = cls()
        for part in parts:
            for matcher, other in zip(merged._matchers(), part._matchers(), strict=True):
                matcher.include(other)
        return merged

    def find(self, data: bytes) -> list[Match]:
        """Return every match in `data`, the earliest first and of those the longest first."""
        return sorted(self._long.find(data) + self._short.find(data) + self._find_squeezed(data))

    def pending(self, data: bytes) -> int:
        """Return a size: no match that begins before the last so many bytes of `data` can end after them."""
        return max(self._long.pending(data), self._short.pending(data), self._pending_squeezed(data))

    def _matchers(self) -> tuple[Matcher, ...]:
        return self._long, self._short, self._squeezed, self._squeezed_short

    def _add(self, name: str, value: str) -> None:
        forms = forms_of(value)
        for form in forms.whole:
            (self._long if len(form) >= self._long.anchor_size else self._short).add(form, name)
        for form in forms.fragments:
            self._long.add_fragments(form, name)
            self._add_squeezed(form.translate(None, _DROPPED), name)

    def _add_squeezed(self, form: bytes, name: str) -> None:
        if len(form) >= self._squeezed.anchor_size:
            self._squeezed.add_fragments(form, name)
        elif len(form) >= self._squeezed_short.anchor_size:
            self._squeezed_short.add(form, name)

    def _find_squeezed(self, data: bytes) -> list[Match]:
        if not self._squeezed.longest and not self._squeezed_short.longest:
            return []
        squeezed = data.translate(None, _DROPPED)
        matches = self._squeezed.find(squeezed) + self._squeezed_short.find(squeezed)
        return _places_of(matches, data) if matches else []

    def _pending_squeezed(self, data: bytes) -> int:
        if not self._squeezed.longest and not self._squeezed_short.longest:
            return 0
        recent = data[-_RECENT_BYTES:].translate(None, _DROPPED)
        pending = max(self._squeezed.pending(recent), self._squeezed_short.pending(recent))
        # With a whole word in the recent bytes that no pattern contains, what is pending began after that word did.
        is_near = len(recent) >= _WORD > pending
        return min(len(data), _RECENT_BYTES if is_near else SPREAD_BYTES)


def _places_of(matches: list[Match], data: bytes) -> list[Match]:
    """Translate matches in the squeezed view of `data` into matches in `data`; drop those that are spread too far."""
    kept = tuple(compress(range(len(data)), data.translate(_IS_KEPT)))
    spread = ((kept[start], kept[start - size - 1] + 1, name) for start, size, name in matches)
    return [(start, start - end, name) for start, end, name in spread if end - start <= SPREAD_BYTES]
