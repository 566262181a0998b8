"""How a secret value may look in a text: the encodings that are recognised."""

from __future__ import annotations

import html
import json
import math
import quopri
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, quote_plus

from sandbox_tools.redaction.spellings import base64_forms, hex_forms, spellings_of, twice_in_lines

STRONG_CHARS: Final = 16
STRONG_BITS: Final = 56.0
"""A value with less is only redacted as a whole: pieces of it would match ordinary text, and would answer guesses."""

SLICE_CHARS: Final = 64
"""A longer value is looked for in slices where it is encoded in a rare way: nothing that is found is long."""

_OVERLAP_CHARS: Final = 4
"""By how much slices overlap, so that those of one value share a placeholder."""

_SECRET_PART: Final = re.compile(
    r"eyJ[\w-]+\.(.+)"  # a JWT behind its header, which is the same in many
    r"|-----BEGIN [A-Z0-9 ]+-----\s+(.+?)\s+-----END [A-Z0-9 ]+-----"  # a PEM block within its armour
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
        spread: Redacted where they are complete, also with other characters in between. Likewise empty.
    """

    whole: frozenset[bytes] = field(repr=False)
    fragments: frozenset[bytes] = field(repr=False)
    spread: frozenset[bytes] = field(repr=False)


def forms_of(value: str) -> Forms:
    """Return every form in which `value` is recognised."""
    escapes = (_percent_forms, _json_forms, _markup_forms, _source_forms)
    escaped = {text.encode() for escape in escapes for text in escape(value)}
    part = _secret_part(value)
    is_strong = _is_strong(part)
    slices = (piece for line in part.splitlines() for piece in _slices(line) if _is_strong(piece))
    rare = {form for piece in slices for form in spellings_of(piece)}
    return Forms(
        whole=frozenset(escaped | _dense_forms(value)),
        fragments=frozenset(_dense_forms(part) if is_strong else ()),
        spread=frozenset(rare.union(twice_in_lines(value)) if is_strong else ()),
    )


def _slices(line: str) -> Iterator[str]:
    count = -(-len(line) // SLICE_CHARS)
    for number in range(count):
        start, end = len(line) * number // count, len(line) * (number + 1) // count
        yield line[max(0, start - _OVERLAP_CHARS) : end]


def _secret_part(value: str) -> str:
    match = _SECRET_PART.fullmatch(value)
    return match[match.lastindex or 0] if match else value


def _is_strong(text: str) -> bool:
    return len(text) >= STRONG_CHARS and _shannon_bits(text) >= STRONG_BITS


def _dense_forms(text: str) -> set[bytes]:
    """Return the forms of which a piece is worth as much as a piece of the text itself."""
    raw = text.encode()
    return {raw, *base64_forms(raw), *hex_forms(raw)}


def _shannon_bits(text: str) -> float:
    size = len(text)
    return -sum(count * math.log2(count / size) for count in Counter(text).values())


def _percent_forms(value: str) -> Iterator[str]:
    for escaped in (quote(value, safe=""), quote(value), quote_plus(value)):
        yield escaped
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), escaped)
    yield quote(quote(value, safe=""), safe="")
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


def _markup_forms(value: str) -> Iterator[str]:
    """Yield the inside of HTML and XML, and of a quoted-printable mail."""
    yield html.escape(value)
    yield html.escape(value).replace("&#x27;", "&#39;")
    yield html.escape(value).replace("&#x27;", "&apos;")
    yield html.escape(value, quote=False)
    yield quopri.encodestring(value.encode()).decode().replace("=\n", "")


def _source_forms(value: str) -> Iterator[str]:
    """Yield the inside of Python literals and of words in a shell."""
    yield repr(value)[1:-1]
    yield repr(value.encode())[2:-1]
    yield value.replace("'", "'\\''")
    yield value.replace("'", "'\"'\"'")
    yield re.sub(r"([^\w@%+=:,./-])", r"\\\1", value)
