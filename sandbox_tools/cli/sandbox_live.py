"""Output of a program as it comes, redacted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from sandbox_tools.redaction import Redactor

_SETTLED_S: Final = 0.05
"""Silence after which held-back output is shown to a person, in seconds: a prompt must not wait for what comes next
because it ends as a secret begins. A secret that comes in pieces further apart than this would show."""


class LiveOutput:
    """One stream, on its way to `write`. What may be the start of a secret is held back until it is certain."""

    def __init__(self, redactor: Redactor, write: Callable[[bytes], None]) -> None:
        self._redactor = redactor
        self._write = write
        self._stream = redactor.stream()
        self._fed = anyio.Event()

    def feed(self, data: bytes) -> None:
        """Take a piece."""
        self._write(self._stream.feed(data))
        self._fed.set()

    def show_held(self) -> None:
        """Write what is held back."""
        self._write(self._stream.close())
        self._stream = self._redactor.stream()

    async def settle(self) -> None:
        """Show what is held back whenever nothing has come for a moment; for terminals."""
        while True:
            await self._fed.wait()
            self._fed = anyio.Event()
            await anyio.sleep(_SETTLED_S)
            if not self._fed.is_set():
                self.show_held()
