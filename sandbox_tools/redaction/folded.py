"""The folded view of a text: terminal codes blanked, and characters that only look different made ASCII.

Every byte stays where it is: what is blanked becomes NUL, and a shorter character is filled up with NUL. So the
squeezed view of it sees through colours, and through full-width, mathematical and circled letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from typing import Final

_ESCAPE: Final = b"\x1b"
_MAX_CODE_BYTES: Final = 40
_CODE: Final = re.compile(rb"\x1b(?:\[[0-?]{0,32}[ -/]{0,4}[@-~]|[()][0-9A-Z])")
"""A control sequence (ECMA-48 5.4) or the choice of a character set, which `tput sgr0` prints."""
_OPEN_CODE: Final = re.compile(rb"\x1b(?:\[[0-?]{0,32}[ -/]{0,4}|[()])?\Z")
"""What may become one with the next piece of a stream."""

_LOOKALIKES: Final = (
    range(0xAA, 0xBB),  # superscripts
    range(0x2070, 0x2180),  # super- and subscripts, letter-like symbols, Roman numerals
    range(0x2460, 0x24EB),  # in circles
    range(0xFF10, 0xFF5B),  # full-width
    range(0x1D400, 0x1D800),  # mathematical
    range(0x1F110, 0x1F190),  # in squares
)
_MAYBE: Final = re.compile(
    rb"\xc2[\xaa-\xba]|\xe2[\x81-\x85\x91-\x93][\x80-\xbf]|\xef[\xbc\xbd][\x80-\xbf]"
    rb"|\xf0\x9d[\x90-\x9f][\x80-\xbf]|\xf0\x9f[\x84-\x86][\x80-\xbf]"
)


def views(data: bytes) -> Collection[bytes]:
    """Return the text, its folded view, and that view without what may become a terminal code with what follows."""
    if data.isascii() and _ESCAPE not in data:
        return (data,)  # a set would hash all of it
    return {data, folded(data), folded(_OPEN_CODE.sub(_blank, data))}


def folded(data: bytes) -> bytes:
    """Return the folded view."""
    data = _CODE.sub(_blank, data) if _ESCAPE in data else data
    return data if data.isascii() else _MAYBE.sub(_as_ascii, data)


def size_with_code(data: bytes, size: int) -> int:
    """Return how many bytes at the end of `data` are the last `size` bytes and the code in which they begin, if any."""
    start = len(data) - size
    code = data.rfind(_ESCAPE, max(0, start - _MAX_CODE_BYTES), start)
    if code < 0:
        return size
    match = _CODE.match(data, code) or _OPEN_CODE.match(data, code)
    return len(data) - code if match and match.end() > start else size


def _blank(match: re.Match[bytes]) -> bytes:
    return bytes(len(match[0]))


def _as_ascii(match: re.Match[bytes]) -> bytes:
    return _table().get(match[0], match[0])


@lru_cache(maxsize=1)
def _table() -> dict[bytes, bytes]:
    """Map each look-alike to what NFKC makes of it, if that is made of ASCII letters and digits."""
    chars = (chr(code) for block in _LOOKALIKES for code in block)
    plain = ((char.encode(), unicodedata.normalize("NFKC", char)) for char in chars)
    return {raw: text.encode().ljust(len(raw), b"\0") for raw, text in plain if text.isascii() and text.isalnum()}
