"""The rarer encodings of a value: what `base32`, `od`, `rev`, `tr` or a list of character codes make of it."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Iterator
from typing import Final

MAX_FORM_BYTES: Final = 640
"""Longer than the longest spelling of a slice (see forms.py), `\\U00000041` for every character."""

_NUMBERS: Final = ("{}", "{:o}", "{:03o}", "{:08b}", "x{:02x}", "x{:02X}", "0x{:02x}", "0x{:02X}")
"""How programs print a byte. Brackets, backslashes, `&#` and spaces in between are left out in the squeezed view."""

_CODE_POINTS: Final = ("{}", "x{:x}", "x{:X}", "u{:04x}", "u{:04X}", "u{:x}", "u{:X}", "U{:08x}", "U{:08X}")
"""How programs escape a character: `&#65;`, `&#x41;`, `\\u0041`, `\\u{41}`, `\\U00000041`."""

_BASE32_HEX: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789ABCDEFGHIJKLMNOPQRSTUV")


def spellings_of(text: str) -> set[bytes]:
    """Return the rarer encodings of `text`. Each counts only as a whole; a piece of one is hardly ever printed."""
    raw = text.encode()
    forms = {*_turned(text), *_as_numbers(text), *_base32_forms(raw), *_base85_forms(raw), *_twice(raw)}
    return {form for form in forms if len(form) <= MAX_FORM_BYTES and form != raw}


def twice_in_lines(value: str) -> set[bytes]:
    """Return base64 of what the command `base64` prints of the value alone: it breaks the line after 76 characters."""
    forms = _in_base64(base64.encodebytes(value.encode()).strip(b"=\n"))
    return {form for form in forms if len(form) <= MAX_FORM_BYTES}


def base64_forms(raw: bytes) -> Iterator[bytes]:
    """Yield what base64 of any text around `raw` contains: three alignments, and only the characters that `raw`
    alone decides; the one at either end may mix in bits of a neighbour.
    """
    yield from _aligned(raw, base64.standard_b64encode, bits=6, unit=3)
    yield from _aligned(raw, base64.urlsafe_b64encode, bits=6, unit=3)


def hex_forms(raw: bytes) -> Iterator[bytes]:
    """Yield the value in hexadecimal, lower and upper case."""
    yield raw.hex().encode()
    yield raw.hex().upper().encode()


def _aligned(raw: bytes, encode: Callable[[bytes], bytes], *, bits: int, unit: int) -> Iterator[bytes]:
    """Yield for each place in a `unit` of bytes the characters, of `bits` each, that only `raw` decides."""
    for before in range(unit):
        first = -(-8 * before // bits)
        end = 8 * (before + len(raw)) // bits
        yield encode(bytes(before) + raw)[first:end]


def _turned(text: str) -> Iterator[bytes]:
    """Yield the value in another order or case, also before or after it was encoded."""
    for turned in (text[::-1], codecs.encode(text, "rot13"), text.upper(), text.lower(), text.swapcase()):
        yield turned.encode()
    raw = text.encode()
    yield from (form for encode in (base64_forms, hex_forms) for form in encode(text[::-1].encode()))
    yield from (form[::-1] for encode in (base64_forms, hex_forms) for form in encode(raw))


def _as_numbers(text: str) -> Iterator[bytes]:
    raw = text.encode()
    yield from ("".join(map(form.format, raw)).encode() for form in _NUMBERS)
    yield from ("".join(form.format(ord(char)) for char in text).encode() for form in _CODE_POINTS)


def _base32_forms(raw: bytes) -> Iterator[bytes]:
    for form in _aligned(raw, base64.b32encode, bits=5, unit=5):
        yield form
        yield form.lower()
        yield form.translate(_BASE32_HEX)


def _base85_forms(raw: bytes) -> Iterator[bytes]:
    """Yield the groups of four bytes that are whole, at each alignment."""
    for first in range(4):
        groups = raw[first : first + (len(raw) - first) // 4 * 4]
        yield base64.b85encode(groups)
        yield base64.a85encode(groups)


def _twice(raw: bytes) -> Iterator[bytes]:
    """Yield base64 of base64 and of hexadecimal, and hexadecimal of base64."""
    for inner in _in_base64(raw):
        yield from _in_base64(inner)
        yield inner.hex().encode()
    for inner in hex_forms(raw):
        yield from _in_base64(inner)


def _in_base64(raw: bytes) -> Iterator[bytes]:
    return _aligned(raw, base64.standard_b64encode, bits=6, unit=3)
