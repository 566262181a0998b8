"""Where sandboxes keep their files on this machine: a directory each, owned by the server that made it.

A directory is locked for as long as its server lives, so that the next server can tell and remove what a killed one
left. The trees are hostile: they are removed without following a symlink, whatever their depth and permissions.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox_tools.local import volumes

_RECORD: Final = "paused.json"

_log: Final = logging.getLogger(__name__)


def default_state_directory() -> Path:
    """Return `$XDG_STATE_HOME/sandbox-tools`, or its place under the home directory."""
    configured = os.environ.get("XDG_STATE_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path.home() / ".local" / "state"
    return base / "sandbox-tools"


PASSABLE_DIRECTORY: Final = Path("/var/lib/sandbox-tools")
"""For root where other users must be able to pass; the home directory of root is closed."""


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of one sandbox. `workspace` is what the sandbox sees."""

    path: Path
    lock: int

    @property
    def workspace(self) -> Path:
        return self.path / "workspace"

    @property
    def uid(self) -> int | None:
        """The user id that the sandbox has; None: our own."""
        return self.workspace.stat().st_uid if os.getuid() == 0 else None

    @property
    def is_paused(self) -> bool:
        """Whether there is a record. Only who holds the lock can tell."""
        return (self.path / _RECORD).exists()

    def write_record(self, record: bytes) -> None:
        """Keep what is needed to resume the sandbox, for a service that starts after this one. Whole or not at all.

        Raises:
            OSError: It could not be written.
        """
        new = self.path / f"{_RECORD}.new"
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(record)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path / _RECORD)

    def read_record(self) -> bytes:
        """Return what was kept.

        Raises:
            OSError: It cannot be read.
        """
        return (self.path / _RECORD).read_bytes()

    def forget_record(self) -> None:
        """The sandbox runs again: if the service is killed, its files are not kept."""
        (self.path / _RECORD).unlink(missing_ok=True)

    def leave(self) -> None:
        """Let go of it, and keep its files for the next service."""
        os.close(self.lock)

    def remove(self) -> None:
        """Delete everything. Every process of the sandbox must be gone. Blocks; what cannot be deleted is logged."""
        try:
            remove_tree(self.path)
        except OSError as error:
            _log.warning("the files of sandbox %s could not be deleted: %s", self.path.name, error.strerror)
        finally:
            os.close(self.lock)


def state_for(launchers: Collection[str], directory: Path | None = None) -> State:
    """Return where a service with these launchers keeps the files of its sandboxes; None is the usual place."""
    passable = "landlock" in launchers and os.getuid() == 0
    usual = PASSABLE_DIRECTORY if passable else default_state_directory()
    return State(directory or usual, passable=passable)


class State:
    """The directory of all sandboxes of a user.

    Args:
        passable: Other users can pass through, not look: for sandboxes without a file system of their own.
    """

    def __init__(self, directory: Path, *, passable: bool = False) -> None:
        self.directory: Final = directory
        self._mode: Final = 0o711 if passable else 0o700
        self._sandboxes = directory / "sandboxes"
        self._volumes = directory / "volumes"

    def prepare(self) -> None:
        """Make the directory, closed to other users: a sandbox can make setuid files of its user's in it."""
        for directory in (self._sandboxes.parent, self._sandboxes):
            directory.mkdir(mode=self._mode, parents=True, exist_ok=True)
            directory.chmod(self._mode)

    def new_home(self, sandbox_id: str, uid: int | None) -> Home:
        """Make the directory of a sandbox, its workspace owned by `uid`.

        Raises:
            OSError: It cannot be made: a full disk, too many open files.
        """
        path = self._sandboxes / sandbox_id
        parent = _lock(self._sandboxes, fcntl.LOCK_SH)
        try:
            path.mkdir(mode=0o700)
            home = Home(path, _lock(path, fcntl.LOCK_EX))
        finally:
            os.close(parent)
        try:
            home.workspace.mkdir(mode=0o755)
            if uid is not None:
                os.chown(home.workspace, uid, uid)
                os.chown(path, -1, uid)  # its own group, which only this sandbox is in, may pass
                path.chmod(0o710)
        except OSError:
            home.remove()
            raise
        return home

    def uids(self) -> set[int]:
        """Return the user ids of all sandboxes whose files are here."""
        if os.getuid() != 0:
            return set()
        found = set()
        for path in self._sandboxes.iterdir():
            with suppress(FileNotFoundError):  # removed meanwhile
                found.add(path.stat().st_gid)
        return found

    def volume(self, name: str, uid: int | None) -> Path:
        """Return the directory of a volume; the first who asks makes it. `volumes.check` has passed the name.

        Raises:
            OSError: It cannot be made.
        """
        path = self._volumes / name
        for directory in (self._volumes, path):
            directory.mkdir(mode=0o700, exist_ok=True)
        if uid is not None:
            os.chown(path, uid, uid)
        return path

    def volumes(self) -> list[str]:
        """Return the names of all volumes."""
        return sorted(path.name for path in self._volumes.glob("*") if volumes.is_name(path.name))

    def remove_volume(self, name: str) -> None:
        """Delete a volume, which no sandbox may use. Blocks.

        Raises:
            OSError: It cannot be deleted; FileNotFoundError: it is not there.
        """
        aside = self._volumes / f".{name}.{secrets.token_hex(8)}"  # no name of a volume: nobody mounts half of one
        (self._volumes / name).rename(aside)
        remove_tree(aside)

    def remove_abandoned(self) -> None:
        """Delete what servers left that were killed; paused sandboxes stay. Blocks."""
        for home in self._abandoned(paused=False):
            home.remove()
        for volume in self._volumes.glob(".*"):
            with suppress(OSError):  # another service may be deleting it
                remove_tree(volume)

    def paused(self) -> list[Home]:
        """Take over the paused sandboxes that no running service holds."""
        return self._abandoned(paused=True)

    def _abandoned(self, *, paused: bool) -> list[Home]:
        parent = _lock(self._sandboxes, fcntl.LOCK_EX)
        try:
            homes = [home for path in self._sandboxes.iterdir() if (home := _abandoned(path))]
        finally:
            os.close(parent)
        found = []
        for home in homes:
            if home.is_paused is paused:
                found.append(home)
            else:
                home.leave()
        return found


def remove_tree(root: Path) -> None:
    """Delete a directory that nobody uses any more.

    Its subdirectories are moved up and emptied one by one, so depth costs neither stack nor descriptors.
    """
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        while entries := os.listdir(top):  # noqa: PTH208 - a descriptor, not a path
            for name in entries:
                with suppress(FileNotFoundError):  # somebody else removes it too
                    _remove_entry(name, top)
    finally:
        os.close(top)
    with suppress(FileNotFoundError):
        root.rmdir()


def _remove_entry(name: str, top: int) -> None:
    if not _is_directory(name, top):
        os.unlink(name, dir_fd=top)
        return
    os.chmod(name, 0o700, dir_fd=top)
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        for child in os.listdir(directory):  # noqa: PTH208 - a descriptor, not a path
            _take_out(child, directory, top)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=top)


def _take_out(name: str, directory: int, top: int) -> None:
    if _is_directory(name, directory):
        os.chmod(name, 0o700, dir_fd=directory)  # moving a directory writes to it
        os.rename(name, secrets.token_hex(16), src_dir_fd=directory, dst_dir_fd=top)
    else:
        os.unlink(name, dir_fd=directory)


def _is_directory(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _lock(directory: Path, kind: int) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, kind)
    return fd


def _abandoned(path: Path) -> Home | None:
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
        else:
            return Home(path, fd)
    return None
