"""File work inside a sandbox, each piece in a child of the agent. Standard library only.

A task gets pipes that the host made. It answers on the first: a line of JSON ({"error": errno}, or the result), then
for `read` the content, for `list` and `ports` more lines. The host never opens a path of a sandbox: a path means here
what it means to the code in the sandbox, and a symlink cannot lead out.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import stat
import time
from collections.abc import Iterator
from typing import Any, NoReturn

HOME = "/root/workspace"

_CHUNK = 1 << 18
_TYPES = {stat.S_IFREG: "FILE_TYPE_FILE", stat.S_IFDIR: "FILE_TYPE_DIRECTORY", stat.S_IFLNK: "FILE_TYPE_SYMLINK"}
_TCP_LISTEN = "0A"


def run(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """Do one task and end this process."""
    tasks = {
        "read": _read,
        "write": _write,
        "stat": _stat,
        "list": _list,
        "mkdir": _make_directory,
        "remove": _remove,
        "move": _move,
        "compose": _compose,
        "ports": _ports,
    }
    answer = Answer(fds[0])
    try:
        tasks[request["task"]](request, answer, fds[1:])
    except OSError as error:
        answer.fail(error)
    except ValueError:  # text that is no path
        answer.fail(OSError(errno.EINVAL, "path"))
    finally:
        os._exit(0)


class Answer:
    """The pipe to the host: lines of JSON, then perhaps content."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._started = False

    def line(self, message: dict[str, Any]) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        self._started = True
        _write_all(self.fd, data)

    def fail(self, error: OSError) -> None:
        """Say what failed. After a first line it cannot be said: the host sees that content is missing."""
        if not self._started:
            self.line({"error": error.errno or errno.EIO})


def _read(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """Send size bytes from offset; a negative offset counts from the end."""
    file = _open_regular(_resolve(request["path"]))
    size = os.fstat(file).st_size
    if size == 0:
        _send_generated(file, answer)
        return
    offset = max(size + request["offset"], 0) if request["offset"] < 0 else request["offset"]
    count = max(size - offset, 0)
    if request["length"] is not None:
        count = min(count, request["length"])
    answer.line({"size": size, "offset": offset, "count": count})
    while count > 0:
        sent = os.sendfile(answer.fd, file, offset, min(count, _CHUNK))
        if sent == 0:
            return
        offset += sent
        count -= sent


def _send_generated(file: int, answer: Answer) -> None:
    """Send the start of a file without a size: the kernel makes the content of /proc files as they are read."""
    data = os.read(file, _CHUNK)
    answer.line({"size": len(data), "offset": 0, "count": len(data)})
    answer.write(data)


def _write(request: dict[str, Any], answer: Answer, pipes: list[int]) -> None:
    """Replace a file by what comes on the first pipe, if the second then says so; else the old file stays."""
    path = _resolve(request["path"])
    with _Replacement(path) as replacement:
        while data := os.read(pipes[0], _CHUNK):
            replacement.write(data)
        if os.read(pipes[1], 1) != b"c":
            return
        size = replacement.commit(request.get("mode"))
    answer.line({"size": size})


def _compose(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """Concatenate files into one, then delete them (wire contract 3.4)."""
    sources = [_resolve(path) for path in request["sources"]]
    destination = _resolve(request["path"])
    if not sources or destination in sources:
        raise OSError(errno.EINVAL, "compose")
    with _Replacement(destination) as replacement:
        for source in sources:
            file = _open_regular(source)
            while data := os.read(file, _CHUNK):
                replacement.write(data)
            os.close(file)
        size = replacement.commit(None)
    for source in sources:
        os.unlink(source)
    answer.line({"size": size})


def _stat(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    answer.line({"entry": _entry(_resolve(request["path"]))})


def _list(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    top = _resolve(request["path"])
    with os.scandir(top):
        answer.line({})
    for entry in _walk(top, request["depth"]):
        answer.line(entry)


def _make_directory(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    path = _resolve(request["path"])
    os.makedirs(path)
    answer.line({"entry": _entry(path)})


def _remove(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """Remove a file or a whole directory; a missing one is fine (wire contract 4.2)."""
    path = _resolve(request["path"])
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            _remove_tree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass
    answer.line({})


def _move(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    source, destination = _resolve(request["path"]), _resolve(request["destination"])
    os.lstat(source)
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    try:
        os.rename(source, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        import shutil  # from the workspace to /tmp or back; rare, and not worth its memory in every sandbox

        shutil.move(source, destination)
    answer.line({"entry": _entry(destination)})


def _ports(_request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """List listening TCP ports, from the tables of this network namespace."""
    answer.line({})
    seen = set()
    for table, any_address, own in (("tcp", "0.0.0.0", "127.0.0.1"), ("tcp6", "::", "::1")):
        for local, state in _sockets(table):
            address, port = local.split(":")
            shown = any_address if not int(address, 16) else own
            if state == _TCP_LISTEN and (port, shown) not in seen:
                seen.add((port, shown))
                answer.line({"port": int(port, 16), "address": shown})


def _sockets(table: str) -> Iterator[tuple[str, str]]:
    try:
        with open(f"/proc/net/{table}") as lines:
            next(lines)
            for line in lines:
                fields = line.split()
                yield fields[1], fields[3]
    except FileNotFoundError:  # no IPv6
        return


class _Replacement:
    """A temporary file beside the one that it will replace, gone unless it was committed."""

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)  # a write to a symlink changes the file that it names
        self._mode = 0o644
        try:
            before = os.stat(self._path)
            _check_regular(before)
            self._mode = stat.S_IMODE(before.st_mode)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
        self._temporary = f"{os.path.dirname(self._path)}/.{os.urandom(8).hex()}.part"
        self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._size = 0

    def __enter__(self) -> _Replacement:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        if self._temporary:
            os.unlink(self._temporary)

    def write(self, data: bytes) -> None:
        _write_all(self._file, data)
        self._size += len(data)

    def commit(self, mode: int | None) -> int:
        os.fchmod(self._file, self._mode if mode is None else mode)
        os.rename(self._temporary, self._path)
        self._temporary = ""
        return self._size


def _resolve(path: str) -> str:
    """Return an absolute path: `~` is the home directory, and a relative path starts there (wire contract 3.3)."""
    if path == "~" or path.startswith("~/"):
        path = HOME + path[1:]
    path = os.path.join(HOME, path)
    if ".." in path.split("/"):
        return path  # `a/..` is not nothing when `a` is a symlink: that is for the kernel to follow
    return os.path.normpath(path)


def _open_regular(path: str) -> int:
    """Open a regular file for reading. A FIFO or a device could block for ever."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    _check_regular(os.fstat(file))
    return file


def _check_regular(info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, "open")
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _walk(top: str, depth: int) -> Iterator[dict[str, Any]]:
    """Yield what is in a directory, under the path that was asked; symlinked directories are not entered."""
    with os.scandir(top) as children:
        for child in sorted(children, key=lambda item: item.name):
            try:
                yield _entry(child.path)
                if depth > 1 and child.is_dir(follow_symlinks=False):
                    yield from _walk(child.path, depth - 1)
            except (FileNotFoundError, PermissionError):
                continue


def _entry(path: str) -> dict[str, Any]:
    info = os.lstat(path)
    link = stat.S_ISLNK(info.st_mode)
    modified = time.gmtime(max(0, min(int(info.st_mtime), 253_402_300_799)))
    return {
        "name": _text(os.path.basename(path) or "/"),
        "path": _text(path),
        "type": _TYPES.get(stat.S_IFMT(info.st_mode), "FILE_TYPE_UNSPECIFIED"),
        "size": info.st_size,
        "mode": info.st_mode,
        "permissions": stat.filemode(info.st_mode),
        "owner": _user(info.st_uid),
        "group": _user(info.st_gid),
        "modifiedTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", modified),
        "symlinkTarget": _text(os.readlink(path)) if link else None,
    }


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _text(path: str) -> str:
    """File names are bytes: show what is not UTF-8 as U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def _remove_tree(path: str) -> None:
    """Remove a directory. Directories without permissions are opened first, as their owner may."""
    os.chmod(path, 0o700)
    with os.scandir(path) as children:
        for child in children:
            if child.is_dir(follow_symlinks=False):
                _remove_tree(child.path)
            else:
                os.unlink(child.path)
    os.rmdir(path)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
