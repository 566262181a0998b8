"""How often something was redacted. Names and numbers only: never a value, its length or a hash of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was counted since the registry was made.

    Attributes:
        placeholders: Placeholders written, by the name in them. A text that passes two redactors, such as the output
            of a tool and the MCP message that carries it, is counted where the value was.
        withheld: Outputs and values that were withheld, in whole or from some place on.
        blocked: Messages that held a value although they had been redacted, by the channel that they were about to
            leave by. Each is a fault in this package.
    """

    placeholders: Mapping[str, int]
    withheld: int
    blocked: Mapping[str, int]


class Tally:
    """Counts. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._placeholders: Counter[str] = Counter()
        self._withheld = 0
        self._blocked: Counter[str] = Counter()

    def count_placeholder(self, name: str) -> None:
        """Count one."""
        with self._lock:
            self._placeholders[name] += 1

    def count_withheld(self) -> None:
        """Count one."""
        with self._lock:
            self._withheld += 1

    def count_blocked(self, channel: str) -> None:
        """Count one."""
        with self._lock:
            self._blocked[channel] += 1

    def counts(self) -> Counts:
        """Return the counts now."""
        with self._lock:
            return Counts(placeholders=dict(self._placeholders), withheld=self._withheld, blocked=dict(self._blocked))
