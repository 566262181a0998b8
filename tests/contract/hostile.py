"""A server that sends whatever a test wants: raw bytes on a socket, no HTTP library in between."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc

Answer = Callable[["Request", anyio.abc.ByteStream], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """What the client sent: the head as it was on the wire, and what came of the body together with it."""

    method: str
    target: str
    head: bytes
    begun: bytes = b""

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode().strip().lower() == name.lower():
                return value.decode().strip()
        return None


@dataclass
class HostileServer:
    """Answers each request with the next answer of `answers`; the last one is used again and again."""

    base_url: str
    answers: list[Answer]
    requests: list[Request] = field(default_factory=list)
    closed: anyio.Event = field(default_factory=anyio.Event)
    """Set when a connection was closed."""

    async def handle(self, stream: anyio.abc.ByteStream) -> None:
        try:
            await self._handle(stream)
        finally:
            self.closed.set()

    async def _handle(self, stream: anyio.abc.ByteStream) -> None:
        async with stream:
            request = await _read_request(stream)
            if request is None:
                return
            self.requests.append(request)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            try:
                await answer(request, stream)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return


@asynccontextmanager
async def hostile_server(*answers: Answer) -> AsyncIterator[HostileServer]:
    """Serve on loopback; every connection carries one request."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    server = HostileServer(f"http://127.0.0.1:{port}", list(answers))
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.handle)
        yield server
        tasks.cancel_scope.cancel()


def raw(*pieces: bytes) -> Answer:
    """Send the pieces as they are, then close."""

    async def answer(request: Request, stream: anyio.abc.ByteStream) -> None:
        for piece in pieces:
            await stream.send(piece)

    return answer


def http(status: int, body: bytes = b"", *headers: str) -> Answer:
    """Send a plain answer."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def json_answer(message: object, status: int = 200) -> Answer:
    return http(status, json.dumps(message).encode(), "Content-Type: application/json")


def stream_answer(*frames: bytes) -> Answer:
    """Send frames of a Connect stream, then close."""
    return raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/connect+json\r\nConnection: close\r\n\r\n", *frames)


def endless(head: bytes, piece: bytes, *, pause_s: float = 0) -> Answer:
    """Send `head`, then `piece` again and again."""

    async def answer(request: Request, stream: anyio.abc.ByteStream) -> None:
        await stream.send(head)
        while True:
            await stream.send(piece)
            await anyio.sleep(pause_s)

    return answer


def reset(*pieces: bytes) -> Answer:
    """Send the pieces, then break the connection with a RST."""

    async def answer(request: Request, stream: anyio.abc.ByteStream) -> None:
        for piece in pieces:
            await stream.send(piece)
        raw_socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return answer


def half_closed(*pieces: bytes) -> Answer:
    """Send the pieces, end our side, and keep the other side open."""

    async def answer(request: Request, stream: anyio.abc.ByteStream) -> None:
        for piece in pieces:
            await stream.send(piece)
        await stream.send_eof()
        await anyio.sleep_forever()

    return answer


def echo_headers(status: int) -> Answer:
    """An upstream that puts the request's own headers and token wherever an error answer has a place for text."""

    async def answer(request: Request, stream: anyio.abc.ByteStream) -> None:
        head = request.head.decode("latin-1")
        token = request.header("X-Access-Token") or request.header("X-API-Key")
        details = {"reason": "usage_limit", "scope": token, "resource": token, "usageEndpoint": f"/{token}"}
        body = json.dumps({"error": head, "message": head, "requestID": token, "details": details})
        await http(status, body.encode(), f"Retry-After: {token}", f"X-Echo: {token}")(request, stream)

    return answer


def recording(bodies: list[bytes], answer: Answer) -> Answer:
    """Keep the whole body of a request of known length, then answer."""

    async def keep(request: Request, stream: anyio.abc.ByteStream) -> None:
        body = bytearray(request.begun)
        while len(body) < int(request.header("Content-Length") or 0):
            body += await stream.receive()
        bodies.append(bytes(body))
        await answer(request, stream)

    return keep


def silence() -> Answer:
    """Take the request and never answer."""

    async def answer(request: Request, stream: anyio.abc.ByteStream) -> None:
        await anyio.sleep_forever()

    return answer


async def _read_request(stream: anyio.abc.ByteStream) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            data += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return None
    method, target, _ = data.split(b"\r\n", 1)[0].decode().split(" ", 2)
    head, _, begun = data.partition(b"\r\n\r\n")
    return Request(method, target, head, begun)
