"""Compression of file bodies: gzip in both directions, piece by piece, and which one a caller takes."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final, Literal

import anyio.to_thread
from starlette.requests import Request

from sandbox_tools.local.web import MAX_UPLOAD_BYTES, RequestError, body_chunks

_GZIP: Final = zlib.MAX_WBITS | 16
_PIECE_BYTES: Final = 1 << 18
_FASTEST: Final = 1
"""Compression level: this is for the wire of one machine."""


def upload_chunks(request: Request) -> AsyncIterator[bytes]:
    """Return the body, unpacked when `Content-Encoding` says gzip.

    Raises:
        RequestError: Now: another encoding (415). While it is read: larger than allowed, packed or not (413); not
            gzip (400).
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "gzip":
        return unpack(body_chunks(request, MAX_UPLOAD_BYTES), MAX_UPLOAD_BYTES)
    if encoding != "identity":
        raise RequestError(415, "the content encoding must be gzip or identity")
    return body_chunks(request, MAX_UPLOAD_BYTES)


async def unpack(chunks: AsyncIterable[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """Unpack gzip of one or more members. A small body may hold a huge file: what came out is counted."""
    unpacker = zlib.decompressobj(wbits=_GZIP)
    size = 0
    async for chunk in chunks:
        rest = chunk
        while rest:
            if unpacker.eof:
                unpacker = zlib.decompressobj(wbits=_GZIP)
            try:
                data = unpacker.decompress(rest, _PIECE_BYTES)
            except zlib.error:
                raise RequestError(400, "the body is not gzip") from None
            size += len(data)
            if size > max_bytes:
                raise RequestError(413, f"the unpacked body is larger than {max_bytes} bytes")
            rest = unpacker.unconsumed_tail or unpacker.unused_data
            yield data
    if not unpacker.eof:
        raise RequestError(400, "the body is not whole gzip")


async def pack(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield gzip of `chunks`; the work is done outside the event loop."""
    packer = zlib.compressobj(_FASTEST, wbits=_GZIP)
    async for chunk in chunks:
        if data := await anyio.to_thread.run_sync(packer.compress, chunk):
            yield data
    yield packer.flush()


def chosen_encoding(header: str, *, may_pack: bool) -> Literal["gzip", "identity"]:
    """Return what `Accept-Encoding` wants most. gzip only when it is named, or when nothing else is left.

    Raises:
        RequestError: It takes neither (406).
    """
    weights = dict(_weight(item) for item in header.lower().split(",") if item.strip())
    other = weights.get("*")
    named = weights.get("gzip", 0.0)
    if may_pack and named > 0 and named >= weights.get("identity", 0.0):
        return "gzip"
    if weights.get("identity", 1.0 if other is None else other) > 0:
        return "identity"
    if may_pack and weights.get("gzip", other or 0.0) > 0:
        return "gzip"
    raise RequestError(406, "the content can be sent as identity, and as gzip when there is no range")


def _weight(item: str) -> tuple[str, float]:
    name, _, parameter = item.partition(";")
    key, _, value = parameter.strip().partition("=")
    try:
        weight = float(value) if key.strip() == "q" else 1.0
    except ValueError:
        weight = 0.0
    return name.strip(), weight
