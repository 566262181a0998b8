"""Clients that take their time: a connection is not theirs for ever, and theirs are not all there are."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox_tools.local import connections, web, websocket
from sandbox_tools.local.connections import Connection
from sandbox_tools.local.preview_site import PreviewSite
from sandbox_tools.local.web import RequestError, body_chunks, read_body, request_error
from sandbox_tools.local.websocket import WebSockets

TIMEOUT_S = 0.3
REQUEST = b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n"


async def quick(_: Request) -> Response:
    return Response(b"ok")


async def whole(request: Request) -> Response:
    return Response(await read_body(request))


async def piecewise(request: Request) -> Response:
    return Response(b"".join([chunk async for chunk in body_chunks(request, 100)]))


held_requests: list[Request] = []


async def held(request: Request) -> Response:
    held_requests.append(request)
    await anyio.sleep_forever()
    raise AssertionError


ROUTES = [
    Route("/quick", quick),
    Route("/whole", whole, methods=["POST"]),
    Route("/piecewise", piecewise, methods=["POST"]),
    Route("/held", held),
]


class WaitingSite:
    """Previews that are refused, after a while."""

    def __init__(self) -> None:
        self.goes_on = anyio.Event()

    def find(self, _: object) -> object:
        return SimpleNamespace(target=None)

    async def admit(self, *_: object) -> None:
        await self.goes_on.wait()
        raise RequestError(404, "no such sandbox")


@asynccontextmanager
async def listening(monkeypatch: pytest.MonkeyPatch, site: WaitingSite | None = None) -> AsyncIterator[int]:
    """Serve as the service does, with less patience; yield the port."""
    import uvicorn

    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(web, "BODY_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setitem(body_chunks.__kwdefaults__, "idle_timeout_s", TIMEOUT_S)
    app = Starlette(routes=ROUTES, exception_handlers={RequestError: request_error})
    sockets: Any = WebSockets(cast(PreviewSite, site or WaitingSite()))
    config = uvicorn.Config(app, http=Connection, ws=sockets, lifespan="off", log_config=None, timeout_keep_alive=60)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with anyio.create_task_group() as tasks:
            config.load()
            server.lifespan = config.lifespan_class(config)
            await server.startup(sockets=[listener])
            yield listener.getsockname()[1]
            tasks.cancel_scope.cancel()
        server.force_exit = True
        await server.shutdown(sockets=[listener])


async def drip(stream: anyio.abc.ByteStream, data: bytes, *, pause_s: float) -> bool:
    """Send a byte at a time; return whether the other end took all of them."""
    try:
        for number in data:
            await stream.send(bytes([number]))
            await anyio.sleep(pause_s)
    except anyio.BrokenResourceError:
        return False
    return True


async def rest(stream: anyio.abc.ByteStream) -> bytes:
    """Return what comes until the connection is closed."""
    received = b""
    with anyio.fail_after(10 * TIMEOUT_S):
        try:
            while True:
                received += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return received


@pytest.mark.parametrize(
    "sent", [b"", b"GET /quick HTTP/1.1\r\nhost", REQUEST, REQUEST + b"GET"], ids=["nothing", "half", "one", "more"]
)
async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    async with listening(monkeypatch) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(sent or b"")
        assert (await rest(stream)).count(b"200 OK") == (REQUEST in sent)


async def test_a_header_that_comes_byte_by_byte_has_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(monkeypatch) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        assert not await drip(stream, REQUEST + b"x" * 100, pause_s=TIMEOUT_S / 10)


@pytest.mark.parametrize("path", ["/whole", "/piecewise"])
async def test_a_body_that_does_not_come_is_answered_with_408(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345".encode()
    async with listening(monkeypatch) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(head)
        assert b"408 Request Timeout" in await rest(stream)


async def test_a_small_body_that_comes_byte_by_byte_has_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(monkeypatch) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"POST /whole HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        assert not await drip(stream, b"x" * 1000, pause_s=TIMEOUT_S / 10)


async def test_a_refused_body_does_not_hold_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is there before the body is: the rest of it is not waited for."""
    async with listening(monkeypatch) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx")
        assert b"404 Not Found" in await rest(stream)


async def test_a_request_that_takes_long_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(monkeypatch) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        with anyio.move_on_after(3 * TIMEOUT_S) as waiting:
            await stream.receive()
        assert waiting.cancelled_caught


async def test_many_idle_connections_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    async with listening(monkeypatch) as port:
        monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 60)
        idle = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(3)]
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(REQUEST)
            assert b"200 OK" in await stream.receive()
            assert await rest(idle[0]) == b""  # the oldest had to go
        for one in idle:
            await one.aclose()


async def test_when_all_connections_are_busy_one_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    async with listening(monkeypatch) as port:
        before = len(held_requests)
        busy = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(2)]
        for one in busy:
            await one.send(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        with anyio.fail_after(5):
            while len(held_requests) < before + 2:
                await anyio.sleep(0.01)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            assert b"503 Service Unavailable" in await rest(stream)
        for one in busy:
            await one.aclose()


async def test_there_are_not_more_web_sockets_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "MAX_WEBSOCKETS", 2)
    asked = b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    site = WaitingSite()
    async with listening(monkeypatch, site) as port:
        busy = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(2)]
        for one in busy:
            await one.send(asked)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(asked)
            assert b" 503 " in await rest(stream)
        site.goes_on.set()
        for one in busy:
            assert b" 404 " in await rest(one)
            await one.aclose()
