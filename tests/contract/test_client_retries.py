"""What is sent again, what is not, and what an error says about work that may have been done."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sandbox_tools.client import retry
from sandbox_tools.client.transport import Transport
from sandbox_tools.errors import (
    ConfigurationError,
    SandboxRequestError,
    SandboxResponseError,
    SandboxTimeoutError,
    SandboxUnreachableError,
)
from sandbox_tools.redaction import Registry
from tests.contract.hostile import Answer, HostileServer, hostile_server, http, json_answer, raw, reset, silence

GOOD = http(200, b"[]")
LOST = raw(b"")
LIMIT = {"details": {"reason": "usage_limit", "scope": "project", "used": 10, "limit": 10, "remaining": 0}}


@asynccontextmanager
async def served(*answers: Answer) -> AsyncIterator[tuple[HostileServer, Transport]]:
    async with hostile_server(*answers) as server:
        transport = transport_to(server.base_url)
        try:
            yield server, transport
        finally:
            await transport.aclose()


def transport_to(base_url: str) -> Transport:
    return Transport(base_url, {"X-Access-Token": Registry().register("TOKEN", secrets.token_urlsafe(32))})


async def failure_of(transport: Transport, method: str, **options: object) -> SandboxRequestError:
    with anyio.fail_after(10):
        try:
            await transport.request(method, "/x", operation="do it", **options)  # type: ignore[arg-type]  # passed on
        except SandboxRequestError as exc:
            return exc
    raise AssertionError("it was accepted")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.0)


@pytest.mark.parametrize("fault", [LOST, reset(), http(502), http(503), http(504), http(429)])
async def test_a_read_is_asked_for_again_when_the_connection_broke_or_the_server_was_busy(fault: Answer) -> None:
    async with served(fault, fault, GOOD) as (server, transport):
        response = await transport.request("GET", "/x", operation="read")
        assert (response.body, len(server.requests)) == (b"[]", retry.MAX_TRIES)


async def test_a_read_whose_body_broke_off_is_asked_for_again() -> None:
    async with served(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"), GOOD) as (_, transport):
        assert (await transport.request("GET", "/x", operation="read")).body == b"[]"


async def test_the_last_failure_is_told_when_no_try_succeeds() -> None:
    async with served(LOST, http(503)) as (server, transport):
        error = await failure_of(transport, "GET")
        assert len(server.requests) == retry.MAX_TRIES
    assert isinstance(error, SandboxResponseError)
    assert (error.status, error.maybe_done, error.__context__) == (503, False, None)


@pytest.mark.parametrize("fault", [LOST, reset(), http(500), http(502), http(503)])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_what_changes_something_is_sent_once_and_may_have_been_done(fault: Answer, method: str) -> None:
    async with served(fault, GOOD) as (server, transport):
        error = await failure_of(transport, method, body={})
        assert len(server.requests) == 1
    assert error.maybe_done
    assert "check before you do it again" in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 429, 501])
async def test_a_refusal_was_surely_not_done(status: int) -> None:
    async with served(http(status)) as (_, transport):
        assert not (await failure_of(transport, "POST", body={})).maybe_done


async def test_a_failure_with_a_known_reason_was_surely_not_done() -> None:
    async with served(json_answer({"error": "no space left on device"}, 500)) as (_, transport):
        error = await failure_of(transport, "POST", body={})
    assert isinstance(error, SandboxResponseError)
    assert (error.reason, error.maybe_done) == ("no_space", False)


async def test_what_may_be_done_twice_says_so_and_is_sent_again() -> None:
    async with served(LOST, GOOD) as (server, transport):
        await transport.request("POST", "/connect", operation="connect", body={"timeout": 0}, safe=True)
        assert len(server.requests) == 2
    async with served(LOST, http(200, b"data")) as (server, transport):
        stream = await transport.stream("POST", "/x", operation="open", safe=True)
        assert (await stream.read(10), len(server.requests)) == (b"data", 2)
        await stream.aclose()


async def test_what_comes_piece_by_piece_is_sent_once_whatever_is_said() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"piece"

    async with served(LOST, GOOD) as (server, transport):
        error = await failure_of(transport, "POST", content=pieces(), safe=True)
        assert (len(server.requests), error.maybe_done) == (1, False)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 500])
async def test_an_answer_that_will_not_change_is_not_asked_for_again(status: int) -> None:
    async with served(http(status), GOOD) as (server, transport):
        await failure_of(transport, "GET")
        assert len(server.requests) == 1


async def test_a_full_usage_limit_is_told_and_not_asked_for_again() -> None:
    async with served(json_answer(LIMIT, 429), GOOD) as (server, transport):
        error = await failure_of(transport, "GET")
        assert len(server.requests) == 1
    assert isinstance(error, SandboxResponseError)
    assert error.usage_limit is not None
    assert (error.usage_limit.scope, error.usage_limit.used, error.retryable) == ("project", 10, False)
    assert "a usage limit is reached (project, used 10, limit 10, remaining 0)" in str(error)


async def test_the_server_says_how_long_to_wait_and_a_wait_past_the_deadline_is_not_begun() -> None:
    async with served(http(503, b"", "Retry-After: 0"), GOOD) as (_, transport):
        await transport.request("GET", "/x", operation="read")
    async with served(http(503, b"", "Retry-After: 60"), GOOD) as (server, transport):
        error = await failure_of(transport, "GET", timeout_s=30)
        assert len(server.requests) == 1
    assert isinstance(error, SandboxResponseError)
    assert (error.retry_after_s, error.retryable) == (60.0, True)


async def test_all_tries_share_one_deadline() -> None:
    async with served(LOST, silence()) as (server, transport):
        error = await failure_of(transport, "GET", timeout_s=0.3)
        assert len(server.requests) == 2
    assert isinstance(error, SandboxTimeoutError)


async def test_what_never_left_is_sent_again_whatever_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that refuses connections until the first try has failed."""
    failed = anyio.Event()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.setblocking(False)

        def listen(failure: SandboxRequestError, number: int) -> float:
            listening.listen()
            failed.set()
            return 0.0

        async def answer() -> None:
            await failed.wait()
            connection, _ = await asyncio.get_running_loop().sock_accept(listening)
            with connection:
                await asyncio.get_running_loop().sock_recv(connection, 65536)
                await asyncio.get_running_loop().sock_sendall(connection, b"HTTP/1.1 200 OK\r\n\r\n[]")

        monkeypatch.setattr(retry, "_pause_s", listen)
        transport = transport_to(f"http://127.0.0.1:{listening.getsockname()[1]}")
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(answer)
                response = await transport.request("POST", "/x", operation="create", body={})
        await transport.aclose()
    assert response.body == b"[]"


async def test_no_connection_says_that_nothing_was_done() -> None:
    async with hostile_server(GOOD) as server:
        base_url = server.base_url
    transport = transport_to(base_url)
    error = await failure_of(transport, "POST", body={})
    await transport.aclose()
    assert isinstance(error, SandboxUnreachableError)
    assert (error.was_sent, error.maybe_done, error.retryable) == (False, False, True)
    assert str(error) == "Could not do it: no connection, so nothing was done."


async def test_a_kept_connection_that_the_server_closed_meanwhile_is_not_used() -> None:
    keep = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
    async with served(keep) as (server, transport):
        for number in range(1, 4):
            await transport.request("POST", "/x", operation="write", body={})
            with anyio.fail_after(5):
                await server.closed.wait()
            server.closed = anyio.Event()
            assert len(server.requests) == number


def test_authorities_that_cannot_be_read_are_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    with pytest.raises(ConfigurationError, match=r"^SSL_CERT_FILE is '/nonexistent/ca.pem', which cannot be read"):
        transport_to("https://sandbox.example")
