"""How busy a sandbox was between two readings of its CPU time."""

from __future__ import annotations

import os
import time


class CpuMeter:
    """Remembers the last reading; the first one is compared with the start."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._cpu_s = 0.0

    def percent(self, cpu_s: float) -> float:
        """Return the share of all CPUs since the last reading, 0 to 100.

        Args:
            cpu_s: CPU time that was used until now.
        """
        now = time.monotonic()
        share = (cpu_s - self._cpu_s) / max(now - self._at, 0.001) / (os.cpu_count() or 1)
        self._at, self._cpu_s = now, cpu_s
        return round(min(max(share, 0.0), 1.0) * 100, 2)
