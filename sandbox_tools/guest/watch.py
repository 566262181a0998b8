"""Telling what changes in a directory, with the kernel's inotify. A task of `tasks.py`.

The events are those of fsnotify, which E2B's and SeaCloud's runtimes use: a rename is RENAME of the old name, then
CREATE of the new one. Lines of JSON: {"name": relative to the watched directory, "type"}. When the host does not
read, the kernel's own queue fills up, and what it drops is told as EVENT_TYPE_UNSPECIFIED of ".": look again.
A file that comes through the API is CREATE and WRITE; the temporary file beside it is not told.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import time
from collections.abc import Iterator
from typing import Any

from sandbox_tools.guest.answer import Answer
from sandbox_tools.guest.files import is_temporary
from sandbox_tools.guest.tree import resolve, text

MAX_DIRECTORIES = 8192
"""That one watcher may watch: each costs kernel memory. A new one above is told like dropped events."""

_MODIFY, _ATTRIB, _MOVED_FROM, _MOVED_TO = 0x2, 0x4, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED, _IS_DIRECTORY = 0x2000, 0x4000, 0x8000, 0x4000_0000
_ONLY_DIRECTORY, _NO_FOLLOW = 0x0100_0000, 0x0200_0000

_MASK = _MODIFY | _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_TYPES = {
    _CREATE: "CREATE",
    _MOVED_TO: "CREATE",
    _MODIFY: "WRITE",
    _DELETE: "REMOVE",
    _MOVED_FROM: "RENAME",
    _ATTRIB: "CHMOD",
}
_HEADER = struct.Struct("iIII")
_READ_BYTES = 65_536

_PAUSE_S = 0.005
"""Between two reads: a program that writes in small pieces says the same again and again, and the kernel merges it."""

_libc = ctypes.CDLL(None, use_errno=True)


def watch(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """Tell of changes until the host closes the pipe or the directory is gone."""
    watcher = _Watcher(resolve(request["path"]), recursive=request["recursive"])
    answer.line({})
    poll = select.poll()
    poll.register(watcher.fd, select.POLLIN)
    poll.register(answer.fd, 0)  # reports only that nobody reads any more
    while watcher.alive:
        if any(fd == answer.fd for fd, _ in poll.poll()):
            return
        for name, kind in watcher.events():
            answer.line({"name": text(name), "type": f"EVENT_TYPE_{kind}"})
        time.sleep(_PAUSE_S)


class _Watcher:
    """Watches a directory, and with `recursive` every directory below; symlinks are not followed.

    Attributes:
        alive: Whether the directory is still at its path.
    """

    def __init__(self, top: str, *, recursive: bool) -> None:
        self.fd = _check(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        self.alive = True
        self._top = top
        self._recursive = recursive
        self._paths: dict[int, str] = {}  # watch descriptor -> path below `top`, "" for itself
        self._moving: dict[int, str] = {}  # cookie -> path of a directory that left its name and has no new one yet
        self._uploads: set[int] = set()  # cookies of temporary files that got their name
        self._told: set[str] = set()  # found in a new directory; the kernel may tell of it too
        self._add("", follow=True)
        if recursive:
            for _ in self._add_below("", strict=True):
                pass

    def events(self) -> Iterator[tuple[str, str]]:
        """Yield (name, type) of what waits; not all of it, when much does."""
        if not (data := self._read()):
            return
        offset = 0
        while offset < len(data):
            wd, mask, cookie, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size + length
            yield from self._event(wd, mask, cookie, os.fsdecode(data[offset - length : offset].rstrip(b"\0")))
        if not select.select([self.fd], [], [], 0)[0]:
            self._settle()

    def _settle(self) -> None:
        """Nothing more waits: there is no second half of what has come."""
        self._forget_moved()
        self._uploads.clear()
        self._told.clear()

    def _forget_moved(self) -> None:
        """A directory left its name, and the next event was not its new one: it was moved out."""
        for path in self._moving.values():
            self._forget(path)
        self._moving.clear()

    def _read(self) -> bytes:
        try:
            return os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return b""

    def _event(self, wd: int, mask: int, cookie: int, name: str) -> Iterator[tuple[str, str]]:
        if mask & _OVERFLOW:
            yield (".", "UNSPECIFIED")
        if self._moving and cookie not in self._moving:
            self._forget_moved()
        directory = self._paths.get(wd)
        if directory is None:
            return
        if mask & _IGNORED:
            del self._paths[wd]
        elif mask & (_DELETE_SELF | _MOVE_SELF | _UNMOUNT):
            if not directory:
                self.alive = False
                yield (".", "RENAME" if mask & _MOVE_SELF else "REMOVE")
        elif name:
            yield from self._child_event(f"{directory}/{name}" if directory else name, mask, cookie)

    def _child_event(self, path: str, mask: int, cookie: int) -> Iterator[tuple[str, str]]:
        if is_temporary(path):
            if mask & _MOVED_FROM:
                self._uploads.add(cookie)
            return
        told = path in self._told
        self._told.discard(path)
        if mask & _MOVED_TO and cookie in self._uploads:
            yield from ((path, "CREATE"), (path, "WRITE"))
        elif not (mask & _CREATE and told):
            yield from ((path, kind) for bit, kind in _TYPES.items() if mask & bit)
        if not (self._recursive and mask & _IS_DIRECTORY):
            return
        if mask & _MOVED_FROM:
            self._moving[cookie] = path
        elif mask & _MOVED_TO and cookie in self._moving:
            self._rename(self._moving.pop(cookie), path)
        elif mask & _MOVED_TO:
            for _ in self._add_tree(path):
                pass
        elif mask & _CREATE and not told:
            yield from self._add_tree(path)

    def _add_tree(self, path: str) -> Iterator[tuple[str, str]]:
        """Watch a new directory; yield what was in it before it was watched."""
        try:
            self._add(path)
            yield from self._add_below(path, strict=False)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                yield (".", "UNSPECIFIED")

    def _add_below(self, top: str, *, strict: bool) -> Iterator[tuple[str, str]]:
        """Watch every directory below one that is watched. One that cannot be read is left out.

        Raises:
            OSError: There are too many (ENOSPC).
        """
        pending = [top]
        while pending:
            for path, is_directory in self._children(pending.pop()):
                if not strict:
                    self._told.add(path)
                    yield (path, "CREATE")
                if is_directory and self._try_add(path):
                    pending.append(path)

    def _children(self, directory: str) -> list[tuple[str, bool]]:
        try:
            with os.scandir(os.path.join(self._top, directory)) as children:
                return [
                    (f"{directory}/{child.name}" if directory else child.name, child.is_dir(follow_symlinks=False))
                    for child in children
                    if not is_temporary(child.name)
                ]
        except OSError:
            return []

    def _try_add(self, path: str) -> bool:
        try:
            self._add(path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise
            return False
        return True

    def _add(self, path: str, *, follow: bool = False) -> None:
        if len(self._paths) >= MAX_DIRECTORIES:
            raise OSError(errno.ENOSPC, "watch")
        mask = _MASK | _ONLY_DIRECTORY | (0 if follow else _NO_FOLLOW)
        full = os.fsencode(os.path.join(self._top, path))
        if b"\0" in full:
            raise OSError(errno.EINVAL, "watch")
        self._paths[_check(_libc.inotify_add_watch(self.fd, full, mask))] = path

    def _rename(self, old: str, new: str) -> None:
        for wd, path in self._paths.items():
            if path == old or path.startswith(f"{old}/"):
                self._paths[wd] = new + path[len(old) :]

    def _forget(self, top: str) -> None:
        for wd, path in list(self._paths.items()):
            if path == top or path.startswith(f"{top}/"):
                del self._paths[wd]
                _libc.inotify_rm_watch(self.fd, wd)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    return result
