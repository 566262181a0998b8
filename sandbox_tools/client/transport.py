"""The only client module that does network I/O, and the only one that imports httpx.

Credentials live below the httpx client: `_PinnedTransport` adds them to the copy of a request that goes to the
socket, and only for one origin. So no request, exception, hook, log or pickle above it ever holds a token.
"""

from __future__ import annotations

import functools
import http.cookiejar
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import anyio
import httpx

from sandbox_tools.errors import (
    ConfigurationError,
    SandboxProtocolError,
    SandboxRequestError,
    SandboxResponseError,
    SandboxTimeoutError,
    SandboxUnreachableError,
)
from sandbox_tools.redaction import Secret
from sandbox_tools.redaction.secret import reveal
from sandbox_tools.wire.envelope import parse_json_object
from sandbox_tools.wire.errors import parse_error

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""Body that we buffer of one answer, in bytes; longer ones are only ever streamed."""

MAX_ERROR_BODY_BYTES: Final = 64 * 1024

REQUEST_TIMEOUT_S: Final = 30.0
"""Deadline of an ordinary request, from start to end, in seconds."""

STREAM_IDLE_TIMEOUT_S: Final = 100.0
"""Silence after which a stream counts as broken, in seconds. Servers send keepalives at least every 90 s (4.1)."""

_CONNECT_TIMEOUT_S: Final = 10.0

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A buffered answer. `headers` has lower-case names; nothing of the request is kept."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json_object(self, what: str) -> dict[str, object]:
        """Return the body as a JSON object; raises WireError."""
        return parse_json_object(self.body, what=what)


class OpenStream:
    """A successful answer whose body is read piece by piece. Close it always."""

    def __init__(self, response: httpx.Response, operation: str) -> None:
        self._response = response
        self._operation = operation

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """Header values by lower-case name."""
        return {name.lower(): value for name, value in self._response.headers.items()}

    @property
    def content_length(self) -> int | None:
        text = self._response.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            SandboxRequestError: The connection broke or fell silent.
        """
        pieces = self._response.aiter_raw()
        while True:
            failure: SandboxRequestError | None = None
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except Exception as exc:  # noqa: BLE001 - mapped below, outside this block, so that it is not chained
                failure = _failure(exc, self._operation, STREAM_IDLE_TIMEOUT_S)
            if failure is not None:
                raise failure
            yield piece

    async def read(self, max_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            SandboxProtocolError: It is longer than `max_bytes`.
        """
        if (self.content_length or 0) > max_bytes:
            raise SandboxProtocolError(self._operation, f"it announces more than {max_bytes} bytes")
        body = bytearray()
        async for piece in self.chunks():
            body += piece
            if len(body) > max_bytes:
                raise SandboxProtocolError(self._operation, f"it is longer than {max_bytes} bytes")
        return bytes(body)

    async def aclose(self) -> None:
        await self._response.aclose()


class Transport:
    """Requests to one origin, below one base URL, with credentials that nobody above can see.

    Args:
        base_url: Base that every path is appended to (never resolved against, wire contract 1.1).
        credentials: Header name -> secret.

    Raises:
        ConfigurationError: The base is not https, nor http on loopback.
    """

    def __init__(self, base_url: str, credentials: Mapping[str, Secret]) -> None:
        self._base_url = base_url.rstrip("/")
        origin = _origin(self._base_url)
        scheme, host, _ = origin
        if scheme != "https" and not (scheme == "http" and host in _LOOPBACK):
            raise ConfigurationError("Credentials are only sent over https, or over http to this machine.")
        self._client = httpx.AsyncClient(
            transport=_PinnedTransport(origin, credentials),
            follow_redirects=False,
            trust_env=False,
            cookies=_no_cookies(),
            # Compressed answers are not asked for: a small body could unpack to any size.
            headers={"Accept-Encoding": "identity", "Accept": "application/json"},
        )

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
    ) -> Response:
        """Send a request and return its successful answer.

        Args:
            operation: What is asked, in our words, for errors ("read a file").
            body: Sent as JSON.
            content: Sent as it is.

        Raises:
            SandboxRequestError: See errors.py; a status of 300 or more is a SandboxResponseError.
        """
        with anyio.move_on_after(timeout_s):
            stream = await self.stream(
                method,
                path,
                operation=operation,
                params=params,
                body=body,
                content=content,
                headers=headers,
                idle_timeout_s=timeout_s,
            )
            try:
                data = await stream.read(max_bytes)
                return Response(status=stream.status, headers=stream.headers, body=data)
            finally:
                with anyio.CancelScope(shield=True):
                    await stream.aclose()
        raise SandboxTimeoutError(operation, timeout_s)

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
    ) -> OpenStream:
        """Send a request and return its successful answer, unread. The caller closes it.

        Raises:
            SandboxRequestError: As `request`.
        """
        all_headers = dict(headers or {})
        if body is not None:
            content = json.dumps(body, separators=(",", ":")).encode("utf-8", "surrogatepass")
            all_headers.setdefault("Content-Type", "application/json")
        failure: SandboxRequestError | None = None
        response: httpx.Response | None = None
        try:
            request = self._client.build_request(
                method,
                self._base_url + path,
                params=params,
                content=content,
                headers=all_headers,
                timeout=httpx.Timeout(idle_timeout_s, connect=min(_CONNECT_TIMEOUT_S, idle_timeout_s)),
            )
            response = await self._client.send(request, stream=True)
        except Exception as exc:  # noqa: BLE001 - mapped below, outside this block: exc holds the request
            failure = _failure(exc, operation, idle_timeout_s)
        if failure is not None or response is None:
            raise failure or SandboxUnreachableError(operation)
        stream = OpenStream(response, operation)
        if response.status_code >= 300:
            raise await _response_error(stream, operation)
        if response.headers.get("content-encoding", "identity") != "identity":
            await stream.aclose()
            raise SandboxProtocolError(operation, "it is compressed, which was not asked for")
        return stream

    async def aclose(self) -> None:
        await self._client.aclose()


class _PinnedTransport(httpx.AsyncBaseTransport):
    """Adds credentials at the last moment, for one origin only."""

    def __init__(self, origin: tuple[str, str, int], credentials: Mapping[str, Secret]) -> None:
        self._inner = httpx.AsyncHTTPTransport(
            # One context for all: loading the certificates takes longer than starting a sandbox.
            verify=_tls() if origin[0] == "https" else False,
            limits=httpx.Limits(max_connections=256, max_keepalive_connections=32, keepalive_expiry=60.0),
        )
        self._origin = origin
        self._credentials = {name.lower().encode("ascii"): secret for name, secret in credentials.items()}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if _origin(str(request.url)) != self._origin:
            raise httpx.UnsupportedProtocol("blocked: not the pinned origin")
        headers = [(name, value) for name, value in request.headers.raw if name.lower() not in self._credentials]
        headers += [(name, reveal(secret).encode("ascii")) for name, secret in self._credentials.items()]
        return await self._inner.handle_async_request(
            httpx.Request(
                request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
            )
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443}.get(parts.scheme, 80)


def _no_cookies() -> http.cookiejar.CookieJar:
    return http.cookiejar.CookieJar(policy=http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))


def _failure(exc: Exception, operation: str, timeout_s: float) -> SandboxRequestError:
    if isinstance(exc, SandboxRequestError):
        return exc
    if isinstance(exc, httpx.ConnectTimeout | httpx.ConnectError | httpx.PoolTimeout):
        return SandboxUnreachableError(operation)
    if isinstance(exc, httpx.TimeoutException):
        return SandboxTimeoutError(operation, timeout_s)
    if isinstance(exc, httpx.RemoteProtocolError):
        return SandboxProtocolError(operation, "it is not HTTP, or it was cut off")
    if isinstance(exc, httpx.NetworkError | OSError | anyio.BrokenResourceError | anyio.ClosedResourceError):
        return SandboxUnreachableError(operation)
    return SandboxProtocolError(operation, f"it could not be sent or read ({type(exc).__name__})")


async def _response_error(stream: OpenStream, operation: str) -> SandboxResponseError:
    try:
        with anyio.move_on_after(5):
            body = await _first_bytes(stream, MAX_ERROR_BODY_BYTES)
            return _error_of(operation, stream.status, body)
    finally:
        with anyio.CancelScope(shield=True):
            await stream.aclose()
    return _error_of(operation, stream.status, b"")


async def _first_bytes(stream: OpenStream, count: int) -> bytes:
    body = bytearray()
    try:
        async for piece in stream.chunks():
            body += piece[: count - len(body)]
            if len(body) >= count:
                break
    except SandboxRequestError:
        return bytes(body)
    return bytes(body)


def _error_of(operation: str, status: int, body: bytes) -> SandboxResponseError:
    error = parse_error(status, body)
    return SandboxResponseError(
        operation, kind=error.kind, status=status, reason=error.reason, request_id=error.request_id
    )
