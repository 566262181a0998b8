"""An open file in a sandbox: all of it, or the part that was asked for, and nothing else (wire contract 3.4)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from sandbox_tools.client.compression import unpacked
from sandbox_tools.client.response import OpenStream
from sandbox_tools.errors import SandboxProtocolError
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.files import content_range

READ: Final = "read a file"


class RemoteFile:
    """An open file; implements `sandbox_tools.runtime.FileReader`.

    Attributes:
        size: Of the whole file in bytes, or None when the server did not say.
    """

    def __init__(self, stream: OpenStream, size: int | None, count: int | None) -> None:
        self._stream = stream
        self._count = count
        self.size: Final = size

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the content, or the part that was asked for. Stopping early ends the transfer.

        Raises:
            SandboxRequestError: The connection broke, or less came than was announced. What was yielded is then only
                the beginning. Never go on from there with a second request: the wire has no way to say whether
                the file is still the same (no ETag), so two versions could be joined.
        """
        received = 0
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                received += len(piece)
                yield piece
        if self._count is not None and received != self._count:
            raise SandboxProtocolError(READ, "it has not the length that it announced")

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        if self._stream.headers.get("content-encoding") != "gzip":
            async for piece in self._stream.chunks():
                yield piece
            return
        problem = ""
        try:
            async for piece in unpacked(self._stream.chunks()):
                yield piece
        except WireError as exc:
            problem = str(exc)
        if problem:
            raise SandboxProtocolError(READ, problem)


def range_header(first_byte: int, max_bytes: int | None) -> dict[str, str]:
    """Return the header that asks for a part of a file, or none for all of it."""
    if first_byte < 0 or (max_bytes is not None and max_bytes < 1):
        raise ValueError("first_byte counts from 0, and max_bytes from 1.")
    if not first_byte and max_bytes is None:
        return {}
    return {"Range": f"bytes={first_byte}-{'' if max_bytes is None else first_byte + max_bytes - 1}"}


def opened_part(stream: OpenStream, first_byte: int, max_bytes: int | None) -> RemoteFile:
    """Return a part of a file.

    Raises:
        SandboxProtocolError: The answer is another part, or all of it.
    """
    problem = "it is not the part that was asked for"
    try:
        start, count, size = content_range(stream.headers.get("content-range", ""))
        if stream.status == 206 and start == first_byte and count <= (max_bytes or count):
            return RemoteFile(stream, size, count)
    except WireError as exc:
        problem = str(exc)
    raise SandboxProtocolError(READ, problem)


def opened(stream: OpenStream) -> RemoteFile:
    """Return a whole file."""
    size = None if "content-encoding" in stream.headers else stream.content_length
    return RemoteFile(stream, size, None)
