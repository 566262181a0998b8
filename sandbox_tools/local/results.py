"""What is kept of the processes of a sandbox that have ended, and of what they wrote."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from sandbox_tools.local.process import Process

MAX_HEADS_BYTES: Final = 16 << 20
"""Kept of all output and commands of one sandbox for GetResult; the oldest results go first."""

MAX_RESULTS: Final = 1024
"""Of ended processes, for GetResult and a late Connect; each costs about 4 KB."""


class Results:
    """The ended processes of one sandbox, the oldest first. Lends memory for the heads of outputs (`HeadRoom`)."""

    def __init__(self) -> None:
        self._ended: OrderedDict[int, Process] = OrderedDict()
        self._bytes = 0

    def __iter__(self) -> Iterator[Process]:
        return iter(self._ended.values())

    def take(self, wanted: int) -> int:
        """Lend memory for the head of an output."""
        self._forget(wanted)
        granted = max(0, min(wanted, MAX_HEADS_BYTES - self._bytes))
        self._bytes += granted
        return granted

    def keep(self, process: Process) -> None:
        """Keep a process that has ended; others may have to go."""
        self._ended[process.request] = process
        self._bytes += process.command_bytes
        self._forget(0)

    def _forget(self, wanted: int) -> None:
        while self._ended and (self._bytes + wanted > MAX_HEADS_BYTES or len(self._ended) > MAX_RESULTS):
            _, oldest = self._ended.popitem(last=False)
            self._bytes -= oldest.command_bytes + sum(len(output.head) for output in oldest.outputs)
