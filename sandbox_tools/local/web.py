"""What all routes share: error answers, JSON bodies with a cap, constant-time comparison, the outer guard."""

from __future__ import annotations

import errno
import hmac
import json
import logging
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack
from typing import Final, Protocol

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox_tools.local.background import place
from sandbox_tools.wire.envelope import WireError, parse_json_object
from sandbox_tools.wire.errors import error_body_json

MAX_JSON_BYTES: Final = 1 << 20
MAX_UPLOAD_BYTES: Final = 1 << 30

BODY_TIMEOUT_S: Final = 30.0
"""For a whole body that may be JSON."""

BODY_IDLE_TIMEOUT_S: Final = 30.0
"""How long a client may send nothing in the middle of a larger one."""

_EXHAUSTED: Final = {
    errno.EMFILE: (503, "the service has too many open files; try again later"),
    errno.ENFILE: (503, "this machine has too many open files; try again later"),
    errno.ENOMEM: (503, "this machine has no memory left"),
    errno.ENOSPC: (507, "no space left on the disk of this machine"),
    errno.EDQUOT: (507, "the disk quota of the service is used up"),
    errno.EROFS: (507, "the disk of this machine is read-only"),
}

_log: Final = logging.getLogger(__name__)


class RequestError(Exception):
    """A request gets an error answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        details: object = None,
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status: Final = status
        self.message: Final = message
        self.details: Final = details
        self.extra: Final = extra or {}
        self.headers: Final = headers
        super().__init__(message)

    def response(self) -> Response:
        body = error_body_json(self.status, self.message, request_id=secrets.token_hex(8), details=self.details)
        if self.extra:
            body = json.dumps({**json.loads(body), **self.extra}).encode()
        return Response(body, self.status, self.headers, media_type="application/json")


class OwningResponse(StreamingResponse):
    """Streams, and closes what it streams from when it is done or the caller has gone."""

    def __init__(
        self,
        content: AsyncIterable[bytes],
        *,
        owned: AsyncExitStack,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(content, status_code, headers, media_type)
        self._owned = owned

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._owned.aclose()


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON. ASCII, so that a name that is no valid text cannot break it."""
    return Response(json.dumps(content, separators=(",", ":")), status, headers, media_type="application/json")


def same(given: str, secret: str) -> bool:
    """Compare a credential in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())


async def body_chunks(
    request: Request, max_bytes: int, *, idle_timeout_s: float | None = BODY_IDLE_TIMEOUT_S
) -> AsyncIterator[bytes]:
    """Yield the body as it comes.

    Args:
        idle_timeout_s: How long the client may send nothing; None is for ever.

    Raises:
        RequestError: It is larger than `max_bytes` (413), or comes too slowly (408).
        ClientDisconnect: The client went away before its end.
    """
    left = max_bytes
    stream = aiter(request.stream())
    while (chunk := await _next_chunk(stream, idle_timeout_s)) is not None:
        left -= len(chunk)
        if left < 0:
            raise RequestError(413, f"the body is larger than {max_bytes} bytes")
        if chunk:
            yield chunk


async def read_body(request: Request, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Return a body that may be JSON.

    Raises:
        RequestError: It is larger than `max_bytes` (413), or comes too slowly (408).
    """
    with anyio.move_on_after(BODY_TIMEOUT_S):
        return b"".join([chunk async for chunk in body_chunks(request, max_bytes, idle_timeout_s=None)])
    raise RequestError(408, "the body comes too slowly")


async def _next_chunk(stream: AsyncIterator[bytes], timeout_s: float | None) -> bytes | None:
    with anyio.move_on_after(timeout_s):
        return await anext(stream, None)
    raise RequestError(408, "the body comes too slowly")


async def read_json(request: Request, max_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """Return the JSON object in the body.

    Raises:
        RequestError: There is none (400), or it is too big (413).
    """
    try:
        return parse_json_object(await read_body(request, max_bytes), what="the body")
    except WireError as error:
        problem = str(error)
    raise RequestError(400, problem)


def http_error(_: Request, error: Exception) -> Response:
    """Answer what Starlette refuses: unknown routes and methods."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return RequestError(status, {404: "no such route", 405: "method not allowed"}.get(status, "refused")).response()


def request_error(_: Request, error: Exception) -> Response:
    """Answer a RequestError."""
    known = error if isinstance(error, RequestError) else RequestError(500, "internal error")
    return known.response()


def machine_error(_: Request, error: Exception) -> Response:
    """Answer when this machine has run out of something. Any other OSError is an error of ours, and stays one."""
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        status, message = _EXHAUSTED[error.errno]
        return RequestError(status, message, headers={"Retry-After": "1"}).response()
    raise error


def wire_error(_: Request, error: Exception) -> Response:
    """Answer a request that breaks the wire format; the message is ours."""
    return RequestError(400, str(error)).response()


class Previews(Protocol):
    """What answers on the origins of previews. Our routes do not, so that a page there can reach nothing."""

    def has_own_origin(self, scope: Scope) -> bool:
        """Whether a request came to such an origin."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Guard:
    """The outermost layer: who may call at all, and no exception or its text past this line.

    A web page and any user of this machine can reach a port on 127.0.0.1. A page is known by its Origin, or, when it
    let its name point here (DNS rebinding), by its Host.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], previews: Previews) -> None:
        self._app = app
        self._hosts = hosts
        self._previews = previews

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self._previews.has_own_origin(scope):
            await self._answer(self._previews, scope, receive, send)
        elif refusal := self._refusal(scope):
            await refusal.response()(scope, receive, send)
        else:
            await self._answer(self._app, scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if headers.get(b"host", b"").decode("latin-1").lower() not in self._hosts:
            return RequestError(421, "this service answers to its loopback address only")
        if b"origin" in headers and not is_preview(scope["path"]):
            return RequestError(403, "this service does not answer web pages")
        return None

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, receive, note_start)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - its text may quote a path or a body, so only its place is logged
            _log.error("a request failed: %s", place(error))
        else:
            return
        if not started:
            await RequestError(500, "internal error").response()(scope, receive, send)


def is_preview(path: str) -> bool:
    """Whether a path is `/rt/{id}/proxy/...`: pages of the sandbox's own servers, open to browsers."""
    parts = path.split("/", 4)
    return len(parts) == 5 and parts[1] == "rt" and parts[3] == "proxy"
