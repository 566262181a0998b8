"""Content of files in a sandbox: reading, and replacing as a whole. Tasks of `tasks.py`."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Any

from sandbox_tools.guest.answer import Answer, write_all
from sandbox_tools.guest.tree import entry, resolve

MAX_EDIT_BYTES = 16 << 20
"""Of a file that is edited: it is read whole."""

_CHUNK = 1 << 18
_TEMPORARY = re.compile(r"(.*/)?\.[0-9a-f]{16}\.part", re.ASCII | re.DOTALL)


def read(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """Send size bytes from offset; a negative offset counts from the end."""
    file = _open_regular(resolve(request["path"]))
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


def write(request: dict[str, Any], answer: Answer, pipes: list[int]) -> None:
    """Replace a file by what comes on the first pipe, if the second then says so; else the old file stays.

    With a `name`, a path that is a directory, or ends like one, is where the file of that name goes.
    """
    path, name = resolve(request["path"]), request.get("name")
    below = name is not None and (request["path"].endswith("/") or os.path.isdir(path))
    if below:
        path = os.path.normpath(f"{path}/{name}")
    with _Replacement(path) as replacement:
        while data := os.read(pipes[0], _CHUNK):
            replacement.write(data)
        if os.read(pipes[1], 1) != b"c":
            return
        replacement.commit(request.get("mode"))
    answer.line({"entry": entry(path), "below": below})


def compose(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """Concatenate files into one, then delete them (wire contract 3.4)."""
    sources = [resolve(path) for path in request["sources"]]
    destination = resolve(request["path"])
    if not sources or os.path.realpath(destination) in map(os.path.realpath, sources):
        raise OSError(errno.EINVAL, "compose")
    with _Replacement(destination) as replacement:
        for source in sources:
            file = _open_regular(source)
            while data := os.read(file, _CHUNK):
                replacement.write(data)
            os.close(file)
        replacement.commit(None)
    for source in dict.fromkeys(sources):
        os.unlink(source)
    answer.line({"entry": entry(destination)})


def edit(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """Replace text that is there exactly once; else only say how often it was found (2: more than once)."""
    path = resolve(request["path"])
    old, new = bytes.fromhex(request["old"]), bytes.fromhex(request["new"])
    data = _read_whole(path)
    first = data.find(old)
    found = 0 if first < 0 else 1 if data.find(old, first + 1) < 0 else 2
    if found == 1:
        with _Replacement(path) as replacement:
            replacement.write(data[:first] + new + data[first + len(old) :])
            replacement.commit(None)
    answer.line({"found": found})


def is_temporary(path: str) -> bool:
    """Whether a path is that of a file which is still being written."""
    return _TEMPORARY.fullmatch(path) is not None


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

    def __enter__(self) -> _Replacement:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        if self._temporary:
            os.unlink(self._temporary)

    def write(self, data: bytes) -> None:
        write_all(self._file, data)

    def commit(self, mode: int | None) -> None:
        os.fchmod(self._file, self._mode if mode is None else mode)
        os.rename(self._temporary, self._path)
        self._temporary = ""


def _open_regular(path: str) -> int:
    """Open a regular file for reading. A FIFO or a device could block for ever."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    _check_regular(os.fstat(file))
    return file


def _read_whole(path: str) -> bytes:
    with open(_open_regular(path), "rb") as file:
        data = file.read(MAX_EDIT_BYTES + 1)
    if len(data) > MAX_EDIT_BYTES:
        raise OSError(errno.EFBIG, "edit")
    return data


def _check_regular(info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, "open")
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
