"""What stands in a text where something was taken out."""

from __future__ import annotations

from typing import Final

WITHHELD: Final = "[WITHHELD: redaction failed]"
"""Stands for what could not be redacted with certainty, or within its allowance."""


def placeholder(name: str) -> str:
    """Return what stands for the value of `name`. It tells nothing about the value, not even its length."""
    return f"[REDACTED:{name}]"
