"""How a secret value may look in a text: the encodings that are recognised."""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, quote_plus

STRONG_CHARS: Final = 16
STRONG_BITS: Final = 56.0
"""A value with less is only redacted as a whole: pieces of it would match ordinary text, and would answer guesses."""

_SECRET_PART: Final = re.compile(
    r"eyJ[\w-]+\.(.+)"  # a JWT behind its header, which is the same in many
    r"|[a-z][a-z0-9+.-]*://(?:[^/:@]*:)?([^/]+)@.*"  # the password in a URL, whose host is no secret
    r"|[a-z][a-z0-9+.-]*://[^/]*/(.+)",  # the path of a URL without one
    re.IGNORECASE | re.DOTALL,
)
"""What of a value is secret also in pieces. The rest is redacted only where the whole value is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """The forms of one value, as bytes.

    Attributes:
        whole: Redacted where they are complete.
        fragments: Redacted wherever enough consecutive bytes of one appear. Empty for a value that is not strong.
    """

    whole: frozenset[bytes] = field(repr=False)
    fragments: frozenset[bytes] = field(repr=False)


def forms_of(value: str) -> Forms:
    """Return every form in which `value` is recognised."""
    escaped = {text.encode() for text in (*_percent_forms(value), *_json_forms(value))}
    part = _secret_part(value)
    return Forms(
        whole=frozenset(escaped | _dense_forms(value)),
        fragments=frozenset(_dense_forms(part) if _is_strong(part) else ()),
    )


def _secret_part(value: str) -> str:
    match = _SECRET_PART.fullmatch(value)
    return match[match.lastindex or 0] if match else value


def _is_strong(text: str) -> bool:
    return len(text) >= STRONG_CHARS and _shannon_bits(text) >= STRONG_BITS


def _dense_forms(text: str) -> set[bytes]:
    """Return the forms of which a piece is worth as much as a piece of the text itself."""
    raw = text.encode()
    return {raw, *_base64_forms(raw), *_hex_forms(raw)}


def _shannon_bits(text: str) -> float:
    size = len(text)
    return -sum(count * math.log2(count / size) for count in Counter(text).values())


def _hex_forms(raw: bytes) -> Iterator[bytes]:
    yield raw.hex().encode()
    yield raw.hex().upper().encode()


def _base64_forms(raw: bytes) -> Iterator[bytes]:
    """Yield what base64 of any text around `raw` contains: three alignments, and only the characters that `raw`
    alone decides; the one at either end may mix in bits of a neighbour.
    """
    for before in range(3):
        first = -(-8 * before // 6)
        end = 8 * (before + len(raw)) // 6
        padded = bytes(before) + raw
        yield base64.standard_b64encode(padded)[first:end]
        yield base64.urlsafe_b64encode(padded)[first:end]


def _percent_forms(value: str) -> Iterator[str]:
    for escaped in (quote(value, safe=""), quote(value), quote_plus(value)):
        yield escaped
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), escaped)
    every_byte = "".join(f"%{byte:02X}" for byte in value.encode())
    yield every_byte
    yield every_byte.lower()


def _json_forms(value: str) -> Iterator[str]:
    """Yield the inside of JSON strings: escaped once, and as JSON inside JSON."""
    for ensure_ascii in (True, False):
        once = _json_inside(value, ensure_ascii=ensure_ascii)
        for escaped in (once, once.replace("/", "\\/")):
            yield escaped
            yield _json_inside(escaped, ensure_ascii=ensure_ascii)


def _json_inside(text: str, *, ensure_ascii: bool) -> str:
    return json.dumps(text, ensure_ascii=ensure_ascii)[1:-1]
