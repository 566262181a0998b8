"""Pipes between the host and a sandbox, without blocking the event loop."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from contextlib import suppress
from types import TracebackType
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

PIPE_BYTES: Final = 262_144
"""Size that we ask for, and the largest read. Big reads make big frames, and so few of them."""

_F_SETPIPE_SZ: Final = 1031


def close_descriptor(fd: int) -> None:
    """Wake the tasks that wait for a descriptor, and close it when they have left.

    Its number must not be given out before that: who waits for the new one would be forgotten by anyio when the old
    one's task leaves, and wait for ever.
    """
    anyio.notify_closing(fd)
    asyncio.get_running_loop().call_soon(os.close, fd)  # after the wake-ups, which are in that queue already


class Pipe:
    """A pipe of which one end goes into a sandbox and the other stays here, non-blocking.

    The end that goes in is a separate open file description: nothing that the sandbox does to it changes ours.
    """

    def __init__(self, *, reads_here: bool) -> None:
        read_fd, write_fd = os.pipe()
        self.fd, self.inner = (read_fd, write_fd) if reads_here else (write_fd, read_fd)
        os.set_blocking(self.fd, False)
        with suppress(OSError):  # the user's share of pipe memory is used up: a small pipe works too
            fcntl.fcntl(self.fd, _F_SETPIPE_SZ, PIPE_BYTES)

    def close_inner(self) -> None:
        """Forget the end that went into the sandbox. Can be called again."""
        if self.inner >= 0:
            os.close(self.inner)
            self.inner = -1

    def close(self) -> None:
        """Close what is open. A task that waits on our end is woken first. Can be called again."""
        self.close_inner()
        if self.fd >= 0:
            close_descriptor(self.fd)
            self.fd = -1

    def __enter__(self) -> Pipe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def read(self, max_bytes: int = PIPE_BYTES) -> bytes:
        """Return what there is, at least one byte; b"" at the end of the stream.

        Always lets other tasks run: a sandbox that always has more must not keep the event loop.

        Raises:
            ClosedResourceError: It was closed here meanwhile.
        """
        await checkpoint()
        while True:
            try:
                return os.read(self._open_fd(), max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self.fd)

    def read_now(self, max_bytes: int = PIPE_BYTES) -> bytes | None:
        """Return what there is, b"" at the end of the stream, None when nothing waits."""
        try:
            return os.read(self._open_fd(), max_bytes)
        except BlockingIOError:
            return None

    async def write(self, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            BrokenPipeError: Nobody in the sandbox reads any more.
            ClosedResourceError: It was closed here meanwhile.
        """
        await checkpoint()
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._open_fd(), view) :]
            except BlockingIOError:
                await anyio.wait_writable(self.fd)

    def _open_fd(self) -> int:
        """Checked after every wait: another task may have closed the pipe, and its number may be another file's."""
        if self.fd < 0:
            raise anyio.ClosedResourceError
        return self.fd

    def unread_bytes(self) -> int:
        """Return how many bytes wait in the pipe."""
        result: bytes = fcntl.ioctl(self.fd, termios.FIONREAD, struct.pack("i", 0))
        return int(struct.unpack("i", result)[0])
