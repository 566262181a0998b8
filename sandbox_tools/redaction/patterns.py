"""All patterns of all registered values, in the two views that a text is read in: as it is, and squeezed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sandbox_tools.redaction.folded import size_with_code, views
from sandbox_tools.redaction.forms import forms_of
from sandbox_tools.redaction.matcher import Match, Matcher
from sandbox_tools.redaction.secret import Opaque
from sandbox_tools.redaction.squeezed import Places, size_of_last, squeeze

SPREAD_BYTES: Final = 1024
"""How far the characters of one squeezed match may be spread; bounds what a stream must hold back."""

_WORD: Final = 8


class Patterns(Opaque):
    """What to look for. It may grow while it is in use, but forgets nothing."""

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
        """Return the patterns of one value: to `find` it in a text, and to be included. Not for a stream."""
        patterns = cls()
        patterns._add(name, value)
        return patterns

    @classmethod
    def merged(cls, parts: Iterable[Patterns]) -> Patterns:
        """Return the patterns of several values together."""
        merged = cls()
        for part in parts:
            merged.include(part)
        return merged

    def include(self, part: Patterns) -> None:
        """Add the patterns of one value. Others may search with these meanwhile."""
        for matcher, other in zip(self._matchers(), part._matchers(), strict=True):
            matcher.include(other)

    def find(self, data: bytes) -> list[Match]:
        """Return every match in `data`, the earliest first and of those the longest first."""
        return self.scan(data)[0]

    def scan(self, data: bytes) -> tuple[list[Match], int]:
        """Return every match in `data`, sorted as by `find`, and a size: no match that begins before the last so many
        bytes of `data` can end after them.
        """
        matches = self._long.find(data) + self._short.find(data)
        pending = max(self._long.pending(data), self._short.pending(data))
        if self._squeezed.longest or self._squeezed_short.longest:
            for view in views(data):
                found, size = self._scan_squeezed(view)
                matches += found
                pending = max(pending, size)
        return sorted(matches), size_with_code(data, pending) if pending else 0

    def could_tell(self, data: bytes) -> bool:
        """Tell whether `data`, which is pending, may be 8 characters of a value, or more."""
        if max(self._long.pending(data), self._short.pending(data)) >= _WORD:
            return True
        return any(len(squeeze(view)) >= _WORD for view in views(data))

    @property
    def longest_match(self) -> int:
        """The most bytes that one match covers."""
        spread = SPREAD_BYTES if self._squeezed.longest or self._squeezed_short.longest else 0
        return max(self._long.longest, self._short.longest, spread)

    def _matchers(self) -> tuple[Matcher, ...]:
        return self._long, self._short, self._squeezed, self._squeezed_short

    def _add(self, name: str, value: str) -> None:
        forms = forms_of(value)
        for form in forms.whole:
            (self._long if len(form) >= self._long.anchor_size else self._short).add(form, name)
        for form in forms.fragments:
            self._long.add_fragments(form, name)
            self._add_squeezed(squeeze(form), name)
        for form in forms.spread:
            self._add_spread(form, name)

    def _add_spread(self, form: bytes, name: str) -> None:
        joined = squeeze(form)
        if in_squeezed := len(joined) >= self._squeezed.anchor_size:
            self._squeezed.add(joined, name)
        if len(form) >= self._long.anchor_size and not (in_squeezed and joined == form):
            self._long.add(form, name)

    def _add_squeezed(self, form: bytes, name: str) -> None:
        if len(form) >= self._squeezed.anchor_size:
            self._squeezed.add_fragments(form, name)
        elif len(form) >= self._squeezed_short.anchor_size:
            self._squeezed_short.add(form, name)

    def _scan_squeezed(self, view: bytes) -> tuple[list[Match], int]:
        squeezed = squeeze(view)
        matches = self._squeezed.find(squeezed) + self._squeezed_short.find(squeezed)
        pending = max(self._squeezed.pending(squeezed), self._squeezed_short.pending(squeezed))
        if matches:
            places = Places(view)
            matches = [match for match in map(places.of, matches) if -match[1] <= SPREAD_BYTES]
        return matches, size_of_last(pending, view, SPREAD_BYTES)
