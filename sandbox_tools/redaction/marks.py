"""What stands in a text where something was taken out."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

WITHHELD: Final = "[WITHHELD: redaction failed]"
"""Stands for what could not be redacted with certainty, or within its allowance."""


def placeholder(name: str) -> str:
    """Return what stands for the value of `name`. It tells nothing about the value, not even its length."""
    return f"[REDACTED:{name}]"


def find_mark(text: str, names: Collection[str] | None = None) -> str | None:
    """Return the first mark in a text, which then has something else in it than what it was made from.

    Args:
        names: Only placeholders of these names, and of tokens that nobody registered, count; None: all do.
    """
    return next((mark[0] for mark in _MARK.finditer(text) if names is None or _is_of(mark[1], names)), None)


def _is_of(name: str | None, names: Collection[str]) -> bool:
    return name is None or name in names or name.startswith("unknown-")


_MARK: Final = re.compile(rf"\[REDACTED:([A-Za-z0-9_-]{{1,32}})\]|{re.escape(WITHHELD)}", re.ASCII)
