"""The HTTP of the egress proxy, between a caller and a server that misbehave."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox_tools.local import outside as outside_module
from sandbox_tools.local import proxy as proxy_module
from sandbox_tools.local.outside import Link
from sandbox_tools.local.proxy import MAX_HEADER_BYTES, ProxyError, serve_request, target_of


@dataclass
class Connected:
    """The caller's and the server's end of a proxied connection, and what was asked for."""

    caller: socket.socket
    server: socket.socket
    asked: list[tuple[str, int]] = field(default_factory=list)
    ended: anyio.Event = field(default_factory=anyio.Event)

    async def say(self, data: bytes) -> None:
        await anyio.wait_writable(self.caller)
        self.caller.sendall(data)

    async def answer(self, data: bytes) -> None:
        self.server.sendall(data)


async def read(end: socket.socket, until: bytes = b"") -> bytes:
    """Return what comes on a socket until a text, or its end."""
    data = b""
    with anyio.fail_after(5):
        while not until or not data.endswith(until):
            await anyio.wait_readable(end)
            chunk = end.recv(65_536)
            if not chunk:
                break
            data += chunk
    return data


@asynccontextmanager
async def proxied(*, refuse: ProxyError | None = None) -> AsyncIterator[Connected]:
    caller, callers_far_end = socket.socketpair()
    server, servers_far_end = socket.socketpair()
    for end in (caller, server):
        end.setblocking(False)
    connected = Connected(caller, server)
    link = Link(callers_far_end)

    async def reach(host: str, port: int) -> Link:
        connected.asked.append((host, port))
        if refuse:
            raise refuse
        return Link(servers_far_end, partner=link)

    async def serve() -> None:
        try:
            await serve_request(link, reach)
        except OSError:
            pass
        finally:
            link.close()
            connected.ended.set()

    with caller, server, callers_far_end, servers_far_end:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            yield connected
            tasks.cancel_scope.cancel()


async def test_connect_carries_bytes_both_ways_and_each_end_on_its_own() -> None:
    async with proxied() as connected:
        await connected.say(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\nhello")
        assert await read(connected.caller, b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert await read(connected.server, b"hello") == b"hello"
        assert connected.asked == [("example.com", 443)]
        connected.caller.shutdown(socket.SHUT_WR)
        assert await read(connected.server) == b""
        await connected.answer(b"late \x00 answer")
        connected.server.shutdown(socket.SHUT_WR)
        assert await read(connected.caller) == b"late \x00 answer"
        with anyio.fail_after(5):
            await connected.ended.wait()


async def test_connect_of_http_1_0_which_older_pythons_send() -> None:
    async with proxied() as connected:
        await connected.say(b"CONNECT example.com:443 HTTP/1.0\r\n\r\n")
        assert (await read(connected.caller, b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_request_is_written_anew_without_what_is_between_caller_and_proxy() -> None:
    async with proxied() as connected:
        await connected.say(
            b"GET http://example.com:8080/a?b=c HTTP/1.1\r\nHost: evil.example\r\nAccept: */*\r\n"
            b"Proxy-Authorization: Basic eA==\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nUpgrade: x\r\n"
            b"Proxy-Connection: keep-alive\r\n\r\n"
        )
        request = await read(connected.server, b"\r\n\r\n")
        assert request.split(b"\r\n") == [
            b"GET /a?b=c HTTP/1.1",
            b"host: example.com:8080",
            b"accept: */*",
            b"connection: close",
            b"",
            b"",
        ]
        assert connected.asked == [("example.com", 8080)]
        await connected.answer(b"HTTP/1.1 404 Nope\r\nContent-Length: 2\r\nKeep-Alive: x\r\nServer: s\r\n\r\nno")
        answer = await read(connected.caller)
        assert answer == b"HTTP/1.1 404 Nope\r\ncontent-length: 2\r\nserver: s\r\nconnection: close\r\n\r\nno"


async def test_a_body_of_unknown_length_is_carried_both_ways() -> None:
    async with proxied() as connected:
        await connected.say(
            b"POST http://example.com HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n"
            b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        )
        assert await read(connected.caller, b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
        await connected.say(b"5\r\nhello\r\n0\r\n\r\n")
        request = await read(connected.server, b"0\r\n\r\n")
        assert request.startswith(b"POST / HTTP/1.1\r\nhost: example.com\r\n")
        assert b"content-length" not in request.lower()
        assert request.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        await connected.answer(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
        connected.server.shutdown(socket.SHUT_WR)
        answer = await read(connected.caller)
        assert b"transfer-encoding: chunked" in answer.lower()
        assert answer.endswith(b"d\r\nuntil the end\r\n0\r\n\r\n")


async def test_a_server_that_answers_before_the_body_has_come_is_heard() -> None:
    async with proxied() as connected:
        await connected.say(b"POST http://example.com/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly a part")
        await read(connected.server, b"only a part")
        await connected.answer(b"HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n")
        assert (await read(connected.caller)).startswith(b"HTTP/1.1 413 Too Much\r\n")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000])
async def test_a_server_that_does_not_speak_http_is_a_502(answer: bytes) -> None:
    async with proxied() as connected:
        await connected.say(b"GET http://example.com/ HTTP/1.1\r\nHost: x\r\n\r\n")
        await read(connected.server, b"\r\n\r\n")
        connected.server.settimeout(5)
        connected.server.sendall(answer)
        connected.server.shutdown(socket.SHUT_WR)
        assert (await read(connected.caller)).startswith(b"HTTP/1.1 502 ")


async def test_an_answer_that_breaks_off_is_not_made_whole() -> None:
    async with proxied() as connected:
        await connected.say(b"GET http://example.com/ HTTP/1.1\r\nHost: x\r\n\r\n")
        await connected.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        connected.server.shutdown(socket.SHUT_WR)
        answer = await read(connected.caller)
        assert answer.endswith(b"hello\r\n")


async def test_a_refusal_says_why() -> None:
    async with proxied(refuse=ProxyError(403, "example.com may not be reached: it is a test")) as connected:
        await connected.say(b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = (await read(connected.caller)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 ")
        assert b"content-type: text/plain" in head.lower()
        assert body == b"sandbox egress proxy: example.com may not be reached: it is a test\n"


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/1.1",
        b"GET https://example.com/ HTTP/1.1",
        b"GET ftp://example.com/ HTTP/1.1",
        b"GET http://user:password@example.com/ HTTP/1.1",
        b"GET http://example.com:0/ HTTP/1.1",
        b"GET http://example.com:65536/ HTTP/1.1",
        b"GET http://example.com:8o/ HTTP/1.1",
        b"GET http://exa%6dple.com/ HTTP/1.1",
        b"GET http://[fe80::1%25eth0]/ HTTP/1.1",
        b"GET http:///path HTTP/1.1",
        b"GET http://" + b"a" * 254 + b"/ HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT example.com HTTP/1.1",
        b"CONNECT example.com:99999 HTTP/1.1",
        b"CONNECT http://example.com:443 HTTP/1.1",
        b"CONNECT example.com:443/path HTTP/1.1",
        b"garbage",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
async def test_what_is_no_request_for_a_proxy_is_a_400(request_line: bytes) -> None:
    async with proxied() as connected:
        await connected.say(request_line + b"\r\nHost: x\r\n\r\n")
        assert (await read(connected.caller)).startswith(b"HTTP/1.1 400 ")
        assert not connected.asked


async def test_a_connect_with_a_body_is_a_400() -> None:
    async with proxied() as connected:
        await connected.say(b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        assert (await read(connected.caller)).startswith(b"HTTP/1.1 400 ")
        assert not connected.asked


async def test_headers_that_are_too_big_are_refused_before_they_are_buffered() -> None:
    async with proxied() as connected:
        await connected.say(b"GET http://example.com/ HTTP/1.1\r\nA: " + b"x" * (MAX_HEADER_BYTES + 1))
        assert (await read(connected.caller)).startswith(b"HTTP/1.1 431 ")


async def test_a_request_that_comes_byte_by_byte_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_module, "HEADER_TIMEOUT_S", 0.1)
    async with proxied() as connected:
        for byte in b"GET http":
            await connected.say(bytes([byte]))
            await anyio.wait_all_tasks_blocked()
        assert (await read(connected.caller)).startswith(b"HTTP/1.1 408 ")


async def test_a_silent_pair_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_module, "IDLE_TIMEOUT_S", 0.1)
    async with proxied() as connected:
        await connected.say(b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        await read(connected.caller, b"\r\n\r\n")
        with anyio.fail_after(5):
            await connected.ended.wait()


async def test_a_direction_may_be_silent_while_the_other_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_module, "IDLE_TIMEOUT_S", 0.3)
    async with proxied() as connected:
        await connected.say(b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        await read(connected.caller, b"\r\n\r\n")
        for _ in range(10):
            await anyio.sleep(0.05)
            await connected.answer(b"tick")
            assert await read(connected.caller, b"tick") == b"tick"
        assert not connected.ended.is_set()


async def test_a_caller_that_goes_ends_the_work() -> None:
    async with proxied() as connected:
        await connected.say(b"POST http://example.com/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        await read(connected.server, b"\r\n\r\n")
        connected.caller.close()
        with anyio.fail_after(5):
            await connected.ended.wait()


async def test_a_slow_reader_slows_the_server_and_fills_no_memory() -> None:
    async with proxied() as connected:
        await connected.say(b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        await read(connected.caller, b"\r\n\r\n")
        sent = 0
        while sent < 64 << 20:
            await anyio.wait_all_tasks_blocked()
            try:
                sent += connected.server.send(bytes(1 << 16))
            except BlockingIOError:
                break
        assert sent < 16 << 20


@given(st.binary(max_size=300) | st.text("GETCONNECT /:.httpHOST\r\n0123456789", max_size=200).map(str.encode))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_end_in_an_answer_or_a_closed_connection(data: bytes) -> None:
    async def attempt() -> None:
        async with proxied(refuse=ProxyError(403, "no")) as connected:
            await connected.say(data)
            connected.caller.shutdown(socket.SHUT_WR)
            answer = await read(connected.caller)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
            with anyio.fail_after(5):
                await connected.ended.wait()

    anyio.run(attempt)


@given(st.binary(max_size=80))
def test_any_target_is_read_or_refused(target: bytes) -> None:
    for method in (b"GET", b"CONNECT"):
        try:
            found = target_of(method, target)
        except ProxyError:
            continue
        assert 1 <= found.port <= 65_535
        assert found.host.isascii()
