"""A small HTTP server between a client and a service, which counts requests, holds answers back or loses them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc
import httpx


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def line(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"


Answer = tuple[int, bytes] | None
"""Status and JSON body; None: the connection is closed without an answer."""

Handler = Callable[[Asked], Awaitable[Answer]]


@dataclass
class Gate:
    """A server on loopback.

    Attributes:
        asked: All requests, in order.
        held: Request lines whose answers wait for `release`.
        lost: Request lines whose next answer is lost, after the work was done.
    """

    handler: Handler
    base_url: str = ""
    asked: list[Asked] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    release: anyio.Event = field(default_factory=anyio.Event)
    arrived: anyio.Event = field(default_factory=anyio.Event)

    def count(self, line: str) -> int:
        return sum(asked.line == line for asked in self.asked)

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        buffer = b""
        async with stream:
            while True:
                try:
                    while b"\r\n\r\n" not in buffer:
                        buffer += await stream.receive()
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    first, *lines = head.decode().split("\r\n")
                    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                    while len(buffer) < int(headers.get("content-length", "0")):
                        buffer += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return
                length = int(headers.get("content-length", "0"))
                asked = Asked(*first.split(" ")[:2], headers, buffer[:length])
                buffer = buffer[length:]
                if not await self._answer(stream, asked):
                    return

    async def _answer(self, stream: anyio.abc.SocketStream, asked: Asked) -> bool:
        self.asked.append(asked)
        self.arrived.set()
        answer = await self.handler(asked)
        if asked.line in self.held:
            await self.release.wait()
        if answer is None or asked.line in self.lost:
            self.lost.discard(asked.line)
            return False
        status, body = answer
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            await stream.send(head.encode() + body)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True


@asynccontextmanager
async def gate(handler: Handler) -> AsyncIterator[Gate]:
    """Serve."""
    opened = Gate(handler)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        opened.base_url = f"http://127.0.0.1:{port}"
        tasks.start_soon(listener.serve, opened.serve)
        yield opened
        opened.release.set()
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def gate_to(base_url: str) -> AsyncIterator[Gate]:
    """Serve what another service answers."""
    async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=30) as upstream:

        async def forward(asked: Asked) -> Answer:
            headers = {name: value for name, value in asked.headers.items() if name in ("x-api-key", "content-type")}
            answer = await upstream.request(asked.method, asked.path, headers=headers, content=asked.body)
            return answer.status_code, answer.content

        async with gate(forward) as opened:
            yield opened
