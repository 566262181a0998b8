"""Secrets, encodings and an oracle for the redaction tests.

Secrets are made when the tests run: Hypothesis collects string constants from local modules and would find them.
The oracle knows no table of forms. It undoes encodings in general and looks for what is left of a secret.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
import re
import string
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus, unquote_to_bytes

from sandbox_tools.redaction import Redactor, Registry

_RANDOM = random.Random(20261)
_URL_SAFE = string.ascii_letters + string.digits + "-_"


def _chars(count: int, alphabet: str = _URL_SAFE) -> str:
    return "".join(_RANDOM.choices(alphabet, k=count))


def _base64url(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _jwt() -> str:
    header = _base64url(json.dumps({"alg": "HS256", "typ": "JWT"}))
    return f"{header}.{_base64url(json.dumps({'sub': _chars(12)}))}.{_chars(43)}"


_HEX64 = _chars(64, "0123456789abcdef")
_SHARED = _chars(18)

SECRETS = {
    "HEX64": _HEX64,
    "HEX64_PREFIX": _HEX64[:40],
    "BASE64URL43": _chars(43),
    "SK": f"sk-proj-{_chars(32)}",
    "JWT": _jwt(),
    "DECOY": f"ghp_ghp_{_chars(32, string.ascii_letters + string.digits)}",
    "OVERLAP_A": _chars(14) + _SHARED,
    "OVERLAP_B": _SHARED + _chars(14),
    "SELF_OVERLAP": _chars(4, string.ascii_lowercase) * 12,
    "STRONG20": _chars(20, string.ascii_letters + string.digits),
    "QUOTES": f"{_chars(12)}\"'\\%+/=&é{_chars(12)}ü\\n/",
    "SHORT": f'q{_chars(4)}/"+ é%',
    "SHORT_PLAIN": _chars(8, string.ascii_letters + string.digits),
}
SPREADABLE = ("HEX64", "BASE64URL43", "SK", "JWT", "DECOY", "OVERLAP_A", "STRONG20")
"""Strong, and made of letters and digits almost only, so also found with something between their characters."""

ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "raw": lambda value: value.encode(),
    "percent": lambda value: quote(value, safe="").encode(),
    "percent_default": lambda value: quote(value).encode(),
    "percent_plus": lambda value: quote_plus(value).encode(),
    "percent_lower": lambda value: _lower_escapes(quote(value, safe="")),
    "percent_every_byte": lambda value: "".join(f"%{byte:02X}" for byte in value.encode()).encode(),
    "percent_every_byte_lower": lambda value: "".join(f"%{byte:02x}" for byte in value.encode()).encode(),
    "json": lambda value: json.dumps(value).encode(),
    "json_unicode": lambda value: json.dumps(value, ensure_ascii=False).encode(),
    "json_slash": lambda value: json.dumps(value).replace("/", "\\/").encode(),
    "json_twice": lambda value: json.dumps(json.dumps(value)).encode(),
    "json_unicode_twice": lambda value: json.dumps(json.dumps(value, ensure_ascii=False), ensure_ascii=False).encode(),
}

INNER_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
    "hex": lambda data: data.hex().encode(),
    "hex_upper": lambda data: data.hex().upper().encode(),
}
"""Encodings whose look depends on what stands before the value inside them."""

SPREAD_ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "base64_lines": lambda value: _joined(base64.b64encode(value.encode()).decode(), 20, "\r\n"),
    "hex_pairs": lambda value: _joined(value.encode().hex(), 2, " "),
    "hex_colons": lambda value: _joined(value.encode().hex(), 2, ":"),
    "characters": lambda value: _joined(value, 1, " "),
    "character_list": lambda value: json.dumps(list(value), indent=4).encode(),
    "utf16": lambda value: value.encode("utf-16-le"),
}


def _lower_escapes(escaped: str) -> bytes:
    return re.sub("%..", lambda match: match[0].lower(), escaped).encode()


def _joined(text: str, size: int, separator: str) -> bytes:
    return separator.join(text[at : at + size] for at in range(0, len(text), size)).encode()


def registry_of(*names: str) -> Registry:
    """Return a registry of some of the secrets, of all without names."""
    registry = Registry()
    for name in names or SECRETS:
        registry.register(name, SECRETS[name])
    return registry


def redact_in_pieces(redactor: Redactor, data: bytes, sizes: list[int]) -> bytes:
    """Feed `data` in pieces of the sizes, again and again, and return all that comes out."""
    stream = redactor.stream()
    out, at, turn = b"", 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        out += stream.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    return out + stream.close()


def protected_part(name: str) -> str:
    """Return the part of a secret that a text must not show: all but the header of a JWT, which is no secret."""
    return SECRETS[name].partition(".")[2] if name == "JWT" else SECRETS[name]


def longest_leak(output: bytes, secret: str) -> int:
    """Return the size of the longest piece of `secret` that anybody could get out of `output`."""
    views = [view for decoded in _unescaped(output) for view in (decoded, *_decoded(decoded))]
    plain, joined_up = secret.encode(), squeezed(secret.encode())
    return max(max(_longest_common(plain, view), _longest_common(joined_up, squeezed(view))) for view in views)


def _unescaped(output: bytes) -> Iterator[bytes]:
    once = _json_unescaped(output)
    yield from (output, once, _json_unescaped(once))
    yield from (unquote_to_bytes(output), unquote_to_bytes(output.replace(b"+", b" ")))
    yield output.replace(b"\0", b"")


def _json_unescaped(data: bytes) -> bytes:
    return re.sub(rb"\\(u[0-9a-fA-F]{4}|.)", _unescape, data, flags=re.DOTALL)


def _unescape(match: re.Match[bytes]) -> bytes:
    escape = match[1]
    if len(escape) == 5:
        return chr(int(escape[1:], 16)).encode("utf-8", "surrogatepass")
    return {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"f": b"\f"}.get(escape, escape)


def _decoded(data: bytes) -> Iterator[bytes]:
    joined = re.sub(rb"[\s:,'\"]", b"", data)
    for text in {data, joined}:
        for run in re.findall(rb"[A-Za-z0-9+/_-]{12,}", text):
            standard = run.translate(bytes.maketrans(b"-_", b"+/"))
            yield from (base64.b64decode(_whole(standard[phase:] + b"AAA", 4)) for phase in range(4))
        for run in re.findall(rb"[0-9a-fA-F]{12,}", text):
            yield from (binascii.unhexlify(_whole(run[phase:], 2)) for phase in range(2))


def _whole(run: bytes, unit: int) -> bytes:
    return run[: len(run) // unit * unit]


def pieces(form: bytes, size: int) -> set[bytes]:
    """Return every piece of `form` that has `size` bytes."""
    return {form[at : at + size] for at in range(len(form) - size + 1)}


def squeezed(data: bytes) -> bytes:
    """Return the ASCII letters and digits of `data`."""
    return re.sub(rb"[^A-Za-z0-9]", b"", data)


def _longest_common(secret: bytes, text: bytes) -> int:
    best = 0
    while any(secret[at : at + best + 1] in text for at in range(len(secret) - best)):
        best += 1
    return best
