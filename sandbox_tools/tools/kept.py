"""Where calls keep what they left running."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sandbox_tools.runtime import ExecResult, RunningProcess
from sandbox_tools.tools.base import CollectedOutput

MAX_KEPT: Final = 32
"""Processes whose output is kept for the model, of all sandboxes of a toolset; each takes up to 0.5 MB."""


@dataclass(slots=True, kw_only=True)
class KeptProcess:
    """A process that goes on after the call that started it, and its output that no call has shown yet."""

    sandbox_id: str
    process: RunningProcess
    output: CollectedOutput
    command: str
    result: ExecResult | None = None


class KeptProcesses:
    """The processes that calls left running. The oldest is forgotten first, one that has ended before one that runs."""

    def __init__(self) -> None:
        self._kept: list[KeptProcess] = []

    def keep(self, kept: KeptProcess) -> None:
        """Remember a process; an earlier one with its pid is forgotten."""
        earlier = self.find(kept.sandbox_id, kept.process.pid)
        self._kept = [other for other in self._kept if other is not earlier]
        if len(self._kept) >= MAX_KEPT:
            self._kept.remove(next((other for other in self._kept if other.result is not None), self._kept[0]))
        self._kept.append(kept)

    def of(self, sandbox_id: str) -> list[KeptProcess]:
        """Return those of a sandbox, oldest first."""
        return [kept for kept in self._kept if kept.sandbox_id == sandbox_id]

    def find(self, sandbox_id: str, pid: int) -> KeptProcess | None:
        """Return the one with this pid, or None."""
        return next((kept for kept in self.of(sandbox_id) if kept.process.pid == pid), None)
