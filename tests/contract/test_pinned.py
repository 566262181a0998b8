"""Credentials are added below the HTTP client: to the requests for one origin, and to nothing that anybody keeps."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import httpx
import pytest

from sandbox_tools.client.lanes import LANE_CONNECTIONS
from sandbox_tools.client.pinned import PinnedTransport
from sandbox_tools.redaction import Registry
from tests.contract.hostile import hostile_server, http


@pytest.fixture
def token() -> str:
    return secrets.token_urlsafe(32)


def pinned_to(base_url: str, token: str) -> PinnedTransport:
    return PinnedTransport(base_url, {"X-Access-Token": Registry().register("SANDBOX_TOKEN", token)})


async def test_a_request_to_another_origin_is_not_sent(token: str) -> None:
    async with hostile_server(http(200)) as home, hostile_server(http(200)) as other:
        pinned = pinned_to(home.base_url, token)
        port = home.base_url.rpartition(":")[2]
        for url in (
            other.base_url,
            f"http://127.0.0.2:{port}/",
            f"http://localhost:{port}/",
            f"https://127.0.0.1:{port}/",
            f"http://127.0.0.1:{port}@{other.base_url.removeprefix('http://')}/",
        ):
            with pytest.raises(httpx.UnsupportedProtocol, match="not the pinned origin") as caught:
                await pinned.handle_async_request(httpx.Request("GET", url))
            assert token not in repr(vars(caught.value))
        assert (home.requests, other.requests) == ([], [])
        await pinned.aclose()


async def test_the_credential_replaces_what_a_request_says_in_its_place_and_stays_out_of_the_request(
    token: str,
) -> None:
    async with hostile_server(http(200)) as server:
        pinned = pinned_to(server.base_url, token)
        request = httpx.Request("GET", server.base_url, headers={"x-ACCESS-token": "forged", "x-other": "kept"})
        response = await pinned.handle_async_request(request)
        await response.aread()
        await pinned.aclose()
        [sent] = server.requests
        assert sent.head.lower().count(b"x-access-token") == 1
        assert (sent.header("x-access-token"), sent.header("x-other")) == (token, "kept")
        assert token not in repr([request.headers.raw, vars(request), vars(response)])


class KeptServer:
    """Keeps its connections open, and answers when as many requests have come as a test wants, or never.

    Attributes:
        came: Set when they have.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.connections = 0
        self.want(1)

    def want(self, count: int, *, answers: bool = True) -> None:
        self.came = anyio.Event()
        self._missing = count
        self._answers = answers

    async def handle(self, stream: anyio.abc.ByteStream) -> None:
        self.connections += 1
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while await stream.receive():
                    self._missing -= 1
                    if not self._missing:
                        self.came.set()
                    await self.came.wait()
                    if self._answers:
                        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@asynccontextmanager
async def kept_server() -> AsyncIterator[KeptServer]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = KeptServer(f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.handle)
        yield server
        tasks.cancel_scope.cancel()


async def get(pinned: PinnedTransport, url: str) -> None:
    response = await pinned.handle_async_request(httpx.Request("GET", url))
    assert await response.aread() == b"ok"
    await response.aclose()


async def test_a_hundred_calls_at_once_are_all_under_way_and_their_connections_serve_the_next_ones(token: str) -> None:
    async with kept_server() as server:
        pinned = pinned_to(server.url, token)
        for _ in range(3):
            server.want(100)
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:
                    for _ in range(100):
                        tasks.start_soon(get, pinned, server.url)
        assert server.connections == 100
        await pinned.aclose()


async def test_calls_one_after_the_other_share_a_connection_after_any_number_that_failed_or_were_cancelled(
    token: str,
) -> None:
    async with kept_server() as server:
        pinned = pinned_to(server.url, token)
        server.want(3 * LANE_CONNECTIONS, answers=False)
        async with anyio.create_task_group() as tasks:
            for _ in range(3 * LANE_CONNECTIONS):
                tasks.start_soon(get, pinned, server.url)
            with anyio.fail_after(20):
                await server.came.wait()
            tasks.cancel_scope.cancel()
        for _ in range(3):
            with pytest.raises(httpx.LocalProtocolError):
                await pinned.handle_async_request(httpx.Request("GET", server.url, headers={"x": "a\nb"}))
        assert pinned._inner.busy == 0
        before = server.connections
        for _ in range(5):
            server.want(1)
            await get(pinned, server.url)
        assert server.connections == before + 1
        await pinned.aclose()
