"""WebSockets of previews: our part is the handshake, then bytes are carried both ways as they are.

uvicorn hands over a connection that asks for a WebSocket to a protocol class of asyncio; so this module is asyncio's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote

import anyio
import h11
import httpcore
from starlette.requests import Request
from starlette.types import Scope

from sandbox_tools.local.background import place
from sandbox_tools.local.preview import NotServedError, Stream, Target
from sandbox_tools.local.preview_site import PreviewSite, target_of
from sandbox_tools.local.web import RequestError
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.hops import Headers

IDLE_S: Final = 3600.0
"""Without a byte in either direction, after which a connection is closed. Most apps send a ping now and then."""

MAX_WEBSOCKETS: Final = 512
"""Of all sandboxes together. Not among `connections.MAX_CONNECTIONS`: an idle one must not be closed for another."""

_UPGRADE: Final[Headers] = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
_HANDSHAKE_S: Final = 30.0
_CLOSE_S: Final = 5.0
_PIECE_BYTES: Final = 65_536
_MAX_HEAD_BYTES: Final = 131_072

_Read = Callable[[int], Awaitable[bytes]]
_Write = Callable[[bytes], Awaitable[None]]

_log: Final = logging.getLogger(__name__)


class WebSockets:
    """Makes the protocol of each connection; uvicorn calls it as the class that it expects."""

    def __init__(self, site: PreviewSite) -> None:
        self._site = site
        self._number = 0

    def __call__(self, **_: Any) -> asyncio.Protocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(_MAX_HEAD_BYTES), self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._number += 1
        try:
            await self._answer(_Caller(reader, writer))
        except (OSError, httpcore.NetworkError, httpcore.TimeoutException, h11.ProtocolError):
            pass  # one of the two is gone, or the app does not speak HTTP after all
        except Exception as error:  # noqa: BLE001 - its text may quote a path, so only its place is logged
            _log.error("a web socket failed: %s", place(error))
        finally:
            self._number -= 1
            with anyio.move_on_after(_CLOSE_S, shield=True), suppress(OSError):
                writer.close()
                await writer.wait_closed()
            writer.transport.abort()

    async def _answer(self, caller: _Caller) -> None:
        request = await caller.request()
        if request is None:
            return
        try:
            await self._connect(caller, request)
        except RequestError as error:
            refused = error
        except NotServedError as error:
            refused = RequestError(502, str(error))
        except WireError as error:
            refused = RequestError(400, str(error))
        else:
            return
        answer = refused.response()
        await caller.begin(answer.status_code, list(answer.raw_headers))
        await caller.send(h11.Data(data=bytes(answer.body)))
        await caller.send(h11.EndOfMessage())

    async def _connect(self, caller: _Caller, request: Request) -> None:
        if self._number > MAX_WEBSOCKETS:
            raise RequestError(503, "the service has too many WebSockets open")
        preview = self._site.find(request.scope)
        if preview is None:
            raise RequestError(404, "no such route")
        entry = await self._site.admit(preview, request)
        target = target_of(preview, request, entry)
        headers = target.request_headers(request.headers.raw, self._site.secrets_of(entry))
        with entry.previews.tunnel(target.port):
            app = await entry.previews.connect(target.port)
            try:
                await _relay(caller, _App(app), target, headers)
            finally:
                await app.aclose()


class _Caller:
    """The connection that asks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)

    async def request(self) -> Request | None:
        """Return what is asked, or None if it has a body, which no WebSocket has."""
        self._http.receive_data(await self.reader.readuntil(b"\r\n\r\n"))
        asked = self._http.next_event()
        if isinstance(asked, h11.Request) and isinstance(self._http.next_event(), h11.EndOfMessage):
            return Request(_scope(asked))
        return None

    async def begin(self, status: int, headers: Headers) -> None:
        """Begin an answer that is not a WebSocket."""
        await self.send(h11.Response(status_code=status, headers=[*headers, (b"connection", b"close")]))

    async def send(self, event: h11.Event) -> None:
        await self.write(self._http.send(event) or b"")

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


class _App:
    """The connection to the app. What comes on it is hostile; h11 checks it up to the end of the handshake."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_PIECE_BYTES)

    async def ask(self, path: bytes, headers: Headers) -> None:
        request = self._http.send(h11.Request(method=b"GET", target=path, headers=headers)) or b""
        await self.stream.write(request + (self._http.send(h11.EndOfMessage()) or b""), _HANDSHAKE_S)

    async def next(self) -> Any:
        """Return the next event that means something here."""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self.stream.read(_PIECE_BYTES, _HANDSHAKE_S))
            elif not isinstance(event, h11.InformationalResponse) or event.status_code == 101:
                return event

    @property
    def first_bytes(self) -> bytes:
        """What came together with the handshake."""
        return self._http.trailing_data[0]


async def _relay(caller: _Caller, app: _App, target: Target, headers: Headers) -> None:
    await app.ask(target.path, headers + _UPGRADE)
    try:
        answer = await app.next()
    except (h11.ProtocolError, httpcore.NetworkError, httpcore.TimeoutException):
        answer = None
    if isinstance(answer, h11.InformationalResponse):
        back = target.response_headers(answer.headers)
        await caller.send(h11.InformationalResponse(status_code=101, headers=back + _UPGRADE))
        await _carry(caller, app)
    elif isinstance(answer, h11.Response):
        await caller.begin(answer.status_code, target.response_headers(answer.headers))
        while isinstance(data := await app.next(), h11.Data):
            await caller.send(data)
        await caller.send(h11.EndOfMessage())
    else:
        raise NotServedError(target.port, " does not answer with HTTP")


async def _carry(caller: _Caller, app: _App) -> None:
    """Carry bytes until either side ends, or both are silent for too long."""
    with anyio.CancelScope(deadline=anyio.current_time() + IDLE_S) as idle:
        async with anyio.create_task_group() as directions:

            async def carry(read: _Read, write: _Write, data: bytes = b"") -> None:
                with suppress(OSError, httpcore.NetworkError):
                    while data or (data := await read(_PIECE_BYTES)):
                        await write(data)
                        idle.deadline, data = anyio.current_time() + IDLE_S, b""
                directions.cancel_scope.cancel()

            directions.start_soon(carry, caller.reader.read, app.stream.write)
            directions.start_soon(carry, app.stream.read, caller.write, app.first_bytes)


def _scope(asked: h11.Request) -> Scope:
    raw_path, _, query = asked.target.partition(b"?")
    return {
        "type": "http",
        "method": asked.method.decode("ascii"),
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "headers": [(name, value) for name, value in asked.headers],
    }
