"""Reading fields of JSON messages: what is missing or has the wrong type is empty, never an error."""

from __future__ import annotations

import math
from collections.abc import Mapping


def text(message: Mapping[str, object], key: str) -> str:
    """Return a text; "" when there is none."""
    value = message.get(key)
    return value if isinstance(value, str) else ""


def texts(message: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Return the texts of an array."""
    value = message.get(key)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def number(message: Mapping[str, object], key: str) -> float | None:
    """Return a finite number; None when there is none."""
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number too large for a float
        return None


def whole(message: Mapping[str, object], key: str) -> int | None:
    """Return a whole number that is not negative; None when there is none."""
    value = number(message, key)
    return int(value) if value is not None and value >= 0 else None


def mapping(message: Mapping[str, object], key: str) -> Mapping[str, object]:
    """Return an object; an empty one when there is none."""
    value = message.get(key)
    return value if isinstance(value, dict) else {}


def objects(message: Mapping[str, object], key: str) -> tuple[Mapping[str, object], ...]:
    """Return the objects of an array."""
    value = message.get(key)
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()
