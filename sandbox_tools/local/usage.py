"""What the processes of a sandbox use, as the host's kernel counts it. Nothing of it comes from the sandbox."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_PROCESSES: Final = 4096
"""Looked at, at most: twice what a sandbox can have, whatever /proc says while it forks."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """A moment's sum over all processes of a sandbox.

    Attributes:
        memory_bytes: Their own pages; those that they share with others are not counted.
        user_s: CPU time, also of those that have ended; likewise `system_s`.
    """

    tasks: int = 0
    memory_bytes: int = 0
    user_s: float = 0.0
    system_s: float = 0.0


def usage_of(pid: int) -> Usage:
    """Return the usage of a process and everything below it. PID 1 of a sandbox inherits all of its orphans."""
    tasks, memory, user, system = 0, 0, 0, 0
    waiting = [pid]
    for _ in range(MAX_PROCESSES):
        if not waiting:
            break
        process = Path("/proc", str(waiting.pop()))
        with suppress(OSError, ValueError, IndexError):  # it ended meanwhile
            fields = (process / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
            resident, shared = (process / "statm").read_text().split()[1:3]
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
            tasks += int(fields[17])
            memory += int(resident) - int(shared)
        waiting += _children(process)
    return Usage(tasks, memory * _PAGE, user / _TICKS, system / _TICKS)


def _children(process: Path) -> list[int]:
    found: list[int] = []
    with suppress(OSError, ValueError):
        for thread in (process / "task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found
