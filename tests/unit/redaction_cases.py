"""Secrets, encodings and an oracle for the redaction tests.

Secrets are made when the tests run: Hypothesis collects string constants from local modules and would find them.
The oracle knows no table of forms. It undoes encodings in general and looks for what is left of a secret.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import json
import quopri
import random
import re
import shlex
import string
import unicodedata
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
    "SINGLE_QUOTES": f"x{_chars(3)}'<{_chars(3)}'",
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


ESCAPES: dict[str, Callable[[str], bytes]] = {
    "html": lambda value: html.escape(value).encode(),
    "html_text": lambda value: html.escape(value, quote=False).encode(),
    "html_decimal_quote": lambda value: html.escape(value).replace("&#x27;", "&#39;").encode(),
    "xml": lambda value: html.escape(value).replace("&#x27;", "&apos;").encode(),
    "quoted_printable": lambda value: quopri.encodestring(value.encode()).replace(b"=\n", b""),
    "repr": lambda value: repr(value)[1:-1].encode(),
    "repr_bytes": lambda value: repr(value.encode())[2:-1].encode(),
    "shell": lambda value: value.replace("'", "'\\''").encode(),
    "shell_quote": lambda value: shlex.quote(value)[1:-1].encode(),
    "shell_backslashes": lambda value: re.sub(r"([^\w@%+=:,./-])", r"\\\1", value).encode(),
    "percent_twice": lambda value: quote(quote(value, safe=""), safe="").encode(),
}
"""Of these any value is found."""

RARE_ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "html_decimal": lambda value: "".join(f"&#{ord(char)};" for char in value).encode(),
    "html_hex": lambda value: "".join(f"&#x{ord(char):x};" for char in value).encode(),
    "html_hex_upper": lambda value: "".join(f"&#x{ord(char):X};" for char in value).encode(),
    "quoted_printable_all": lambda value: "".join(f"={byte:02X}" for byte in value.encode()).encode(),
    "backslash_x": lambda value: "".join(f"\\x{byte:02x}" for byte in value.encode()).encode(),
    "backslash_x_upper": lambda value: "".join(f"\\x{byte:02X}" for byte in value.encode()).encode(),
    "backslash_u": lambda value: "".join(f"\\u{ord(char):04x}" for char in value).encode(),
    "backslash_u_upper": lambda value: "".join(f"\\u{ord(char):04X}" for char in value).encode(),
    "backslash_u_braces": lambda value: "".join(f"\\u{{{ord(char):x}}}" for char in value).encode(),
    "backslash_long_u": lambda value: "".join(f"\\U{ord(char):08x}" for char in value).encode(),
    "octal": lambda value: "".join(f"\\{byte:03o}" for byte in value.encode()).encode(),
    "octal_list": lambda value: " ".join(f"{byte:o}" for byte in value.encode()).encode(),
    "decimal_list": lambda value: str([*value.encode()]).encode(),
    "hex_list": lambda value: str([*map(hex, value.encode())]).encode(),
    "backslash_u_braces_upper": lambda value: "".join(f"\\u{{{ord(char):X}}}" for char in value).encode(),
    "backslash_long_u_upper": lambda value: "".join(f"\\U{ord(char):08X}" for char in value).encode(),
    "hex_list_upper": lambda value: " ".join(f"0x{byte:02X}" for byte in value.encode()).encode(),
    "hex_reversed_upper": lambda value: value[::-1].encode().hex().upper().encode(),
    "bits": lambda value: " ".join(f"{byte:08b}" for byte in value.encode()).encode(),
    "base85": lambda value: base64.b85encode(value.encode()),
    "ascii85": lambda value: base64.a85encode(value.encode()),
    "reversed": lambda value: value[::-1].encode(),
    "rot13": lambda value: codecs.encode(value, "rot13").encode(),
    "upper": lambda value: value.upper().encode(),
    "lower": lambda value: value.lower().encode(),
    "swapcase": lambda value: value.swapcase().encode(),
    "base64_reversed": lambda value: base64.b64encode(value[::-1].encode()),
    "reversed_base64": lambda value: base64.b64encode(value.encode())[::-1],
    "hex_reversed": lambda value: value[::-1].encode().hex().encode(),
    "reversed_hex": lambda value: value.encode().hex()[::-1].encode(),
    "base64_lines_twice": lambda value: base64.encodebytes(base64.encodebytes(value.encode())),
    "utf32": lambda value: value.encode("utf-32-le"),
}
"""Of these a strong value is found only as a whole."""

RARE_INNER_ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "base32": base64.b32encode,
    "base32_lower": lambda data: base64.b32encode(data).lower(),
    "base32hex": lambda data: base64.b32encode(data).translate(_TO_BASE32_HEX),
    "base64_twice": lambda data: base64.b64encode(base64.b64encode(data)),
    "base64_of_hex": lambda data: base64.b64encode(data.hex().encode()),
    "hex_of_base64": lambda data: base64.b64encode(data).hex().encode(),
}

LOOKS: dict[str, Callable[[str], str]] = {
    "colours": lambda value: "\x1b[1;31m".join(value) + "\x1b[0m",
    "colour_words": lambda value: "\x1b(B\x1b[m".join(value[at : at + 5] for at in range(0, len(value), 5)),
    "zero_width": "\u200b".join,
    "soft_hyphens": "\u00ad".join,
    "full_width": lambda value: "".join(chr(ord(char) + 0xFEE0) for char in value),
    "mathematical": lambda value: "".join(map(_bold, value)),
    "full_width_colours": lambda value: "\x1b[38;5;196m".join(chr(ord(char) + 0xFEE0) for char in value),
}
"""What only looks different on a screen."""

_BASE32 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BASE32_HEX = b"0123456789ABCDEFGHIJKLMNOPQRSTUV"
_TO_BASE32_HEX = bytes.maketrans(_BASE32, _BASE32_HEX)


def _bold(char: str) -> str:
    alphabet = string.ascii_uppercase + string.ascii_lowercase
    if char.isdigit():
        return chr(0x1D7CE + int(char))
    return chr(0x1D400 + alphabet.index(char)) if char in alphabet else char


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


def shows_rarely_encoded(output: bytes, secret: str, size: int) -> bool:
    """Whether anybody could get a piece of `size` characters out of `output`, in any case and two encodings deep."""
    views = {output}
    for _ in range(2):
        turned = {turn for view in views for turn in (view, view[::-1], _rot13(view))}
        views = turned | {
            text for view in turned for decode in (_plainer, _decoded, _rarely_decoded) for text in decode(view)
        }
    lowered = {view.lower() for view in views if len(view) >= size}
    lowered |= {squeezed(view) for view in lowered}
    sought = pieces(secret.lower().encode(), size) | pieces(squeezed(secret.lower().encode()), size)
    return any(piece in view for view in lowered for piece in sought)


def _rot13(data: bytes) -> bytes:
    return codecs.encode(data.decode("latin-1"), "rot13").encode("latin-1")


def _plainer(data: bytes) -> Iterator[bytes]:
    text = data.decode("utf-8", "replace")
    yield from (_json_unescaped(data), unquote_to_bytes(data), quopri.decodestring(data))
    yield html.unescape(text).encode()
    yield unicodedata.normalize("NFKC", re.sub(r"\x1b\[[0-9;]*m|\x1b\(B", "", text)).encode()
    yield data.replace(b"\\", b"").replace(b"'\"'\"'", b"'").replace(b"''", b"")


def _rarely_decoded(data: bytes) -> Iterator[bytes]:
    for pattern, base in (
        (rb"\d{1,3}", 10),
        (rb"[0-7]{2,3}", 8),
        (rb"[01]{8}", 2),
        (rb"[xuU]\{?([0-9a-fA-F]{2,8})", 16),
    ):
        codes = [int(code, base) for code in re.findall(pattern, data)]
        yield "".join(chr(code) for code in codes if code < 0x110000).encode("utf-8", "replace")
        yield bytes(code for code in codes if code < 256)
    for run in re.findall(rb"[A-Za-z2-7]{16,}", data):
        yield from (base64.b32decode(_whole(run[phase:].upper() + b"A" * 7, 8)) for phase in range(8))
    for run in re.findall(rb"[A-Va-v0-9]{16,}", data):
        runs = (_whole(run[phase:].upper() + b"A" * 7, 8) for phase in range(8))
        yield from (base64.b32decode(run.translate(bytes.maketrans(_BASE32_HEX, _BASE32))) for run in runs)
    for decode in (base64.b85decode, base64.a85decode):
        for run in re.findall(rb"[!-~]{15,}", data):
            yield from (_try(decode, _whole(run[phase:], 5)) for phase in range(5))


def _try(decode: Callable[[bytes], bytes], data: bytes) -> bytes:
    try:
        return decode(data)
    except ValueError:
        return b""


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
