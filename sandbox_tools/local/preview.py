"""Previews: forwards HTTP to a port inside a sandbox (wire contract 5).

The connection is a socket that the agent opened inside the sandbox's network namespace, so "127.0.0.1:port" can only
mean the sandbox's own. The HTTP is httpcore's. Which preview a request is for, and who may see it: preview_site.py.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
import httpcore
from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.channel import ChannelError
from sandbox_tools.local.isolation import needs_namespaces
from sandbox_tools.local.pipes import close_descriptor
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.web import MAX_UPLOAD_BYTES, OwningResponse, body_chunks
from sandbox_tools.wire.hops import HOP_BY_HOP, Headers, host_only, without

MAX_TUNNELS: Final = 64
"""WebSockets of one sandbox."""


_MAX_CONNECTIONS: Final = 64
_WRITE_TIMEOUT_S: Final = 60.0
_POOL_TIMEOUT_S: Final = 10.0
_READ_TIMEOUT_S: Final = 600.0
"""Silence of the app after which a request is given up: nobody tells us when its caller has gone meanwhile."""

_NOT_FOR_THE_APP: Final = HOP_BY_HOP | {
    b"x-access-token",
    b"e2b-traffic-access-token",
    b"x-api-key",
    b"expect",  # was answered here
    b"host",  # these are written anew
    b"x-forwarded-host",
    b"x-forwarded-prefix",
    b"x-forwarded-proto",
}
_COOKIES: Final = frozenset({b"cookie", b"set-cookie", b"set-cookie2", b"clear-site-data", b"service-worker-allowed"})
"""Where all previews share one origin with our routes, and with every other server of this machine."""


class NotServedError(Exception):
    """Nothing answers at a port. The message is ours."""

    def __init__(self, port: int, problem: str) -> None:
        self.port: Final = port
        super().__init__(f"port {port} of the sandbox{problem}")


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked of a port.

    Attributes:
        path: The target of the request, with its query, exactly as it was sent.
        host: The Host of the request.
        prefix: The path of the preview on our own origin; None on an origin of its own.
        trusted: A program asks that has the token, such as a proxy that gives the preview an origin of its own.
    """

    port: int
    path: bytes
    host: str
    prefix: str | None = None
    trusted: bool = False

    @property
    def shares_origin(self) -> bool:
        """Whether a page of another preview, or of ours, may see what is answered."""
        return self.prefix is not None and not self.trusted

    def request_headers(self, given: Headers, hidden: Collection[str]) -> Headers:
        """Return what the app gets: nothing that is for one hop or for us, and no value with a hidden text in it."""
        dropped = _NOT_FOR_THE_APP | _COOKIES if self.shares_origin else _NOT_FOR_THE_APP
        texts = [text.encode() for text in hidden]
        headers = [pair for pair in without(given, dropped) if not any(text in pair[1] for text in texts)]
        # On its own origin the app sees the name that its pages see, or it would refuse their requests as foreign.
        host = self.host.encode("latin-1")
        forwarded = [(b"x-forwarded-host", host), (b"x-forwarded-proto", b"http")]
        if self.prefix is None:
            return [(b"host", host), *headers, *forwarded]
        prefix = (b"x-forwarded-prefix", self.prefix.encode("latin-1"))
        return [(b"host", f"127.0.0.1:{self.port}".encode()), *headers, *forwarded, prefix]

    def response_headers(self, given: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return what the caller gets. A cookie is for its own origin only, whatever the app says."""
        headers = without(given, HOP_BY_HOP | _COOKIES if self.shares_origin else HOP_BY_HOP)
        return [(name, host_only(value) if name == b"set-cookie" else value) for name, value in headers]


class Previews:
    """The connections to the ports of one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._tunnels = 0
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=0,  # a new one costs 0.2 ms; one that the app closed meanwhile costs a 502
            network_backend=_Backend(sandbox),
        )

    async def close(self) -> None:
        await self._pool.aclose()

    async def forward(self, request: Request, target: Target, *, hidden: Collection[str]) -> Response:
        """Answer a request with what the port answers.

        Raises:
            NotServedError: It does not listen, or does not speak HTTP.
        """
        self._check(target.port)
        outgoing = httpcore.Request(
            method=request.method.encode("ascii"),
            url=httpcore.URL(scheme=b"http", host=b"127.0.0.1", port=target.port, target=target.path),
            headers=_framed(target.request_headers(request.headers.raw, hidden), request),
            content=_content(request),
            extensions={"timeout": {"read": _READ_TIMEOUT_S, "write": _WRITE_TIMEOUT_S, "pool": _POOL_TIMEOUT_S}},
        )
        problem = " does not answer with HTTP"
        try:
            upstream = await self._pool.handle_async_request(outgoing)
        except httpcore.ConnectError:
            problem = ": port is not listening"
        except httpcore.PoolTimeout:
            problem = " has too many open connections"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
            pass
        else:
            if upstream.status >= 200:  # it "switches protocols", though nobody asked for that
                return _response(upstream, target)
            await upstream.aclose()
        raise NotServedError(target.port, problem)

    @contextmanager
    def tunnel(self, port: int) -> Iterator[None]:
        """Count one long connection.

        Raises:
            NotServedError: There are too many.
        """
        if self._tunnels >= MAX_TUNNELS:
            raise NotServedError(port, " has too many open connections")
        self._tunnels += 1
        try:
            yield
        finally:
            self._tunnels -= 1

    async def connect(self, port: int) -> Stream:
        """Return a connection, the caller's to close.

        Raises:
            NotServedError: The port does not listen.
        """
        self._check(port)
        try:
            return Stream(await self._sandbox.connect(port))
        except (ConnectionError, ChannelError):
            pass
        raise NotServedError(port, ": port is not listening")

    def _check(self, port: int) -> None:
        if not self._sandbox.has_network:
            raise NotServedError(port, f": {needs_namespaces('servers and previews')}")


def _response(upstream: httpcore.Response, target: Target) -> Response:
    stack = AsyncExitStack()
    stack.push_async_callback(upstream.aclose)
    response = OwningResponse(upstream.aiter_stream(), status_code=upstream.status, owned=stack)
    response.raw_headers = target.response_headers(upstream.headers)
    return response


def _framed(headers: Headers, request: Request) -> Headers:
    """A body of unknown length is sent on as one; what else is said of its length counts for nothing."""
    if "transfer-encoding" not in request.headers:
        return headers
    return [*without(headers, frozenset({b"content-length"})), (b"transfer-encoding", b"chunked")]


def _content(request: Request) -> AsyncIterator[bytes] | None:
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    return body_chunks(request, MAX_UPLOAD_BYTES) if has_body else None


class _Backend(httpcore.AsyncNetworkBackend):
    """Where httpcore gets its connections from."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        try:
            return Stream(await self._sandbox.connect(port))
        except (ConnectionError, ChannelError):
            pass
        raise httpcore.ConnectError

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class Stream(httpcore.AsyncNetworkStream):
    """A socket that a sandbox made, so it never waits in a call: the sandbox may have made it a blocking one."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's interface
        with anyio.move_on_after(timeout):
            while True:
                try:
                    return self._socket.recv(max_bytes, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    await anyio.wait_readable(self._socket)
                except OSError:
                    break
            raise httpcore.ReadError
        raise httpcore.ReadTimeout

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's interface
        view = memoryview(buffer)
        with anyio.move_on_after(timeout):
            while view:
                try:
                    view = view[self._socket.send(view, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    await anyio.wait_writable(self._socket)
                except OSError:
                    break
            if not view:
                return
            raise httpcore.WriteError
        raise httpcore.WriteTimeout

    async def aclose(self) -> None:
        if self._socket.fileno() >= 0:
            close_descriptor(self._socket.detach())
