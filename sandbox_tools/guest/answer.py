"""The pipe on which a task answers the host: a line of JSON, then perhaps more lines, or content."""

from __future__ import annotations

import errno
import json
import os
from typing import Any


class Answer:
    """The pipe's end in the sandbox."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._started = False

    def line(self, message: dict[str, Any]) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        self._started = True
        write_all(self.fd, data)

    def fail(self, error: OSError) -> None:
        """Say what failed. After a first line it cannot be said: the host sees that the rest is missing."""
        if not self._started:
            self.line({"error": error.errno or errno.EIO})


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
