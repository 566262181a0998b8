"""Redacting every string of a JSON-like value, whatever its nesting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from sandbox_tools.redaction.marks import WITHHELD

MAX_DEPTH: Final = 64


class Walk:
    """One walk through one value."""

    def __init__(self, *, text: Callable[[str], str], data: Callable[[bytes], bytes]) -> None:
        self._text = text
        self._data = data
        self._results: dict[int, object] = {}
        """By identity of the container, so that one that is shared is walked once, and a cycle ends."""

    def value(self, value: object, depth: int = 0) -> object:
        """Return `value` with its strings redacted; `WITHHELD` for what this cannot walk."""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, bytes):
            return self._data(bytes(value))
        if isinstance(value, (dict, list, tuple)) and depth < MAX_DEPTH:
            return self._container(value, depth + 1)
        return WITHHELD

    def _container(self, value: dict[object, object] | list[object] | tuple[object, ...], depth: int) -> object:
        if id(value) not in self._results:
            self._results[id(value)] = WITHHELD  # until it is done: what finds it in here is part of a cycle
            self._results[id(value)] = self._copy(value, depth)
        return self._results[id(value)]

    def _copy(self, value: dict[object, object] | list[object] | tuple[object, ...], depth: int) -> object:
        if isinstance(value, dict):
            return self._mapping(value, depth)
        items = [self.value(item, depth) for item in value]
        return items if isinstance(value, list) else tuple(items)

    def _mapping(self, mapping: dict[object, object], depth: int) -> dict[object, object]:
        result: dict[object, object] = {}
        collisions: Counter[object] = Counter()
        for key, value in mapping.items():
            redacted = self.value(key, depth)
            free = redacted
            while free in result:
                collisions[redacted] += 1
                free = f"{redacted!s}#{collisions[redacted] + 1}"
            result[free] = self.value(value, depth)
        return result
