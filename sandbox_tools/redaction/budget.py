"""How much work one output may cause. A sandbox chooses its output, so it could choose an expensive one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

MAX_HITS: Final = 2000
"""Placeholders in one output. Each costs far more time than clean text, and so many help nobody."""

BASE_S: Final = 0.25
PER_BYTE_S: Final = 100e-9
PER_FEED_S: Final = 300e-6
"""Processor time that an output may take, and more for each byte and each piece of it. Clean text takes about a tenth:
a slower machine must not withhold it, and a hostile sandbox must not occupy this process for long."""

_SMALL_BYTES: Final = 4096
"""Up to here the clock is cheaper that also runs while this thread does not."""


class BudgetError(Exception):
    """The output caused too much work."""


class Budget:
    """What one output may still cause. Counts processor time, so that a busy machine does not spend it; but reading
    that takes a tenth of the time for a small piece, so it is not read before the first piece that is large or slow.

    Attributes:
        hits: Placeholders so far.
    """

    __slots__ = ("_clock", "_seconds", "_since", "hits")

    def __init__(self) -> None:
        self.hits = 0
        self._seconds = BASE_S
        self._since = 0.0
        self._clock: Callable[[], float] = time.perf_counter

    def start(self, size: int) -> None:
        """Begin to work on another `size` bytes, in this thread."""
        self._seconds += PER_FEED_S + size * PER_BYTE_S
        if size > _SMALL_BYTES:
            self._clock = time.thread_time
        self._since = self._clock()

    def check_time(self) -> None:
        """Count the time since the last check or start.

        Raises:
            BudgetError: There is none left.
        """
        now = self._clock()
        elapsed = now - self._since
        if elapsed > PER_FEED_S and self._clock is time.perf_counter:  # by this, or by others on this machine?
            elapsed = PER_FEED_S
            self._clock = time.thread_time
            now = self._clock()
        self._seconds -= elapsed
        self._since = now
        if self._seconds < 0:
            raise BudgetError

    def count_hit(self) -> None:
        """Count a placeholder.

        Raises:
            BudgetError: It is one too many.
        """
        if self.hits == MAX_HITS:
            raise BudgetError
        self.hits += 1
