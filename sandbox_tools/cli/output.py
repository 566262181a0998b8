"""What this process prints, in whatever way: redacted, also when it crashes."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TextIO

from sandbox_tools.redaction import Redactor, default_registry


def install_redaction() -> None:
    """Redact all text that this process prints: results, log records, warnings, and tracebacks of what nobody caught.

    For our own command. A library must not change the process of its users, so nothing else calls this.
    """
    redactor = Redactor(default_registry())
    sys.stdout = _redacted(sys.stdout, redactor)
    sys.stderr = _redacted(sys.stderr, redactor)
    # These hooks of the interpreter write a text in pieces, and a piece may end within a secret; the others do not.
    sys.excepthook = _print_exception
    threading.excepthook = _print_of_thread


class RedactedText:
    """A text stream that redacts each text that is written to it. The bytes below it, `buffer`, are as they were."""

    def __init__(self, inner: TextIO, redactor: Redactor) -> None:
        self._inner = inner
        self._redactor = redactor

    def write(self, text: str) -> int:
        """Write a text; one that is cut into two may have a secret where it was cut."""
        self._inner.write(self._redactor.text(text))
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Write several texts as one."""
        self.write("".join(texts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _redacted(stream: TextIO, redactor: Redactor) -> Any:
    """Return a stream to print to; None, as without a console on Windows, stays that."""
    return stream and RedactedText(stream, redactor)


def _print(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)


def _print_exception(kind: type[BaseException], exc: BaseException | None, trace: TracebackType | None) -> None:
    _print("".join(traceback.format_exception(kind, exc, trace)))


def _print_of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        trace = traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)
        _print(f"Exception in thread {args.thread and args.thread.name}:\n{''.join(trace)}")
