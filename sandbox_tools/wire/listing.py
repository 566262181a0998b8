"""Pages of the list of sandboxes: the query, and what leads to the next page (wire contract 1.4, 2.3)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlencode

from sandbox_tools.wire.records import SandboxInfo

MAX_PAGE: Final = 100
"""Sandboxes of one page (wire contract 1.4)."""

MetadataForm = Literal["brackets", "map"]
"""How a service wants labels: `metadata[app]=agent`, as documented, or one encoded map, as older clients send it."""

_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,2048}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxPage:
    """Some of the sandboxes.

    Attributes:
        next_token: For the page after it; None: this is the last one.
    """

    items: tuple[SandboxInfo, ...]
    next_token: str | None = None


def list_query(
    states: Sequence[str], metadata: Mapping[str, str], limit: int, next_token: str | None, metadata_form: MetadataForm
) -> dict[str, str]:
    """Return the query of `GET /sandboxes`."""
    query = {"limit": str(limit)}
    if states:
        query["state"] = ",".join(states)
    if metadata and metadata_form == "map":
        query["metadata"] = urlencode(metadata)
    else:
        query |= {f"metadata[{key}]": value for key, value in metadata.items()}
    return query | ({"nextToken": next_token} if next_token else {})


def next_token_of(headers: Mapping[str, str], *, count: int, limit: int, after: str | None) -> str | None:
    """Return the token of the next page.

    The service's own goes first. Where it names none, it is made from the offset, as the vendor's clients do, as
    long as pages are full.

    Args:
        headers: Of the answer, with lower-case names.
        count: Sandboxes of this page.
        after: The token with which this page was asked for.
    """
    has_next = headers.get("x-has-next", "").strip().lower()
    token = headers.get("x-next-token", "").strip()
    offset = _offset(after)
    if has_next == "false" or count == 0:
        return None
    if _TOKEN.fullmatch(token):
        return token
    if offset is not None and (has_next == "true" or count >= limit):
        return base64.urlsafe_b64encode(str(offset + count).encode()).decode().rstrip("=")
    return None


def _offset(token: str | None) -> int | None:
    """Return the offset that a token of our making stands for; None for any other."""
    if token is None:
        return 0
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    return int(text) if text.isdigit() and len(text) <= 9 else None
