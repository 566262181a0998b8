"""Could anybody get a secret out of these bytes? The oracle of the leak matrix.

It knows nothing of the redactor, of its forms or of how a test spelled the secret. It undoes encodings in general, in
every phase and one inside the other, and looks for any eight characters of the secret in what comes out.
"""

from __future__ import annotations

import base64
import codecs
import html
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from urllib.parse import unquote_to_bytes

MIN_RUN = 8
"""Characters of a secret in a row that count as a leak."""

DEPTH = 2
"""Encodings that are undone one inside the other."""

_NOT_ALPHANUMERIC = bytes(byte for byte in range(256) if not chr(byte).isascii() or not chr(byte).isalnum())
_STANDARD = bytes.maketrans(b"-_", b"+/")
_HEX_TO_BASE32 = bytes.maketrans(b"0123456789ABCDEFGHIJKLMNOPQRSTUV", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


def shows(output: bytes, secret: str, *, depth: int = DEPTH) -> bool:
    """Tell whether a run of `MIN_RUN` characters of the secret can be got out of the output, in any case."""
    lowered, tight = _all_views(output, depth)
    plain = secret.encode().lower()
    return _meet(plain, lowered) or _meet(_squeezed(plain), tight)


@lru_cache(maxsize=16)
def _all_views(output: bytes, depth: int) -> tuple[bytes, bytes]:
    """Return everything that the output can be decoded to, and the letters and digits of it; in lower case."""
    views = [view.lower() for view in _views(output, depth)]
    return b"\n".join(views), b"\n".join(map(_squeezed, views))


def _meet(secret: bytes, text: bytes) -> bool:
    return any(piece in text for piece in _pieces(secret))


def _pieces(data: bytes) -> frozenset[bytes]:
    return frozenset(data[at : at + MIN_RUN] for at in range(len(data) - MIN_RUN + 1))


def _views(output: bytes, depth: int) -> Iterator[bytes]:
    """Yield the output and all that it can be decoded to, each once."""
    seen = {output}
    newest = {output}
    yield output
    for level in range(depth):
        decoders = [decode for name, decode in DECODERS.items() if not level or name not in _OUTERMOST]
        found = {view for data in newest for decode in decoders for view in decode(data)}
        newest = {view for view in found - seen if len(view) >= MIN_RUN}
        seen |= newest
        yield from newest


def _squeezed(data: bytes) -> bytes:
    return data.translate(None, _NOT_ALPHANUMERIC)


def _base64(data: bytes) -> Iterator[bytes]:
    runs = [run.translate(_STANDARD) for run in re.findall(rb"[A-Za-z0-9+/_-]{11,}", data)]
    for phase in range(4):
        yield b"\n".join(base64.b64decode(_whole(run[phase:] + b"AAA", 4)) for run in runs)


def _hex(data: bytes) -> Iterator[bytes]:
    runs = re.findall(rb"[0-9a-fA-F]{16,}", data)
    for phase in range(2):
        yield b"\n".join(bytes.fromhex(_whole(run[phase:], 2).decode()) for run in runs)


def _base32(data: bytes) -> Iterator[bytes]:
    runs = [run.upper() for run in re.findall(rb"[A-Za-z2-7]{13,}", data)]
    others = [run.upper().translate(_HEX_TO_BASE32) for run in re.findall(rb"[A-Va-v0-9]{13,}", data)]
    for phase in range(8):
        for found in (runs, others):
            yield b"\n".join(base64.b32decode(_whole(run[phase:] + b"A" * 7, 8)) for run in found)


def _base85(data: bytes) -> Iterator[bytes]:
    for decode in (base64.b85decode, base64.a85decode):
        for run in re.findall(rb"[!-~]{15,400}", data):
            yield from (_tried(decode, _whole(run[phase:], 5)) for phase in range(5))


def _url(data: bytes) -> Iterator[bytes]:
    yield unquote_to_bytes(data)


def _backslashes(data: bytes) -> Iterator[bytes]:
    r"""Undo JSON and the literals of languages: `\n`, `\"`, `\u0041`, `\x41`, `\U00000041`, `\u{41}`, `\101`."""
    yield re.sub(rb"\\(?:[uU]([0-9a-fA-F]{8}|[0-9a-fA-F]{4})|[xu]\{?([0-9a-fA-F]{1,8})\}?|([0-7]{3})|(.))", _char, data)


def _char(match: re.Match[bytes]) -> bytes:
    code, short, octal, char = match.groups()
    if char is not None:
        return {b"n": b"\n", b"t": b"\t", b"r": b"\r"}.get(char, char)
    number = int(octal, 8) if octal else int(code or short, 16)
    return chr(number).encode("utf-8", "replace") if number < 0x110000 else b""


def _json(data: bytes) -> Iterator[bytes]:
    """The strings of a JSON document, each one whole."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    yield "\n".join(_texts(document)).encode("utf-8", "replace")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in _texts(part))
    elif isinstance(value, list):
        yield from (text for item in value for text in _texts(item))


def _html(data: bytes) -> Iterator[bytes]:
    yield html.unescape(data.decode("utf-8", "replace")).encode("utf-8", "replace")


def _rot13(data: bytes) -> Iterator[bytes]:
    yield codecs.encode(data.decode("latin-1"), "rot13").encode("latin-1")


def _reversed(data: bytes) -> Iterator[bytes]:
    yield data[::-1]


def _without_nul(data: bytes) -> Iterator[bytes]:
    yield data.replace(b"\0", b"")


def _without_marks(data: bytes) -> Iterator[bytes]:
    """Line breaks, separators and quotes out: wrapped base64, hexadecimal in pairs, lists of characters."""
    yield re.sub(rb"[\s:,'\"]|\\[nr]", b"", data)


def _alphanumeric(data: bytes) -> Iterator[bytes]:
    yield _squeezed(data)


def _looks(data: bytes) -> Iterator[bytes]:
    text = re.sub(r"\x1b\[[0-9;]*m|\x1b\(B|[\u200b\u00ad]", "", data.decode("utf-8", "replace"))
    yield unicodedata.normalize("NFKC", text).encode("utf-8", "replace")


def _quoted_printable(data: bytes) -> Iterator[bytes]:
    yield re.sub(rb"=([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), data)


def _numbers(data: bytes) -> Iterator[bytes]:
    """Characters or bytes that are written as numbers, in any base."""
    for pattern, base in ((rb"\b0x([0-9a-fA-F]{2})\b", 16), (rb"\b[01]{8}\b", 2), (rb"\b\d{2,3}\b", 10)):
        codes = [int(code, base) for code in re.findall(pattern, data)]
        yield "".join(map(chr, codes)).encode()
        yield bytes(code for code in codes if code < 256)
    octal = [int(code, 8) for code in re.findall(rb"\b[0-3]?[0-7]{2}\b", data)]
    yield bytes(octal)


DECODERS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "base64": _base64,
    "hex": _hex,
    "base32": _base32,
    "base85": _base85,
    "url": _url,
    "backslashes": _backslashes,
    "json": _json,
    "html": _html,
    "rot13": _rot13,
    "reversed": _reversed,
    "without NUL": _without_nul,
    "without marks": _without_marks,
    "alphanumeric": _alphanumeric,
    "looks": _looks,
    "quoted-printable": _quoted_printable,
    "numbers": _numbers,
}

_OUTERMOST = ("base85",)
"""It makes something of any text, so it is not tried on what another decoder made."""


def _whole(run: bytes, unit: int) -> bytes:
    return run[: len(run) // unit * unit]


def _tried(decode: Callable[[bytes], bytes], data: bytes) -> bytes:
    try:
        return decode(data)
    except ValueError:
        return b""
