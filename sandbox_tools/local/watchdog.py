"""Ends a sandbox that takes too much of the machine, where nothing else stops it: soft limits.

Four times a second, while there are sandboxes. In between a sandbox can take more than it may: about 0.5 GB of memory
or of disk on a fast machine.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from sandbox_tools.local import measure

INTERVAL_S: Final = 0.25

_NOTICEABLE_BYTES: Final = 64 << 20
"""Who has less is not ended for a machine that is full, and growth below it is not looked into."""

_LITTLE_BYTES: Final = 4 << 20
"""Growth that is looked into when the disk is nearly full."""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a sandbox may have, and what must stay free; bytes.

    Attributes:
        memory: Of all processes, with their memory files. None: control groups see to it.
        disk: Of the workspace and the volumes of a sandbox together.
        memory_floor: What must stay available on the machine, or a twentieth of its memory if that is less.
        disk_floor: What must stay free on the file system of the workspaces, or a fiftieth of it if that is less.
    """

    memory: int | None = 2 << 30
    disk: int = 10 << 30
    memory_floor: int = 512 << 20
    disk_floor: int = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """A sandbox that is watched.

    Attributes:
        pid: The host's process id of its PID 1.
        end: Ends it, with a reason in words.
        volumes: The directories that it has beside the workspace. Others may have them too.
    """

    pid: int
    workspace: Path
    end: Callable[[str], None]
    volumes: tuple[Path, ...] = ()


class Watchdog:
    """Looks at all sandboxes of a service, again and again. `run` must run for as long as it is used."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds: Final = bounds
        self._watched: list[Watched] = []
        self._more = anyio.Event()
        self._memory_files: dict[Watched, int] = {}
        self._shared_memory = 0
        self._free_disk = 0

    @contextmanager
    def watching(self, watched: Watched) -> Iterator[None]:
        """Watch a sandbox meanwhile."""
        self._watched.append(watched)
        self._more.set()
        try:
            yield
        finally:
            self._watched.remove(watched)

    async def run(self) -> None:
        """Look, until cancelled. What fails is tried again: a machine that is out of files may be so for a moment."""
        while True:
            while not self._watched:
                self._more = anyio.Event()
                await self._more.wait()
            try:
                guilty = await anyio.to_thread.run_sync(self.look, list(self._watched))
            except OSError as error:
                _log.warning("sandboxes could not be looked at: %s", error.strerror)
                guilty = {}
            for watched, reason in guilty.items():
                if watched in self._watched:
                    watched.end(reason)
            await anyio.sleep(INTERVAL_S)

    def look(self, watched: list[Watched]) -> dict[Watched, str]:
        """Return who has to end, and why. Blocks."""
        return {**self._memory(watched), **self._disk(watched)}

    def _memory(self, watched: list[Watched]) -> dict[Watched, str]:
        host = measure.host()
        trees = {one: measure.process_tree(one.pid) for one in watched}
        if host.memory_available < min(self._bounds.memory_floor, host.memory_total // 20):
            sizes = {one: measure.exact_bytes(pids) for one, pids in trees.items()}
            return _largest(sizes, "this machine has too little memory left, and the sandbox has the most")
        if self._bounds.memory is None:
            return {}
        self._look_at_memory_files(trees, host.shared_memory)
        limit = self._bounds.memory
        suspects = [
            one for one, pids in trees.items() if measure.resident_bytes(pids) + self._memory_files.get(one, 0) > limit
        ]
        reason = f"its processes have more than {limit >> 20} MiB of memory"
        return {one: reason for one in suspects if measure.exact_bytes(trees[one]) > limit}

    def _look_at_memory_files(self, trees: dict[Watched, list[int]], shared_memory: int) -> None:
        """Only after the whole machine has got more of them: to look costs a call for each open file."""
        self._memory_files = {one: size for one, size in self._memory_files.items() if one in trees}
        if shared_memory > self._shared_memory + _NOTICEABLE_BYTES:
            self._memory_files = {one: measure.memory_file_bytes(pids) for one, pids in trees.items()}
            self._shared_memory = shared_memory
        self._shared_memory = min(self._shared_memory, shared_memory)

    def _disk(self, watched: list[Watched]) -> dict[Watched, str]:
        status = os.statvfs(watched[0].workspace.parent.parent)  # of all sandboxes: it stays
        free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
        short = free < min(self._bounds.disk_floor, total // 50)
        self._free_disk = max(self._free_disk, free)
        if free > self._free_disk - (_LITTLE_BYTES if short else _NOTICEABLE_BYTES):
            return {}
        self._free_disk = free
        places = {one: (one.workspace, *one.volumes) for one in watched}
        by_path = measure.disk_bytes(list(dict.fromkeys(path for paths in places.values() for path in paths)))
        sizes = {one: sum(by_path.get(path, 0) for path in paths) for one, paths in places.items()}
        limit = self._bounds.disk
        reason = f"its files take more than {limit >> 20} MiB of disk"
        over = {one: reason for one, size in sizes.items() if size > limit}
        if over or not short:
            return over
        return _largest(sizes, "this machine's disk is nearly full, and the sandbox has the most on it")


def _largest(sizes: dict[Watched, int], reason: str) -> dict[Watched, str]:
    found = max(sizes, key=lambda one: sizes[one])
    return {found: reason} if sizes[found] >= _NOTICEABLE_BYTES else {}
