"""Content of files in a sandbox: any size, in bounded memory (wire contract 3.4)."""

from __future__ import annotations

import os
import posixpath
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import BinaryIO, Final

import anyio

from sandbox_tools.client.answers import parsed
from sandbox_tools.client.compression import packed
from sandbox_tools.client.file_reader import READ, RemoteFile, opened, opened_part, range_header
from sandbox_tools.client.filesystem import RemoteFilesystem
from sandbox_tools.client.response import OpenStream
from sandbox_tools.client.transport import Transport
from sandbox_tools.errors import (
    SandboxProtocolError,
    SandboxRequestError,
    SandboxResponseError,
    SandboxUnreachableError,
)
from sandbox_tools.wire.files import (
    FileContent,
    NewFile,
    batch_sizes_from_json,
    batch_to_json,
    content_from_json,
)

WRITE_TIMEOUT_S: Final = 300.0
"""Deadline for writing what is in memory, in seconds. A stream has none, but must not stand still."""

MAX_READ_BYTES: Final = 16 * 1024 * 1024
"""What `read` returns at most unless told otherwise, in bytes. Longer files are for `open` and `download`."""

MAX_DOWNLOAD_BYTES: Final = 4 * 1024 * 1024 * 1024
"""What `download` writes to this machine at most unless told otherwise: a sandbox must not fill its disk."""

MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
"""Of all files of one `write_batch`, in bytes: they are held in memory, as base64, on both sides."""

DOWNLOAD_TRIES: Final = 3

_PIECE_BYTES: Final = 1 << 18
_CLEAN_UP_S: Final = 5.0
_WRITE: Final = "write a file"


class RemoteFiles:
    """The files of one sandbox. Paths are absolute, or relative to the workspace.

    Every method raises `SandboxRequestError` (see errors.py).
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._filesystem = RemoteFilesystem(transport)

    @asynccontextmanager
    async def open(
        self, path: str, *, first_byte: int = 0, max_bytes: int | None = None, gzip: bool = False
    ) -> AsyncIterator[RemoteFile]:
        """Open a file for reading: one request, whose body is read as it is wanted.

        Args:
            first_byte: Where to begin. A file that ends before is answered with status 416.
            max_bytes: How much to read at most.
            gzip: Let the server compress, for text over a slow network. Not with a part of a file. It is unpacked in
                small pieces, whatever they claim to hold.
        """
        if gzip and (first_byte or max_bytes is not None):
            raise ValueError("A part of a file is not sent compressed (wire contract 3.4).")
        part = range_header(first_byte, max_bytes)
        stream = await self._open(path, {"Accept-Encoding": "gzip"} if gzip else part)
        try:
            yield opened_part(stream, first_byte, max_bytes) if part else opened(stream)
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    async def read(self, path: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """Return a whole file; a longer one than `max_bytes` is a SandboxProtocolError."""
        async with self.open(path) as file:
            if (file.size or 0) > max_bytes:
                raise _too_long(max_bytes)
            data = bytearray()
            async for piece in file.chunks():
                data += piece
                if len(data) > max_bytes:
                    raise _too_long(max_bytes)
            return bytes(data)

    async def download(
        self, path: str, target: str | os.PathLike[str], *, max_bytes: int = MAX_DOWNLOAD_BYTES, gzip: bool = False
    ) -> int:
        """Copy a file to this machine and return its size in bytes.

        `target` appears when all of it is there; what was there before stays until then. A broken connection
        begins the file again, up to `DOWNLOAD_TRIES` times in all: parts of two versions are never joined.

        Raises:
            OSError: `target` cannot be written.
        """
        for attempt in range(1, DOWNLOAD_TRIES + 1):
            try:
                return await self._download(path, anyio.Path(target), max_bytes, gzip=gzip)
            except SandboxUnreachableError as exc:
                if attempt == DOWNLOAD_TRIES or not exc.was_sent:
                    raise
            await anyio.sleep(0.1 * attempt)
        raise AssertionError("the last attempt returns or raises")

    async def write(
        self, path: str, data: bytes | AsyncIterable[bytes], *, gzip: bool = False, atomic: bool = False
    ) -> None:
        """Write a whole file; parent directories are made.

        The local sandbox replaces a file in one step, so a broken connection leaves the old content. The contract
        does not promise that of others: an error with `maybe_done` means that the file may be old, new or cut off.

        Args:
            data: Bytes, or pieces as they are to be had; those are sent as they come and never held together.
            gzip: Compress on the way, for text over a slow network.
            atomic: Leave the old content until all of the new is there, on any server: write beside it, then
                rename; a second request. Permissions of the old file, and a symlink, are then not kept.
        """
        if not atomic:
            return await self._write(path, data, gzip=gzip)
        # The name of the local agent's own temporary files, so that its watchers do not tell of it.
        temporary = posixpath.join(posixpath.dirname(path), f".{secrets.token_hex(8)}.part")
        try:
            await self._write(temporary, data, gzip=gzip)
            await self._filesystem.move(temporary, path)
        except BaseException:
            with anyio.move_on_after(_CLEAN_UP_S, shield=True):
                await self._remove_quietly(temporary)
            raise
        return None

    async def upload(self, source: str | os.PathLike[str] | BinaryIO, path: str, *, gzip: bool = False) -> None:
        """Copy a file of this machine into the sandbox; as `write` with `atomic=True`.

        Args:
            source: Its path, or an open file, which is read from where it stands and left open.

        Raises:
            OSError: `source` cannot be read.
        """
        if isinstance(source, str | os.PathLike):
            async with await anyio.open_file(source, "rb") as file:
                return await self.write(path, _pieces_of(file), gzip=gzip, atomic=True)
        return await self.write(path, _pieces_of(anyio.wrap_file(source)), gzip=gzip, atomic=True)

    async def write_batch(self, files: Sequence[NewFile]) -> None:
        """Write several small files with one request. Not atomic as a whole: an error may leave some of them.

        Raises:
            ValueError: They have more than `MAX_BATCH_BYTES` together.
        """
        if sum(len(file.data) for file in files) > MAX_BATCH_BYTES:
            raise ValueError(f"A batch has at most {MAX_BATCH_BYTES:,} bytes; write larger files one by one.")
        operation = "write several files"
        response = await self._transport.request(
            "POST", "/files/batch", operation=operation, body=batch_to_json(files), timeout_s=WRITE_TIMEOUT_S
        )
        if parsed(operation, lambda: batch_sizes_from_json(response.json_object("an answer"))) != tuple(
            len(file.data) for file in files
        ):
            raise SandboxProtocolError(operation, "not every file was written whole")

    async def compose(self, sources: Sequence[str], destination: str) -> None:
        """Join files in this order into one, and delete them: what was uploaded in parts becomes whole at once."""
        await self._transport.request(
            "POST",
            "/files/compose",
            operation="join files",
            body={"source_paths": list(sources), "destination": destination},
            timeout_s=WRITE_TIMEOUT_S,
        )

    async def content(self, path: str, *, max_tokens: int | None = None) -> FileContent:
        """Return a file as a model would look at it: text, at most about `max_tokens`, or an image."""
        params = {"path": path} | ({} if max_tokens is None else {"max_tokens": str(max_tokens)})
        response = await self._transport.request("GET", "/files/content", operation=READ, params=params)
        return parsed(READ, lambda: content_from_json(response.json_object("an answer")))

    async def _open(self, path: str, headers: Mapping[str, str]) -> OpenStream:
        # Only /files compresses (wire contract 3.4).
        route = "/files" if "Accept-Encoding" in headers else "/file"
        failure: SandboxResponseError
        try:
            return await self._transport.stream("GET", route, operation=READ, params={"path": path}, headers=headers)
        except SandboxResponseError as exc:
            failure = exc
        if failure.status == 404 and failure.reason is None:
            # A runtime may say only "not found" (wire contract 3.2).
            raise SandboxResponseError(READ, kind="not_found", status=404, reason="path_not_found")
        raise failure

    async def _download(self, path: str, target: anyio.Path, max_bytes: int, *, gzip: bool) -> int:
        temporary = target.with_name(f".{secrets.token_hex(8)}.part")
        size = 0
        try:
            async with self.open(path, gzip=gzip) as source:
                if (source.size or 0) > max_bytes:
                    raise _too_long(max_bytes)
                async with await anyio.open_file(temporary, "xb") as file:
                    async for piece in source.chunks():
                        size += len(piece)
                        if size > max_bytes:
                            raise _too_long(max_bytes)
                        await file.write(piece)
            await temporary.replace(target)
        finally:
            with anyio.CancelScope(shield=True):
                await temporary.unlink(missing_ok=True)
        return size

    async def _write(self, path: str, data: bytes | AsyncIterable[bytes], *, gzip: bool) -> None:
        headers = {"Content-Type": "application/octet-stream"} | ({"Content-Encoding": "gzip"} if gzip else {})
        params = {"path": path}
        if isinstance(data, bytes) and not gzip:
            await self._transport.request(
                "POST",
                "/file",
                operation=_WRITE,
                params=params,
                content=data,
                headers=headers,
                timeout_s=WRITE_TIMEOUT_S,
            )
            return None
        source = _Source(_once(data) if isinstance(data, bytes) else data)
        content = packed(source.pieces()) if gzip else source.pieces()
        failure: SandboxRequestError
        try:
            stream = await self._transport.stream(
                "POST", "/file", operation=_WRITE, params=params, content=content, headers=headers
            )
            return await stream.aclose()
        except SandboxRequestError as exc:
            failure = exc
        raise source.failure or failure

    async def _remove_quietly(self, path: str) -> None:
        try:
            await self._filesystem.remove(path)
        except SandboxRequestError:
            return


class _Source:
    """Pieces to send. Remembers what went wrong with them, so that it is not taken for a fault of the network."""

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        self._pieces = pieces
        self.failure: Exception | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._pieces:
                if piece:
                    yield piece
        except Exception as exc:
            self.failure = exc
            raise


async def _pieces_of(file: anyio.AsyncFile[bytes]) -> AsyncIterator[bytes]:
    while piece := await file.read(_PIECE_BYTES):
        yield piece


async def _once(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _PIECE_BYTES):
        yield data[start : start + _PIECE_BYTES]


def _too_long(max_bytes: int) -> SandboxProtocolError:
    return SandboxProtocolError(READ, f"it has more than the {max_bytes:,} bytes that were allowed")
