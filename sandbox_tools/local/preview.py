"""Preview URLs: forwards HTTP to a port inside a sandbox (wire contract 5).

The connection is a socket that the agent opened inside the sandbox's network namespace, so "127.0.0.1:port" can only
mean the sandbox's own. The HTTP is httpcore's.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from typing import Any, Final

import anyio
import httpcore
from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.channel import ChannelError
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.web import MAX_UPLOAD_BYTES, OwningResponse, RequestError, body_chunks
from sandbox_tools.wire.preview import parse_port

_MAX_CONNECTIONS: Final = 64
_WRITE_TIMEOUT_S: Final = 60.0
_POOL_TIMEOUT_S: Final = 10.0
_READ_TIMEOUT_S: Final = 600.0
"""Silence of the app after which a request is given up: nobody tells us when its caller has gone meanwhile."""

_HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer upgrade"
    b" transfer-encoding".split()
)
_NOT_FOR_THE_APP: Final = _HOP_BY_HOP | {
    b"x-access-token",
    b"e2b-traffic-access-token",
    b"x-api-key",
    b"cookie",  # a browser sends those of every server on this machine, whatever its port
    b"host",  # these are written anew
    b"x-forwarded-host",
    b"x-forwarded-prefix",
    b"x-forwarded-proto",
}
_NOT_FOR_THE_CALLER: Final = _HOP_BY_HOP | {b"set-cookie", b"set-cookie2", b"clear-site-data"}
"""For the same reason: they would be set for every server on this machine. Own origins for previews will bring both."""


class Previews:
    """The connections to the ports of one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=0,  # a new one costs 0.2 ms; one that the app closed meanwhile costs a 502
            network_backend=_Backend(sandbox),
        )

    async def close(self) -> None:
        await self._pool.aclose()

    async def forward(self, request: Request, sandbox_id: str) -> Response:
        """Answer a request to `/rt/{id}/proxy/{port}/...` with what the port answers.

        Raises:
            WireError: The port is not one.
        RequestError: It does not listen, or does not speak HTTP (502).
        """
        prefix, port, target = _split(request)
        outgoing = httpcore.Request(
            method=request.method.encode("ascii"),
            url=httpcore.URL(scheme=b"http", host=b"127.0.0.1", port=port, target=target),
            headers=_request_headers(request, port, prefix),
            content=_content(request),
            extensions={"timeout": {"read": _READ_TIMEOUT_S, "write": _WRITE_TIMEOUT_S, "pool": _POOL_TIMEOUT_S}},
        )
        problem = ""
        try:
            return _response(await self._pool.handle_async_request(outgoing))
        except httpcore.ConnectError:
            problem = f"port {port} of the sandbox: port is not listening"
        except httpcore.PoolTimeout:
            problem = f"port {port} of the sandbox has too many open connections"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
            problem = f"port {port} of the sandbox does not answer with HTTP"
        raise RequestError(502, problem, extra={"sandboxId": sandbox_id, "port": port})


def _response(upstream: httpcore.Response) -> Response:
    stack = AsyncExitStack()
    stack.push_async_callback(upstream.aclose)
    response = OwningResponse(upstream.aiter_stream(), status_code=upstream.status, owned=stack)
    response.raw_headers = _without(upstream.headers, _NOT_FOR_THE_CALLER)
    return response


def _split(request: Request) -> tuple[str, int, bytes]:
    """Return the preview's path prefix, the port, and the rest of the target exactly as it was sent."""
    raw: bytes = request.scope["raw_path"]
    parts = raw.split(b"/", 5)  # "", rt, id, proxy, port, rest
    port = parse_port(parts[4].decode("latin-1") if len(parts) > 4 else "")
    target = b"/" + (parts[5] if len(parts) > 5 else b"")
    query: bytes = request.scope["query_string"]
    return b"/".join(parts[:5]).decode("latin-1"), port, target + (b"?" + query if query else b"")


def _request_headers(request: Request, port: int, prefix: str) -> list[tuple[bytes, bytes]]:
    headers = _without(request.headers.raw, _NOT_FOR_THE_APP)
    return [
        (b"host", f"127.0.0.1:{port}".encode()),
        *headers,
        (b"x-forwarded-host", request.headers.get("host", "").encode("latin-1")),
        (b"x-forwarded-prefix", prefix.encode("latin-1")),
        (b"x-forwarded-proto", b"http"),
    ]


def _without(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """Leave out `dropped`, and the headers that Connection names."""
    headers = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    return [(name, value) for name, value in headers if name not in dropped | named]


def _content(request: Request) -> AsyncIterator[bytes] | None:
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    return body_chunks(request, MAX_UPLOAD_BYTES) if has_body else None


class _Backend(httpcore.AsyncNetworkBackend):
    """Where httpcore gets its connections from."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        try:
            return _Stream(await self._sandbox.connect(port))
        except (ConnectionError, ChannelError):
            pass
        raise httpcore.ConnectError

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """A non-blocking socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's interface
        with anyio.move_on_after(timeout):
            while True:
                try:
                    return self._socket.recv(max_bytes)
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
                    view = view[self._socket.send(view) :]
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
            anyio.notify_closing(self._socket)
            self._socket.close()
