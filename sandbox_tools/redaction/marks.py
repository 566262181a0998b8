"""What stands in a text where something was taken out."""

from __future__ import annotations

import re
from typing import Final

WITHHELD: Final = "[WITHHELD: redaction failed]"
"""Stands for what could not be redacted with certainty, or within its allowance."""


def placeholder(name: str) -> str:
    """Return what stands for the value of `name`. It tells nothing about the value, not even its length."""
    return f"[REDACTED:{name}]"


def find_mark(text: str) -> str | None:
    """Return the first mark in a text, which then has something else in it than what it was made from."""
    found = _MARK.search(text)
    return found and found.group()


_MARK: Final = re.compile(rf"\[REDACTED:[A-Za-z0-9_-]{{1,32}}\]|{re.escape(WITHHELD)}", re.ASCII)
