"""Telling with Hyperscan that nothing is in a text: where it is installed (the extra `fast`), and as soon as that pays.

Preparing a search takes as long as searching some MB without it, so it is done when so much was searched since strings
were added, in a thread of its own; Hyperscan does not hold the interpreter meanwhile. Until it is ready, after any
change, from the first error on, and in a text that has one of the strings, the caller searches in its own way.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from threading import Thread
from typing import Any, Final

from sandbox_tools.redaction.secret import Opaque

IS_INSTALLED: Final = find_spec("hyperscan") is not None

MIN_BYTES: Final = 4096
"""A shorter text takes about as long without it, and then no other thread takes its turn in between."""

BYTES_PER_LITERAL: Final = 16 * 1024
"""How much is searched without it before it is used, for each string. Preparing takes 20 to 200 us for each, and saves
some 4 ns for each byte: so, whatever comes, at most about twice the work of whoever knew it before."""

THREAD_NAME: Final = "redaction-prepare"


class Literals(Opaque):
    """Byte strings to look for. More may be added while others search; none is forgotten."""

    __slots__ = ("_is_idle", "_search", "_searched", "values")

    def __init__(self) -> None:
        self.values: Final[set[bytes]] = set()
        self._search: LiteralSearch | None = None
        self._searched = 0
        self._is_idle = IS_INSTALLED
        """Whether a search may be prepared: false while one is, and once that failed."""

    def add(self, values: Iterable[bytes]) -> None:
        """Add strings. A search that was prepared without them is not used any more."""
        self.values.update(values)
        self._searched = 0

    def are_absent(self, data: bytes) -> bool:
        """Tell whether none of the strings is in `data`. False: one is, or the caller has to find out."""
        if not self._is_idle or len(data) < MIN_BYTES:
            return False
        try:
            if self._search and self._search.count == len(self.values):
                return self._search.finds_nothing(data)
            self._searched += len(data)
            if self._searched > len(self.values) * BYTES_PER_LITERAL:
                self._is_idle = False
                Thread(target=self._prepare, name=THREAD_NAME).start()
        except Exception:  # noqa: BLE001 - whatever it is, the caller has another way
            self._is_idle = False
        return False

    def _prepare(self) -> None:
        try:
            self._search = LiteralSearch(self.values)
        except Exception:  # noqa: BLE001 - the caller has another way
            return
        self._is_idle = True


class LiteralSearch(Opaque):
    """A search for a fixed set of byte strings. Thread-safe.

    Attributes:
        count: How many there are.
    """

    __slots__ = ("_database", "_hyperscan", "_scratches", "count")

    def __init__(self, values: Iterable[bytes]) -> None:
        """Prepare it.

        Raises:
            Exception: Whatever Hyperscan says, such as that this processor is too old.
        """
        self._hyperscan: Any = import_module("hyperscan")
        expressions = ["".join(f"\\x{byte:02x}" for byte in value).encode() for value in list(values)]
        self.count = len(expressions)
        self._scratches: list[Any] = []
        self._database = self._hyperscan.Database(mode=self._hyperscan.HS_MODE_BLOCK)
        self._database.compile(expressions=expressions, ids=range(self.count), elements=self.count, flags=0)

    def finds_nothing(self, data: bytes) -> bool:
        """Tell whether none of the strings is in `data`.

        Raises:
            Exception: Whatever Hyperscan says. Nothing is known about `data` then.
        """
        scratch = self._scratch()
        try:
            self._database.scan(data, match_event_handler=_stop, scratch=scratch)
        except self._hyperscan.ScanTerminated:
            return False
        finally:
            self._scratches.append(scratch)
        return True

    def _scratch(self) -> Any:
        """Return the memory for one search: two threads must not use the same."""
        try:
            return self._scratches.pop()
        except IndexError:
            return self._hyperscan.Scratch(self._database)


def _stop(*_: object) -> bool:
    """Be called where the first string is. To be called for each would mean to wait for other threads each time."""
    return True
