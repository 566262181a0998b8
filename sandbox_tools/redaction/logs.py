"""Redacting log records, as the last thing before they are written."""

from __future__ import annotations

import logging
from typing import Final

from sandbox_tools.redaction.redactor import Redactor

_WITHHELD_RECORD: Final = "[log record withheld: formatting failed]"


class RedactingFormatter(logging.Formatter):
    """Formats with another formatter and redacts the result: message, arguments, traceback and stack alike.

    A filter on a logger would miss child loggers and tracebacks. A record that cannot be formatted is withheld here,
    because `logging` would print its raw arguments to stderr.
    """

    def __init__(self, inner: logging.Formatter, redactor: Redactor) -> None:
        super().__init__()
        self._inner = inner
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one redacted text."""
        try:
            return self._redactor.text(self._inner.format(record))
        except Exception:  # noqa: BLE001 - a formatter of somebody else; its error may quote the record
            return _WITHHELD_RECORD
