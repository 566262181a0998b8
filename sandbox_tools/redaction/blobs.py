"""Looking into a file that is passed on as it is, such as an image: a secret may be in a compressed part of it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Final

from sandbox_tools.redaction.redactor import Redactor

MAX_INFLATED: Final = 8 * 1024 * 1024
"""Bytes that all compressed parts of a file may become together."""

MAX_PARTS: Final = 100
MAX_LEVELS: Final = 3
"""Compressed parts within compressed parts."""

_PIECE_BYTES: Final = 4096
"""What comes before a fault in a compressed part is still looked at, up to the piece with the fault."""

_PNG_TEXT: Final = re.compile(rb"(?:zTXt|iCCP)[^\0]{1,79}\0\0|iTXt[^\0]{1,79}\0\x01\0[^\0]*\0[^\0]*\0")
_GZIP: Final = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]")
_ZIP_MEMBER: Final = re.compile(rb"PK\x03\x04.{4}\x08\0.{16}(..)(..)", re.DOTALL)


class _TooMuchError(Exception):
    """The file has too many compressed parts, or they become too large, or are too deep in each other."""


def is_clean(redactor: Redactor, data: bytes) -> bool:
    """Tell whether a file holds no registered value, neither in its bytes nor in what is compressed in it.

    Looked into are the text of a PNG, gzip streams and members of zip archives, wherever they begin; the pixels of an
    image are not. A file that takes too much work to look into is not clean.
    """
    try:
        return all(redactor.data(part) == part for part in _Parts().of(data))
    except _TooMuchError:
        return False


class _Parts:
    """The compressed parts of one file, and what is left of its allowance."""

    def __init__(self) -> None:
        self._bytes = MAX_INFLATED
        self._count = MAX_PARTS

    def of(self, data: bytes, level: int = 0) -> Iterator[bytes]:
        """Yield the data and everything that is compressed in it.

        Raises:
            _TooMuchError: There is more than a file may have.
        """
        yield data
        for start, wbits in _streams(data):
            self._count -= 1
            if self._count < 0 or level == MAX_LEVELS:
                raise _TooMuchError
            yield from self.of(self._inflated(memoryview(data)[start:], wbits), level + 1)

    def _inflated(self, stream: memoryview, wbits: int) -> bytes:
        inflater = zlib.decompressobj(wbits)
        out = bytearray()
        try:
            for at in range(0, len(stream), _PIECE_BYTES):
                out += inflater.decompress(stream[at : at + _PIECE_BYTES], self._bytes - len(out) + 1)
                if len(out) > self._bytes:
                    raise _TooMuchError
                if inflater.eof:
                    break
        except zlib.error:
            pass
        self._bytes -= len(out)
        return bytes(out)


def _streams(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where a compressed part may begin, and what zlib calls its format."""
    for found in _PNG_TEXT.finditer(data):
        yield found.end(), zlib.MAX_WBITS
    for found in _GZIP.finditer(data):
        yield found.start(), zlib.MAX_WBITS | 16
    for found in _ZIP_MEMBER.finditer(data):
        sizes = (int.from_bytes(size, "little") for size in found.groups())
        yield found.end() + sum(sizes), -zlib.MAX_WBITS
