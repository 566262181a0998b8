"""Uploads to a presigned URL: a capability, on an origin that is not the service's (wire contract 2.10, 7).

The URL is the credential. So nothing else is sent there, no redirect is followed, and no error, log or traceback holds
it: what a store says is left out, because it knows the URL and may echo it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import unquote, urlsplit

import anyio

from sandbox_tools.client.transport import Transport
from sandbox_tools.errors import SandboxResponseError
from sandbox_tools.redaction import Secret
from sandbox_tools.redaction.secret import reveal

PIECE_BYTES: Final = 1 << 18


def capability_of(url: str) -> str:
    """Return the part of a presigned URL without which the rest is worth nothing: the longest value of its query.

    That is the signature, or the session token that it needs. All of the URL would cost the redactor many times as
    much. Of a URL without a query it is the longest part of the path.
    """
    parts = urlsplit(url)
    values = [pair.partition("=")[2] for pair in parts.query.split("&")] if parts.query else parts.path.split("/")
    return unquote(max(values, key=len))


def is_acceptable(url: str, *, loopback: bool) -> bool:
    """Tell whether a URL may be uploaded to: https; http only where the service itself is on this machine.

    Args:
        loopback: The service is on this machine.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if not re.fullmatch(r"[!-~]+", url):  # urlsplit leaves out what a header could be broken with
        return False
    is_here = parts.hostname in ("127.0.0.1", "::1", "localhost")
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and loopback and is_here)
    return is_safe and bool(parts.hostname) and "@" not in parts.netloc and port != 0 and not parts.fragment


async def put_archive(
    url: Secret, file: anyio.AsyncFile[bytes], size_bytes: int, *, max_bytes: int | None, operation: str
) -> None:
    """Send the first `size_bytes` of an open file, as a gzip'd tar, in pieces.

    Args:
        max_bytes: What the URL is signed for.

    Raises:
        SandboxRequestError: It was not taken, or nobody knows.
    """
    headers = {"Content-Type": "application/x-tar", "Content-Length": str(size_bytes)}
    headers |= {"x-goog-content-length-range": f"0,{max_bytes}"} if max_bytes else {}
    base, target = _split(reveal(url))
    transport = Transport(base, {})
    try:
        await _put(transport, target, _pieces(file, size_bytes), headers, operation)
    finally:
        with anyio.CancelScope(shield=True):
            await transport.aclose()


async def _put(
    transport: Transport, target: str, content: AsyncIterator[bytes], headers: dict[str, str], operation: str
) -> None:
    failure: SandboxResponseError
    try:
        stream = await transport.stream("PUT", target, operation=operation, content=content, headers=headers)
        with anyio.CancelScope(shield=True):
            return await stream.aclose()
    except SandboxResponseError as exc:
        failure = SandboxResponseError(operation, kind=exc.kind, status=exc.status, maybe_done=exc.maybe_done)
    raise failure


def _split(url: str) -> tuple[str, str]:
    """Return the origin, and the rest exactly as it is: a changed byte would break the signature."""
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}"
    return base, url[len(base) :]


async def _pieces(file: anyio.AsyncFile[bytes], size_bytes: int) -> AsyncIterator[bytes]:
    await file.seek(0)
    left = size_bytes
    while left and (piece := await file.read(min(left, PIECE_BYTES))):
        left -= len(piece)
        yield piece
