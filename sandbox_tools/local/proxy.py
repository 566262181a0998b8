"""The HTTP of the egress proxy: one request of a program in a sandbox, by CONNECT or with an absolute URL.

The caller is hostile. Its request is read by h11 and written anew, so that the server is sent what was judged; header
size and time are capped, nothing is buffered, and nothing of ours is added.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio
import h11

from sandbox_tools.local.outside import Link, relay
from sandbox_tools.wire.hops import HOP_BY_HOP, Headers, without

if TYPE_CHECKING:
    from sandbox_tools.local.inject import Injector, Scrubber

HEADER_TIMEOUT_S: Final = 10.0
"""For the whole request line with its headers."""

MAX_HEADER_BYTES: Final = 16_384
_MAX_ANSWER_HEADER_BYTES: Final = 65_536
_LINGER_S: Final = 0.5
_LINGER_CHUNKS: Final = 16

_HOST: Final = rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})"
_AUTHORITY: Final = re.compile(_HOST + rb":([0-9]{1,5})")
_ABSOLUTE: Final = re.compile(rb"(?i:http)://(" + _HOST + rb"(?::([0-9]{1,5}))?)(/[^#]*|\?[^#]*)?")

_NOT_FORWARDED: Final = HOP_BY_HOP | {b"host", b"expect"}

Reach = Callable[[str, int], Awaitable[Link]]
"""Connects to a host and a port; raises ProxyError."""


class ProxyError(Exception):
    """The caller gets this status with this text, which names nothing of the host."""

    def __init__(self, status: int, text: str) -> None:
        self.status: Final = status
        self.text: Final = text
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes. `authority` is for its Host header, `path` what the server is asked for.

    `is_secure`: over TLS of ours, because it may carry a secret.
    """

    host: str
    port: int
    authority: bytes = b""
    path: bytes = b""
    is_secure: bool = False


def target_of(method: bytes, target: bytes) -> Target:
    """Read the target of a request.

    Raises:
        ProxyError: It is none that a proxy can be asked for (400).
    """
    if method == b"CONNECT":
        if match := _AUTHORITY.fullmatch(target):
            return Target(_host(match[1]), _port(match[2]))
        raise ProxyError(400, "CONNECT wants host:port")
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise ProxyError(400, "this is a proxy: ask for http://host/path, or use CONNECT host:port")
    path = match[4] or b"/"
    return Target(_host(match[2]), _port(match[3] or b"80"), match[1], path if path.startswith(b"/") else b"/" + path)


async def serve_request(caller: Link, reach: Reach, injector: Injector | None = None) -> None:
    """Serve one request, then return: who wants another connects again.

    Args:
        injector: Puts secrets into requests for some hosts.

    Raises:
        OSError: A connection broke.
        TimeoutError: Both sides were silent for too long.
    """
    peer = _Peer(h11.SERVER, caller, MAX_HEADER_BYTES)
    try:
        request = await _read_request(peer)
        target = target_of(request.method, request.target)
        if request.method == b"CONNECT":
            await _tunnel(peer, target, reach)
        else:
            await _forward(peer, request, target, reach, injector)
    except ProxyError as error:
        await peer.refuse(error)
    except h11.RemoteProtocolError as error:
        await peer.refuse(ProxyError(error.error_status_hint, "this is no HTTP request that the proxy can serve"))


class _Peer:
    """HTTP on one link."""

    def __init__(self, role: type[h11.CLIENT] | type[h11.SERVER], link: Link, max_header_bytes: int) -> None:
        self.http = h11.Connection(role, max_incomplete_event_size=max_header_bytes)
        self.link = link

    async def next_event(self) -> h11.Event:
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                raise ProxyError(400, "one request a connection")
            self.http.receive_data(await self.link.receive())

    async def send(self, event: h11.Event) -> None:
        data = self.http.send(event)
        if data:
            await self.link.send(data)

    async def refuse(self, error: ProxyError) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"sandbox egress proxy: {error.text}\n".encode()
        headers = [("content-type", "text/plain"), ("content-length", str(len(body))), ("connection", "close")]
        await self.send(h11.Response(status_code=error.status, headers=headers))
        await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())
        self.link.end()
        with anyio.move_on_after(_LINGER_S):  # closing on unread input would throw the answer away
            for _ in range(_LINGER_CHUNKS):
                if not await self.link.receive():
                    return


async def _read_request(peer: _Peer) -> h11.Request:
    event: h11.Event | None = None
    with anyio.move_on_after(HEADER_TIMEOUT_S):
        event = await peer.next_event()
    if event is None:
        raise ProxyError(408, "the request took too long")
    if not isinstance(event, h11.Request):
        raise ConnectionAbortedError
    return event


async def _tunnel(peer: _Peer, target: Target, reach: Reach) -> None:
    if not isinstance(await peer.next_event(), h11.EndOfMessage):
        raise ProxyError(400, "CONNECT has no body")
    server = await reach(target.host, target.port)
    try:
        await peer.send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
        early, _ = peer.http.trailing_data
        await server.send(early)
        await relay(peer.link, server)
    finally:
        server.close()


async def _forward(peer: _Peer, request: h11.Request, target: Target, reach: Reach, injector: Injector | None) -> None:
    target = injector.secured(target) if injector else target
    headers = _to_server(request, target)
    headers = injector.headers(target, headers) if injector else headers
    link = await reach(target.host, target.port)
    scrubber = None
    problem = ""
    try:
        if injector and target.is_secure:
            link = await injector.secure(link, target.host)
            scrubber = injector.scrubber()
        server = _Peer(h11.CLIENT, link, _MAX_ANSWER_HEADER_BYTES)
        await server.send(h11.Request(method=request.method, target=target.path, headers=headers))
        if peer.http.they_are_waiting_for_100_continue:
            await peer.send(h11.InformationalResponse(status_code=100, headers=[]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_carry_body, peer, server, tasks.cancel_scope)
            problem = await _carry_answer(server, peer, scrubber)
            tasks.cancel_scope.cancel()
    finally:
        link.close()
    if problem:
        raise ProxyError(502, problem)


async def _carry_body(peer: _Peer, server: _Peer, scope: anyio.CancelScope) -> None:
    """Give up the request when its caller does; a server that wants no more of it may still answer."""
    while True:
        try:
            event = await peer.next_event()
        except (OSError, TimeoutError, ProxyError, h11.RemoteProtocolError):
            scope.cancel()
            return
        try:
            await server.send(h11.Data(data=event.data) if isinstance(event, h11.Data) else h11.EndOfMessage())
        except (OSError, TimeoutError, h11.LocalProtocolError):
            return
        if not isinstance(event, h11.Data):
            return


async def _carry_answer(server: _Peer, peer: _Peer, scrubber: Scrubber | None) -> str:
    """Return what went wrong with the server, or ""."""
    while True:
        try:
            event = await server.next_event()
        except h11.RemoteProtocolError:
            return "the server does not answer with HTTP"
        except (OSError, TimeoutError):
            return "the server broke the connection, or was silent for too long"
        try:
            answers = _answers(event, scrubber)
        except ProxyError as error:
            return error.text
        try:
            for answer in answers:
                await peer.send(answer)
        except (OSError, TimeoutError, h11.LocalProtocolError):
            return ""  # the caller has gone, or the server's framing is not HTTP's
        if isinstance(event, h11.EndOfMessage):
            return ""


def _answers(event: h11.Event, scrubber: Scrubber | None) -> list[h11.Event]:
    """Return what the caller is sent for an event of the server."""
    if isinstance(event, h11.Response):
        headers = [*without(event.headers, HOP_BY_HOP), (b"connection", b"close")]
        headers = scrubber.headers(headers) if scrubber else headers
        reason = b"" if scrubber else event.reason
        return [h11.Response(status_code=event.status_code, headers=headers, reason=reason)]
    if isinstance(event, h11.EndOfMessage):
        rest = scrubber.close() if scrubber else b""
        return [*([h11.Data(data=rest)] if rest else []), h11.EndOfMessage()]
    if isinstance(event, h11.Data):
        return [h11.Data(data=scrubber.feed(bytes(event.data)) if scrubber else event.data)]
    return []  # 1xx


def _to_server(request: h11.Request, target: Target) -> Headers:
    """Return the headers of the caller, without what is between it and us, for this one request."""
    chunked = any(name == b"transfer-encoding" for name, _ in request.headers)
    kept = without(request.headers, _NOT_FORWARDED | ({b"content-length"} if chunked else set()))
    framing = [(b"transfer-encoding", b"chunked")] if chunked else []
    return [(b"host", target.authority), *kept, *framing, (b"connection", b"close")]


def _host(text: bytes) -> str:
    return text.decode("ascii").strip("[]")


def _port(text: bytes) -> int:
    port = int(text)
    if not 1 <= port <= 65_535:
        raise ProxyError(400, "a port is from 1 to 65535")
    return port
