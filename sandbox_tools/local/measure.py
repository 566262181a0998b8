"""What a sandbox uses, and what this machine has left, as the host sees it in /proc. Blocks; for a worker thread.

Everything about a process may be gone or changed a moment later, so what cannot be read counts as nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_PROCESSES: Final = 1024
"""Looked at in one sandbox; its own limit is lower."""

DU_TIMEOUT_S: Final = 20.0

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Host:
    """What the machine has: bytes."""

    memory_total: int
    memory_available: int
    shared_memory: int


def host() -> Host:
    """Return the machine's memory."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available, shared = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable", "Shmem"))
    return Host(total, available, shared)


def process_tree(pid: int) -> list[int]:
    """Return a process and all below it. PID 1 of a namespace has every orphan, so nothing inside escapes this."""
    found = [pid]
    for parent in found:
        if len(found) >= MAX_PROCESSES:
            break
        for thread in _names(f"/proc/{parent}/task"):
            found += [int(child) for child in _read(f"/proc/{parent}/task/{thread}/children").split()]
    return found[:MAX_PROCESSES]


def resident_bytes(pids: Sequence[int]) -> int:
    """Return an upper bound, quick: pages that processes share count once for each of them."""
    return sum(int((_read(f"/proc/{pid}/statm").split() or "00")[1]) for pid in pids) * _PAGE_BYTES


def exact_bytes(pids: Sequence[int]) -> int:
    """Return the memory that would be free without these processes: anonymous pages, and files in memory."""
    anonymous = shared = 0
    for pid in pids:
        fields = dict(line.split(":", 1) for line in _read(f"/proc/{pid}/smaps_rollup").splitlines()[1:])
        anonymous += _kib(fields.get("Pss_Anon"))
        shared += _kib(fields.get("Pss_Shmem"))
    return anonymous + max(shared, memory_file_bytes(pids))


def memory_file_bytes(pids: Sequence[int]) -> int:
    """Return the size of all memfds that processes have open: no process's own memory shows them."""
    sizes: dict[int, int] = {}
    for pid in pids:
        for fd in _names(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{fd}"
            try:
                if os.readlink(path).startswith("/memfd:"):  # noqa: PTH115 - a name of the kernel's, not a path
                    status = os.stat(path)  # noqa: PTH116 - as above
                    sizes[status.st_ino] = status.st_blocks * 512
            except OSError:
                continue
    return sum(sizes.values())


def disk_bytes(directories: Sequence[Path]) -> dict[Path, int]:
    """Return what each directory takes on its file system; one that cannot be read in time is left out.

    By `du`: it follows no symlink, whatever the sandbox does to its tree meanwhile, and takes no turn of this process.
    """
    du = shutil.which("du")
    if du is None or not directories:
        return {}
    try:
        ran = subprocess.run(
            [du, "-skx", "--", *map(str, directories)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DU_TIMEOUT_S,
            env={},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = (line.split("\t", 1) for line in os.fsdecode(ran.stdout).splitlines())
    return {Path(path): int(kib) * 1024 for kib, path in lines}


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - thousands of times a second
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path) as file:  # noqa: PTH123 - as above
            return file.read()
    except OSError:
        return ""


def _kib(field: str | None) -> int:
    return int(field.split()[0]) * 1024 if field else 0
