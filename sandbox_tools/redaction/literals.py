"""Finding byte strings with Hyperscan: where it is installed (the extra `fast`), and as soon as that pays.

Preparing a search takes as long as searching some MB without it, so it is done when so much was searched since strings
were added, in a thread of its own; Hyperscan does not hold the interpreter meanwhile. Until it is ready, after any
change, and from the first error on, the caller searches in its own way.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from threading import Thread
from typing import Any, Final

from sandbox_tools.redaction.secret import Opaque

IS_INSTALLED: Final = find_spec("hyperscan") is not None

BYTES_PER_LITERAL: Final = 16 * 1024
"""How much is searched without Hyperscan before it is used, for each string. Preparing takes 20 to 200 us for each, and
saves some 4 ns for each byte: so, whatever comes, at most about twice the work of whoever knew it before."""

THREAD_NAME: Final = "redaction-prepare"


class Literals(Opaque):
    """Byte strings to find. More may be added while others search; none is forgotten. Thread-safe but for `add`."""

    __slots__ = ("_is_idle", "_search", "_searched", "values")

    def __init__(self) -> None:
        self.values: Final[set[bytes]] = set()
        self._search: LiteralSearch | None = None
        self._searched = 0
        self._is_idle = IS_INSTALLED
        """Whether a search may be prepared: false while one is, and once that failed."""

    def add(self, values: Iterable[bytes]) -> None:
        """Add strings. Those who search find them at once, because a search for fewer is not used any more."""
        self.values.update(values)
        self._searched = 0

    def find(self, data: bytes) -> list[int] | None:
        """Return where the strings begin in `data`, in no particular order; None: the caller has to find out."""
        search = self._search
        try:
            if search and search.count == len(self.values):
                return search.find(data)
            if self._is_idle:
                self._searched += len(data)
                if self._searched > len(self.values) * BYTES_PER_LITERAL:
                    self._is_idle = False
                    Thread(target=self._prepare, name=THREAD_NAME).start()
        except Exception:  # noqa: BLE001 - whatever it is, the caller has another way
            self._is_idle, self._search = False, None
        return None

    def _prepare(self) -> None:
        try:
            self._search = LiteralSearch(self.values)
        except Exception:  # noqa: BLE001 - without it everything is found as well
            return
        self._is_idle = True


class LiteralSearch(Opaque):
    """A search for a fixed set of byte strings.

    Attributes:
        count: How many there are.
    """

    __slots__ = ("_database", "_hyperscan", "_scratches", "_sizes", "count")

    def __init__(self, values: Iterable[bytes]) -> None:
        """Prepare it.

        Raises:
            Exception: Whatever Hyperscan says, such as that this processor is too old.
        """
        self._hyperscan: Any = import_module("hyperscan")
        values = list(values)  # at once: others may be added meanwhile
        self.count = len(values)
        self._sizes = [len(value) for value in values]
        self._scratches: list[Any] = []
        self._database = self._hyperscan.Database(mode=self._hyperscan.HS_MODE_BLOCK)
        expressions = ["".join(f"\\x{byte:02x}" for byte in value).encode() for value in values]
        self._database.compile(expressions=expressions, ids=range(self.count), elements=self.count, flags=0)

    def find(self, data: bytes) -> list[int]:
        """Return where the strings begin in `data`, also where one is in another.

        Raises:
            Exception: Whatever Hyperscan says. Nothing is known about `data` then.
        """
        hits: list[tuple[int, int]] = []
        scratch = self._scratch()
        self._database.scan(data, match_event_handler=_keep, context=hits, scratch=scratch)
        self._scratches.append(scratch)
        return [end - self._sizes[number] for number, end in hits]

    def _scratch(self) -> Any:
        """Return the memory for one search: two threads must not use the same."""
        try:
            return self._scratches.pop()
        except IndexError:
            return self._hyperscan.Scratch(self._database)


def _keep(number: int, _start: int, end: int, _flags: int, hits: list[tuple[int, int]]) -> None:
    hits.append((number, end))
