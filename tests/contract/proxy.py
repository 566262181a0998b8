"""A TCP proxy that cuts connections: what a flaky network does between a client and a service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import anyio
import anyio.abc

ENDS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


@dataclass
class CuttingProxy:
    """Carries bytes between clients and one service.

    Attributes:
        base_url: Of the proxy.
        refuses: New connections are closed at once.
        cut_at: Told each piece of the service's answers before it is passed on; true cuts its connection instead.
        passed: Set when an answer has passed since `cut`.
        requests: First lines of requests, in order, as far as they begin a piece.
        connections: How many were made.
    """

    base_url: str
    port: int  # of the service, which accepts no other in a Host header
    refuses: bool = False
    cut_at: Callable[[bytes], bool] = lambda piece: False
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    passed: anyio.Event = field(default_factory=anyio.Event)
    _scopes: set[anyio.CancelScope] = field(default_factory=set)

    def cut(self) -> None:
        """Cut all connections."""
        self.passed = anyio.Event()
        for scope in self._scopes:
            scope.cancel()

    async def carry(self, client: anyio.abc.ByteStream) -> None:
        self.connections += 1
        async with client:
            if self.refuses:
                return
            with anyio.CancelScope() as scope:
                self._scopes.add(scope)
                try:
                    service = await anyio.connect_tcp("127.0.0.1", self.port)
                    async with service, anyio.create_task_group() as tasks:
                        tasks.start_soon(self._up, client, service, tasks)
                        await self._down(service, client)
                        tasks.cancel_scope.cancel()
                finally:
                    self._scopes.discard(scope)

    async def _up(
        self, client: anyio.abc.ByteStream, service: anyio.abc.ByteStream, tasks: anyio.abc.TaskGroup
    ) -> None:
        try:
            while True:
                piece = await client.receive()
                if piece.startswith((b"POST ", b"GET ")):
                    self.requests.append(piece.split(b" HTTP/1.1", 1)[0].decode())
                    # The service answers to its own address only.
                    piece = piece.replace(urlsplit(self.base_url).netloc.encode(), f"127.0.0.1:{self.port}".encode(), 1)
                host = urlsplit(self.base_url).netloc.encode()
                await service.send(piece.replace(b"Host: " + host, b"Host: 127.0.0.1:%d" % self.port))
        except ENDS:
            tasks.cancel_scope.cancel()

    async def _down(self, service: anyio.abc.ByteStream, client: anyio.abc.ByteStream) -> None:
        try:
            while not self.cut_at(piece := await service.receive()):
                await client.send(piece)
                self.passed.set()
        except ENDS:
            return


@asynccontextmanager
async def cutting_proxy(url: str) -> AsyncIterator[CuttingProxy]:
    """Run a proxy before the service at `url`."""
    parts = urlsplit(url)
    assert parts.port is not None
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    proxy = CuttingProxy(parts._replace(netloc=f"127.0.0.1:{port}").geturl(), parts.port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy.carry)
        yield proxy
        tasks.cancel_scope.cancel()
