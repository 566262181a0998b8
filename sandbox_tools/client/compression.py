"""gzip of file contents, piece by piece: a small body may unpack to any size, so no piece of it may grow large."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

import anyio.to_thread

from sandbox_tools.wire.envelope import WireError

_GZIP: Final = zlib.MAX_WBITS | 16
_LEVEL: Final = 3
"""Level 6 takes three times as long for text that becomes a tenth smaller."""

_PIECE_BYTES: Final = 1 << 18
"""Most that one step of unpacking yields, in bytes, however small its input is."""


async def packed(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield gzip of `pieces`. The work is done outside the event loop."""
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP)
    async for piece in pieces:
        if data := await anyio.to_thread.run_sync(packer.compress, piece):
            yield data
    yield packer.flush()


async def unpacked(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield what gzip of one or more members holds, at most `_PIECE_BYTES` at a time.

    Raises:
        WireError: It is not gzip, or it is cut off.
    """
    unpacker = zlib.decompressobj(wbits=_GZIP)
    async for piece in pieces:
        rest = piece
        while rest:
            if unpacker.eof:
                unpacker = zlib.decompressobj(wbits=_GZIP)
            data = _unpack(unpacker, rest)
            rest = unpacker.unconsumed_tail or unpacker.unused_data
            if data:
                yield data
    if not unpacker.eof:
        raise WireError("it is cut off inside its compression")


def _unpack(unpacker: zlib._Decompress, data: bytes) -> bytes:
    try:
        return unpacker.decompress(data, _PIECE_BYTES)
    except zlib.error:
        pass
    raise WireError("it is not gzip")
