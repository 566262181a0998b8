"""Control groups: hard limits for a whole sandbox, where this machine lets us make groups.

That is root with a writable version 1 or 2 hierarchy, or a user whose session has a delegated part of version 2
(`systemd-run --user --scope`, a desktop session). A service has one group for itself below the one that it runs in (or,
in version 2, the nearest above it that may have groups), locked for as long as it lives, and a group a sandbox in it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

MEMORY_BYTES: Final = 2 << 30
"""Of all processes of a sandbox together, with what they keep in memory files, /tmp and /dev/shm."""

PROCESSES: Final = 256

_PREFIX: Final = "sandbox-tools-"
_REMOVE_TRIES: Final = 20
_REMOVE_PAUSE_S: Final = 0.01

_V1: Final[Mapping[str, Mapping[str, str]]] = {
    "memory": {"memory.limit_in_bytes": str(MEMORY_BYTES), "memory.memsw.limit_in_bytes": str(MEMORY_BYTES)},
    "pids": {"pids.max": str(PROCESSES)},
    "cpu": {},
}
_V2: Final[Mapping[str, Mapping[str, str]]] = {
    "memory": {"memory.max": str(MEMORY_BYTES), "memory.swap.max": "0"},
    "pids": {"pids.max": str(PROCESSES)},
    "cpu": {},
}
"""Limits by controller. None for cpu: as a group a sandbox weighs as much as one program, however many it runs."""

_OPTIONAL: Final = ("memory.memsw.limit_in_bytes", "memory.swap.max")
"""Not there on a kernel without swap accounting."""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups can be made, and the limits that each gets."""

    base: Path
    limits: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Group:
    """The group of one sandbox: a directory in each hierarchy."""

    directories: tuple[Path, ...]

    def add(self, pid: int) -> None:
        """Move a process in; its children will be born there.

        Raises:
            OSError: It is gone, or may not be moved.
        """
        for directory in self.directories:
            (directory / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Remove the group. Its processes must be gone or about to go; what stays busy, the next service removes."""
        for directory in self.directories:
            _remove(directory)


class Cgroups:
    """The groups of one service; none where the machine has none for us.

    Attributes:
        hard_limits: What a group bounds, in the words of `isolation`.
    """

    def __init__(self, hierarchies: list[Hierarchy]) -> None:
        self._limits = [hierarchy.limits for hierarchy in hierarchies]
        self._lock = -1
        self._own: list[Path] = []
        self.hard_limits: Final = hard_limits(hierarchies)
        if hierarchies:
            self._open([hierarchy.base for hierarchy in hierarchies])

    @classmethod
    def open(cls) -> Cgroups:
        """Make the service's own group, and remove what killed services left beside it."""
        try:
            return cls(find_hierarchies())
        except OSError as error:
            _log.info("no control groups: %s", error.strerror)
            return cls([])

    def new(self, name: str) -> Group | None:
        """Make the group of a sandbox; None where there are none.

        Raises:
            OSError: It cannot be made.
        """
        group = Group(tuple(own / name for own in self._own))
        try:
            for directory, limits in zip(group.directories, self._limits, strict=True):
                directory.mkdir()
                _write_limits(directory, limits)
        except BaseException:
            group.remove()
            raise
        return group if self._own else None

    def close(self) -> None:
        """Remove everything. Can be called again."""
        for own in self._own:
            _remove_all(own)
        self._own = []
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _open(self, bases: list[Path]) -> None:
        """Under a lock, so that nobody takes our group for an abandoned one before it is locked."""
        name = _PREFIX + secrets.token_hex(8)
        everybody = _locked(bases[0], fcntl.LOCK_EX)
        try:
            _remove_abandoned(bases)
            for base in bases:
                self._own.append(base / name)
                (base / name).mkdir()
                _enable_below(base / name)
            self._lock = _locked(self._own[0], fcntl.LOCK_EX)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(everybody)


def hard_limits(hierarchies: list[Hierarchy]) -> tuple[str, ...]:
    """Return what groups in these hierarchies bound."""
    files = [file for hierarchy in hierarchies for file in hierarchy.limits]
    return ("memory",) if any(file.startswith("memory.") for file in files) else ()


def find_hierarchies(proc: Path = Path("/proc/self")) -> list[Hierarchy]:
    """Return where we can make groups that limit memory, processes or CPU; [] when nowhere."""
    own = _own_groups(proc)
    found: list[Hierarchy] = []
    for controllers, base in _mounted(proc, own):
        if controllers:
            limits = {file: value for name in _V1 if name in controllers for file, value in _V1[name].items()}
            if any(name in controllers for name in _V1) and _may_make_groups(base):
                found.append(Hierarchy(base, limits))
        elif parent := _delegated(base):
            enabled = (parent / "cgroup.subtree_control").read_text().split()
            limits = {file: value for name in _V2 if name in enabled for file, value in _V2[name].items()}
            found.append(Hierarchy(parent, limits))
    return found


def _own_groups(proc: Path) -> dict[str, str]:
    """Return our own group by controller; "" is version 2."""
    lines = (line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines())
    return {name: path for _, names, path in lines for name in names.split(",")}


def _mounted(proc: Path, own: Mapping[str, str]) -> Iterator[tuple[set[str], Path]]:
    """Yield the controllers (none: version 2) and our own group's directory of each mounted hierarchy, once each."""
    seen: set[str] = set()
    for line in (proc / "mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        root, point = fields.split()[3:5]
        controllers = set(options.split(",")) & own.keys() if kind == "cgroup" else set()
        key = ",".join(sorted(controllers))
        path = own.get(next(iter(controllers), ""))
        if kind not in ("cgroup", "cgroup2") or key in seen or path is None or (kind == "cgroup" and not controllers):
            continue
        if PurePosixPath(path).is_relative_to(root):
            seen.add(key)
            yield controllers, Path(point, PurePosixPath(path).relative_to(root))


def _may_make_groups(directory: Path) -> bool:
    return os.access(directory, os.W_OK) and os.access(directory / "cgroup.procs", os.W_OK)


def _delegated(group: Path) -> Path | None:
    """Return the nearest group that can have groups with a memory limit, from our own upwards (version 2).

    A group with processes in it cannot; and moving a process takes the right to write in what both ends share.
    """
    for parent in (group, *group.parents):
        if not _may_make_groups(parent) or not os.access(parent / "cgroup.subtree_control", os.W_OK):
            return None
        _enable_below(parent)
        if "memory" in (parent / "cgroup.subtree_control").read_text().split():
            return parent
    return None


def _enable_below(group: Path) -> None:
    """Let groups below have the limits (version 2; in version 1 there is no such file)."""
    control = group / "cgroup.subtree_control"
    if control.exists():
        enabled, available = control.read_text().split(), (group / "cgroup.controllers").read_text().split()
        for name in _V2:
            if name in available and name not in enabled:
                with suppress(OSError):
                    control.write_text(f"+{name}")


def _write_limits(directory: Path, limits: Mapping[str, str]) -> None:
    for file, value in limits.items():
        if file not in _OPTIONAL or (directory / file).exists():
            (directory / file).write_text(value)


def _remove_abandoned(bases: list[Path]) -> None:
    for path in bases[0].glob(f"{_PREFIX}*"):
        with suppress(OSError):
            os.close(_locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB))
            for base in bases:
                _remove_all(base / path.name, tries=1)


def _remove_all(service: Path, tries: int = _REMOVE_TRIES) -> None:
    for group in filter(Path.is_dir, service.iterdir()):
        _remove(group, tries)
    _remove(service, tries)


def _remove(directory: Path, tries: int = _REMOVE_TRIES) -> None:
    """Processes that were killed hold their group for a moment."""
    for _ in range(tries):
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(_REMOVE_PAUSE_S)
        else:
            return
    _log.warning("a control group is still in use: %s", directory.name)


def _locked(directory: Path, kind: int) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, kind)
    except BaseException:
        os.close(fd)
        raise
    return fd
