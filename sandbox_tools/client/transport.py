"""Requests and answers: the only network I/O of the client. Credentials are added below it (client/pinned.py).

There is no `httpx.AsyncClient`: what it adds (redirects, cookies, proxies and passwords of the environment, a log line
with every URL) is what must not happen here, and it takes as long as the rest of a call.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Mapping
from typing import Final

import anyio
import httpx

from sandbox_tools.client.call import Call
from sandbox_tools.client.pinned import PinnedTransport
from sandbox_tools.client.response import OpenStream, Response
from sandbox_tools.errors import (
    SandboxProtocolError,
    SandboxRequestError,
    SandboxResponseError,
)
from sandbox_tools.redaction import Secret
from sandbox_tools.wire.errors import parse_error, parse_retry_after

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""Body that we buffer of one answer, in bytes; longer ones are only ever streamed."""

MAX_ERROR_BODY_BYTES: Final = 64 * 1024

REQUEST_TIMEOUT_S: Final = 30.0
"""Deadline of an ordinary request, from start to end, in seconds."""

STREAM_IDLE_TIMEOUT_S: Final = 100.0
"""Silence after which a stream counts as broken, in seconds. Servers send keepalives at least every 90 s (4.1)."""

_ERROR_BODY_TIMEOUT_S: Final = 5.0

_HEADERS: Final = {
    "accept": "application/json",
    # Compressed answers are not asked for: a small body could unpack to any size.
    "accept-encoding": "identity",
    "user-agent": "sandbox-tools",
}

_UNDECIDED: Final = (408, 499, 500, 502, 503, 504)
"""Statuses that do not say whether the work was done, unless the body gives a reason."""


class Transport:
    """Requests to one origin, below one base URL, with credentials that nobody above can see.

    Args:
        base_url: Base that every path is appended to (never resolved against, wire contract 1.1).
        credentials: Header name -> secret.

    Raises:
        ConfigurationError: As `PinnedTransport`.
    """

    def __init__(self, base_url: str, credentials: Mapping[str, Secret]) -> None:
        self._left: list[PinnedTransport] = []
        self._point_at(base_url, credentials)

    def _point_at(self, base_url: str, credentials: Mapping[str, Secret]) -> None:
        self._base_url = base_url.rstrip("/")
        self._pinned = PinnedTransport(self._base_url, credentials)

    async def request(
        self,
        method: str,
        path: str,
        *,
        operation: str,
        params: Mapping[str, str] | None = None,
        body: object = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        max_bytes: int = MAX_BODY_BYTES,
        safe: bool | None = None,
    ) -> Response:
        """Send a request and return its successful answer.

        Args:
            operation: What is asked, in our words, for errors ("read a file").
            body: Sent as JSON.
            content: Sent as it is.
            timeout_s: For all tries together.
            safe: It may be done twice: it reads, or twice is the same as once. Default: what the method says.
                See client/retry.py.

        Raises:
            SandboxRequestError: See errors.py; a status of 300 or more is a SandboxResponseError.
        """
        call = self._call(
            method,
            path,
            operation=operation,
            timeout_s=timeout_s,
            safe=safe,
            body=body,
            content=content,
            params=params,
            headers=headers,
        )

        async def attempt() -> Response:
            stream = await self._open(call)
            try:
                data = await stream.read(max_bytes)
                return Response(status=stream.status, headers=stream.headers, body=data)
            finally:
                with anyio.CancelScope(shield=True):
                    await stream.aclose()

        with anyio.move_on_after(timeout_s):
            return await call.tried(attempt)
        raise call.timed_out()

    async def stream(
        self,
        method: str,
        path: str,
        *,
        operation: str,
        params: Mapping[str, str] | None = None,
        body: object = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        idle_timeout_s: float = STREAM_IDLE_TIMEOUT_S,
        safe: bool | None = None,
    ) -> OpenStream:
        """Send a request and return its successful answer, unread. The caller closes it.

        Args:
            idle_timeout_s: For each silence; and for all tries together until the head of the answer is there,
                counted anew when all of `content` is sent.
            safe: As in `request`.

        Raises:
            SandboxRequestError: As `request`.
        """
        call = self._call(
            method,
            path,
            operation=operation,
            timeout_s=idle_timeout_s,
            safe=safe,
            body=body,
            content=content,
            params=params,
            headers=headers,
        )
        with call.head_scope:
            return await call.tried(lambda: self._open(call))
        raise call.timed_out()

    def retarget(self, base_url: str, credentials: Mapping[str, Secret]) -> None:
        """Send what follows to another base, with other credentials; what is open keeps its connection."""
        self._left.append(self._pinned)
        self._point_at(base_url, credentials)

    async def aclose(self) -> None:
        for pinned in (*self._left, self._pinned):
            await pinned.aclose()

    def _call(
        self,
        method: str,
        path: str,
        *,
        operation: str,
        timeout_s: float,
        safe: bool | None,
        body: object,
        content: bytes | AsyncIterator[bytes] | None,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> Call:
        all_headers = _HEADERS | {name.lower(): value for name, value in (headers or {}).items()}
        if body is not None:
            content = json.dumps(body, separators=(",", ":")).encode("utf-8", "surrogatepass")
            all_headers.setdefault("content-type", "application/json")
        request: httpx.Request | None = None
        with contextlib.suppress(httpx.InvalidURL, ValueError):  # the base may be of a server's making
            request = httpx.Request(
                method, _url(self._base_url + path), params=params, content=content, headers=all_headers
            )
        if request is None:
            raise SandboxProtocolError(operation, "its address cannot be used")
        is_safe = method in ("GET", "HEAD") if safe is None else safe
        return Call(request, self._pinned, operation, timeout_s, safe=is_safe)

    async def _open(self, call: Call) -> OpenStream:
        """Send it once and return its successful answer, unread."""
        failure: SandboxRequestError | None = None
        response: httpx.Response | None = None
        try:
            response = await call.pinned.handle_async_request(call.request)
        except Exception as exc:  # noqa: BLE001 - mapped below, outside this block: exc holds the request
            failure = call.failure(exc)
        if failure is not None or response is None:
            raise failure or call.invalid("there is none")
        stream = OpenStream(response, call)
        if response.status_code >= 300:
            failure = await self._response_error(stream, call)
            del response, stream  # a server may echo what it was sent, and a traceback has these variables
            raise failure
        asked = call.request.headers["accept-encoding"]
        if response.headers.get("content-encoding", "identity") not in ("identity", asked):
            await stream.aclose()
            raise call.invalid("it is compressed, which was not asked for")
        return stream

    async def _response_error(self, stream: OpenStream, call: Call) -> SandboxResponseError:
        body = b""
        try:
            with anyio.move_on_after(_ERROR_BODY_TIMEOUT_S):
                body = await stream.first_bytes(MAX_ERROR_BODY_BYTES)
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
        error = parse_error(stream.status, body)
        # A server that echoes what it was sent could say a credential in the place of an id.
        echoes = call.pinned.is_in(f"{error.request_id} {error.usage_limit}")
        return SandboxResponseError(
            call.operation,
            kind=error.kind,
            status=error.status,
            reason=error.reason,
            request_id=None if echoes else error.request_id,
            usage_limit=None if echoes else error.usage_limit,
            retry_after_s=parse_retry_after(stream.headers.get("retry-after")),
            maybe_done=not call.safe and error.reason is None and stream.status in _UNDECIDED,
        )


@functools.lru_cache(maxsize=64)
def _url(text: str) -> httpx.URL:
    """Parse a URL without its query; that takes as long as all else that is done to a request here."""
    return httpx.URL(text)
