"""Pages of lists: `limit`, `offset`, and tokens that are offsets (wire contract 1.4)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final, TypeVar

from starlette.requests import Request

from sandbox_tools.local.web import RequestError
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.files import whole_number

MAX_OFFSET: Final = 1 << 31

ItemT = TypeVar("ItemT")


def number_of(request: Request, name: str, *, default: int, minimum: int, maximum: int) -> int:
    """Return a number of the query.

    Raises:
        RequestError: It is not one, or out of range (400).
    """
    try:
        value = whole_number(request.query_params.get(name), default=default)
    except WireError:
        value = minimum - 1
    if not minimum <= value <= maximum:
        raise RequestError(400, f"{name} must be from {minimum} to {maximum}")
    return value


def limit_of(request: Request, *, minimum: int, maximum: int) -> int:
    """Return `limit`; the most when it is not there."""
    return number_of(request, "limit", default=maximum, minimum=minimum, maximum=maximum)


def offset_of(request: Request) -> int:
    """Return `offset`."""
    return number_of(request, "offset", default=0, minimum=0, maximum=MAX_OFFSET)


def token_page(request: Request, items: Sequence[ItemT], *, maximum: int) -> tuple[Sequence[ItemT], dict[str, str]]:
    """Return the page that `nextToken` and `limit` ask for, and the headers that lead to the next.

    The token is the offset in base64url: clients make it themselves.

    Raises:
        RequestError: `limit` or `nextToken` is not one (400).
    """
    limit, offset = limit_of(request, minimum=1, maximum=maximum), _token_offset(request)
    end = offset + limit
    headers = {"X-Has-Next": "true" if end < len(items) else "false"}
    if end < len(items):
        headers["X-Next-Token"] = base64.urlsafe_b64encode(str(end).encode()).decode().rstrip("=")
    return items[offset:end], headers


def _token_offset(request: Request) -> int:
    """Also a plain number is a token: older clients send one."""
    token = request.query_params.get("nextToken", "")
    if token.isascii() and token.isdigit():
        return min(int(token[:10]), MAX_OFFSET)
    try:
        decoded = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode("ascii")
        offset = whole_number(decoded) if token else 0
    except (binascii.Error, ValueError, WireError):
        offset = -1
    if offset < 0:
        raise RequestError(400, "nextToken is not one that this service gave")
    return min(offset, MAX_OFFSET)
