"""Reading fields of JSON messages: what is missing or has the wrong type is empty, never an error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Final

_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


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


def moment(timestamp: str) -> datetime | None:
    """Read an RFC 3339 time, to the microsecond; None when it is not one. (Python 3.10 cannot read nine digits.)"""
    match = _TIME.fullmatch(timestamp)
    if match is None:
        return None
    zone = "+00:00" if match[3] in "Zz" else match[3]
    fraction = (match[2] or ".0")[:7].ljust(7, "0")
    try:
        return datetime.fromisoformat(f"{match[1].upper()}{fraction}{zone}").astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
