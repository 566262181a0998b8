"""Keeping secrets out of every text that leaves this package.

Register a value before any other code sees it, keep the `Secret` handle instead of the value, and pass every text
through a `Redactor` (docs/redaction.md says what that promises). `reveal` is not exported on purpose.
"""

from __future__ import annotations

from sandbox_tools.redaction.logs import RedactingFormatter
from sandbox_tools.redaction.marks import WITHHELD, placeholder
from sandbox_tools.redaction.redactor import Redactor, StreamRedactor
from sandbox_tools.redaction.registry import Registry, default_registry
from sandbox_tools.redaction.secret import Secret
from sandbox_tools.redaction.tally import Counts

__all__ = [
    "WITHHELD",
    "Counts",
    "RedactingFormatter",
    "Redactor",
    "Registry",
    "Secret",
    "StreamRedactor",
    "default_registry",
    "placeholder",
]
