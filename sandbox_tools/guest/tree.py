"""Names in a sandbox: what a path is, directories, moving and removing. Tasks of `tasks.py`."""

from __future__ import annotations

import errno
import os
import pwd
import stat
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sandbox_tools.guest.answer import Answer

HOME = "/root/workspace"

_TYPES = {stat.S_IFREG: "FILE_TYPE_FILE", stat.S_IFDIR: "FILE_TYPE_DIRECTORY", stat.S_IFLNK: "FILE_TYPE_SYMLINK"}


def stat_path(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    answer.line({"entry": entry(resolve(request["path"]))})


def list_directory(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """Send a line for each entry, at most about `limit`, and a last one, so that a part is not taken for the whole."""
    top = resolve(request["path"])
    with os.scandir(top):
        answer.line({})
    for found in _walk(top, request["depth"], request["limit"]):
        answer.line(found)
    answer.line({"end": True})


def make_directory(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    path = resolve(request["path"])
    os.makedirs(path)
    answer.line({"entry": entry(path)})


def remove(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """Remove a file or a whole directory; a missing one is fine (wire contract 4.2)."""
    path = resolve(request["path"])
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            _remove_tree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass
    answer.line({})


def move(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    source, destination = resolve(request["path"]), resolve(request["destination"])
    os.lstat(source)
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    try:
        os.rename(source, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        import shutil  # from the workspace to /tmp or back; rare, and not worth its memory in every sandbox

        shutil.move(source, destination)
    answer.line({"entry": entry(destination)})


def resolve(path: str) -> str:
    """Return an absolute path: `~` is the home directory, and a relative path starts there (wire contract 3.3)."""
    if path == "~" or path.startswith("~/"):
        path = HOME + path[1:]
    path = os.path.join(HOME, path)
    if ".." in path.split("/"):
        return path  # `a/..` is not nothing when `a` is a symlink: that is for the kernel to follow
    return os.path.normpath(path)


def entry(path: str) -> dict[str, Any]:
    """Return an EntryInfo (wire contract 4.2)."""
    info = os.lstat(path)
    link = stat.S_ISLNK(info.st_mode)
    modified = time.gmtime(max(0, min(int(info.st_mtime), 253_402_300_799)))
    return {
        "name": text(os.path.basename(path) or "/"),
        "path": text(path),
        "type": _TYPES.get(stat.S_IFMT(info.st_mode), "FILE_TYPE_UNSPECIFIED"),
        "size": info.st_size,
        "mode": info.st_mode,
        "permissions": stat.filemode(info.st_mode),
        "owner": _user(info.st_uid),
        "group": _user(info.st_gid),
        "modifiedTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", modified),
        "symlinkTarget": text(os.readlink(path)) if link else None,
    }


def text(path: str) -> str:
    """File names are bytes: show what is not UTF-8 as U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def _walk(top: str, depth: int, limit: int) -> Iterator[dict[str, Any]]:
    """Yield what is in a directory, under the path that was asked; symlinked directories are not entered.

    Of each directory at most `limit` names are looked at: the host refuses a longer answer.
    """
    with os.scandir(top) as children:
        for child in sorted(islice(children, limit), key=lambda item: item.name):
            try:
                yield entry(child.path)
                if depth > 1 and child.is_dir(follow_symlinks=False):
                    yield from _walk(child.path, depth - 1, limit)
            except OSError as error:
                if error.errno == errno.EPIPE:  # the host has enough
                    raise


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _remove_tree(path: str) -> None:
    """Remove a directory and all in it. Symlinks are not followed.

    The working directory goes along: a tree can be deeper than the longest path, or than Python's stack.
    """
    parent, name = os.path.split(path)
    os.chdir(parent)
    way = [_here()]
    pending = [[name]]
    while pending[0]:
        if pending[-1]:
            way.append(_enter(pending[-1][-1]))
            pending.append(_unlink_files())
            continue
        pending.pop()
        way.pop()
        os.chdir("..")
        if _here() != way[-1]:
            raise OSError(errno.EBUSY, "the directory was moved")
        os.rmdir(pending[-1].pop())


def _enter(name: str) -> tuple[int, int]:
    """Go into a directory; one without permissions is opened first, as its owner may."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        directory = os.open(name, flags)
    except PermissionError:
        os.chmod(name, 0o700)
        directory = os.open(name, flags)
    os.fchmod(directory, 0o700)
    os.fchdir(directory)
    os.close(directory)
    return _here()


def _here() -> tuple[int, int]:
    info = os.stat(".")
    return info.st_dev, info.st_ino


def _unlink_files() -> list[str]:
    """Unlink what is no directory in the working directory; return the directories."""
    directories = []
    with os.scandir(".") as children:
        for child in children:
            if child.is_dir(follow_symlinks=False):
                directories.append(child.name)
            else:
                os.unlink(child.name)
    return directories
