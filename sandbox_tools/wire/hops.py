"""Headers that are for one connection only, and what a proxy passes on instead (RFC 9110 section 7.6.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer upgrade"
    b" transfer-encoding".split()
)


def without(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> Headers:
    """Leave out `dropped`, and the headers that Connection names. Names come out in lower case."""
    headers = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    return [(name, value) for name, value in headers if name not in dropped | named]


def host_only(cookie: bytes) -> bytes:
    """Return a `Set-Cookie` value for the origin that it comes from and no other, whatever the app says."""
    return b";".join(part for part in cookie.split(b";") if part.split(b"=")[0].strip().lower() != b"domain")
