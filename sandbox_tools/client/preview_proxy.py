"""Private previews for the browser of this machine: a server on loopback that adds the token of the sandbox.

Each preview has an origin of its own, `http://{port}-{unguessable}.localhost:PORT`, so that absolute paths and cookies
work and pages of one preview cannot read another. Browsers know that every name below `localhost` is this machine.
Only the names that were given out are answered, and they lead to that one port of that one sandbox, nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from html import escape
from typing import Final

import anyio
import anyio.abc
import h11

from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.preview_site import Previews
from sandbox_tools.client.preview_upstream import PreviewAnswer, PreviewError, PreviewRequest, PreviewUpstream
from sandbox_tools.redaction import Redactor
from sandbox_tools.wire.hops import Headers

MAX_CONNECTIONS: Final = 256
HEAD_TIMEOUT_S: Final = 30.0
"""For the head of a request, and between two of them."""

MAX_HEAD_BYTES: Final = 65_536
_PIECE_BYTES: Final = 65_536
_CLOSE_S: Final = 1.0
_GONE: Final = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)

_logger = logging.getLogger(__name__)

_PAGE: Final = """<!doctype html><meta charset="utf-8"><title>Preview</title>
<style>body{font:16px system-ui;max-width:40em;margin:4em auto;padding:0 1em}</style>
<h1>There is no preview here</h1><p>%s</p>
"""


class PreviewProxy:
    """The server. It starts with the first preview, in `tasks`, and ends with them. Implements `PreviewSite`.

    Args:
        tasks: Lives as long as the previews.
        redactor: Knows the tokens of the sandboxes.
    """

    def __init__(self, tasks: anyio.abc.TaskGroup, redactor: Redactor) -> None:
        self._tasks = tasks
        self._address = ""
        self._starting = anyio.Lock()
        self._previews = Previews(redactor)
        self._room = anyio.Semaphore(MAX_CONNECTIONS)

    async def publish(self, sandbox_id: str, port: int, access: Callable[[], RuntimeAccess]) -> str:
        """See `PreviewSite.publish`."""
        async with self._starting:
            self._address = self._address or await self._listen()
        return f"http://{port}-{self._previews.add(sandbox_id, port, access)}.{self._address}/"

    async def withdraw(self, sandbox_id: str) -> None:
        """See `PreviewSite.withdraw`."""
        await self._previews.remove(sandbox_id)

    async def _listen(self) -> str:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra_attributes[anyio.abc.SocketAttribute.local_port]()
        self._tasks.start_soon(self._serve, listener)
        return f"localhost:{port}"

    async def _serve(self, listener: anyio.abc.Listener[anyio.abc.SocketStream]) -> None:
        async with listener:
            await listener.serve(self._connection)

    async def _connection(self, stream: anyio.abc.SocketStream) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_close, stream)
            try:
                self._room.acquire_nowait()
            except anyio.WouldBlock:
                return
            stack.callback(self._room.release)
            page = _Page(stream)
            try:
                while await page.serve_one(self._previews, self._address):
                    pass
            except (*_GONE, h11.ProtocolError):
                pass
            except Exception as error:  # noqa: BLE001 - one page must not end the others; its text may quote a request
                _logger.error("a private preview failed: %s", type(error).__name__)


class _Page:
    """One connection of a browser."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def serve_one(self, previews: Previews, address: str) -> bool:
        """Answer one request; return whether another may follow."""
        request: h11.Event | None = None
        with anyio.move_on_after(HEAD_TIMEOUT_S):
            request = await self._next_event()
        if not isinstance(request, h11.Request):
            return False
        if not _has_body(request):
            await self._next_event()  # its end, which has come with it
        try:
            await self._answer(request, *_admitted(request, previews, address))
        except PreviewError as error:
            await self._refuse(error)
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _answer(self, request: h11.Request, host: str, upstream: PreviewUpstream) -> None:
        is_upgrade = _named(request, b"upgrade").lower() == b"websocket"
        asked = PreviewRequest(
            method=request.method,
            target=request.target,
            headers=list(request.headers),
            content=self._body() if _has_body(request) else None,
            upgrade=is_upgrade,
        )
        answer = await upstream.ask(asked, base=f"http://{host}")
        try:
            await (self._carry_websocket(answer) if answer.status == 101 else self._carry(answer))
        finally:
            with anyio.CancelScope(shield=True):
                await answer.aclose()

    async def _carry(self, answer: PreviewAnswer) -> None:
        await self._send(h11.Response(status_code=answer.status, headers=answer.headers))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, tasks.cancel_scope)
            with suppress(PreviewError, h11.ProtocolError, *_GONE):  # the browser sees that it was cut off
                async for piece in answer.chunks():
                    if piece:
                        await self._send(h11.Data(data=piece))
                await self._send(h11.EndOfMessage())
            tasks.cancel_scope.cancel()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        """Give the answer up when the browser leaves: an app may be silent for long."""
        if self._http.their_state not in (h11.DONE, h11.MUST_CLOSE):
            return  # the body still comes
        try:
            data = await self._stream.receive(_PIECE_BYTES)
        except _GONE:
            scope.cancel()
        else:
            self._http.receive_data(data)  # the next request: it waits

    async def _carry_websocket(self, answer: PreviewAnswer) -> None:
        upgrade: Headers = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
        await self._send(h11.InformationalResponse(status_code=101, headers=[*answer.headers, *upgrade]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._carry_to_app, answer, tasks.cancel_scope)
            with suppress(PreviewError, *_GONE):
                async for piece in answer.received():
                    await self._stream.send(piece)
            tasks.cancel_scope.cancel()

    async def _carry_to_app(self, answer: PreviewAnswer, scope: anyio.CancelScope) -> None:
        data = self._http.trailing_data[0]
        with suppress(PreviewError, *_GONE):
            if data:
                await answer.send(data)
            while True:
                await answer.send(await self._stream.receive(_PIECE_BYTES))
        scope.cancel()

    async def _body(self) -> AsyncIterator[bytes]:
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        while isinstance(event := await self._next_event(), h11.Data):
            yield bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise PreviewError(400, "The body broke off.")

    async def _refuse(self, error: PreviewError) -> None:
        """Answer with an error, unless an answer has begun: then the connection ends."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = (_PAGE % escape(str(error))).encode()
        headers = [
            ("content-type", "text/html; charset=utf-8"),
            ("content-security-policy", "default-src 'unsafe-inline'"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        await self._send(h11.Response(status_code=error.status, headers=headers))
        await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def _next_event(self) -> h11.Event | None:
        """Return the next event; None when the browser has gone."""
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.ConnectionClosed):
                return None
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                return None
            try:
                self._http.receive_data(await self._stream.receive(_PIECE_BYTES))
            except anyio.EndOfStream:
                self._http.receive_data(b"")

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._stream.send(data)


def _admitted(request: h11.Request, previews: Previews, address: str) -> tuple[str, PreviewUpstream]:
    """Return the preview that a request is for.

    Raises:
        PreviewError: There is none of this name (a page of another site that found its way here, or one that has
            ended), or a page of another origin asks.
    """
    host = _named(request, b"host").decode("latin-1").lower()
    label, _, rest = host.partition(".")
    upstream = previews.find(label.partition("-")[2]) if rest == address else None
    if upstream is None:
        raise PreviewError(404, "This preview has ended, or there never was one. Ask for a new preview URL.")
    origin = _named(request, b"origin")
    if origin and origin != f"http://{host}".encode():
        raise PreviewError(403, "A page of another site may not use this preview.")
    return host, upstream


def _named(request: h11.Request, wanted: bytes) -> bytes:
    values = [value for name, value in request.headers if name == wanted]
    return values[0] if len(values) == 1 else b""


def _has_body(request: h11.Request) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in request.headers
    )


async def _close(stream: anyio.abc.SocketStream) -> None:
    with anyio.move_on_after(_CLOSE_S, shield=True), suppress(*_GONE):
        await stream.aclose()
