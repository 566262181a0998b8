"""When access to a runtime is renewed, and when a request is sent again (wire contract 10.3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.link import RuntimeTransport
from sandbox_tools.errors import SandboxNotFoundError, SandboxResponseError
from sandbox_tools.redaction import Registry
from tests.contract.gate import Answer, Asked, Gate, gate

OLD, NEW = "the-old-token-1", "the-new-token-2"


class Plane:
    """What the control plane would say; counts how often it is asked."""

    def __init__(self, access: RuntimeAccess | None) -> None:
        self.access = access
        self.asked = 0

    async def renew(self) -> RuntimeAccess | None:
        self.asked += 1
        if self.access is None:
            raise SandboxNotFoundError("connect to a sandbox")
        return self.access


@asynccontextmanager
async def linked(
    status: int, *, gone: bool = False, same: bool = False
) -> AsyncIterator[tuple[RuntimeTransport, Gate, Plane]]:
    """A runtime that answers `status` to the old token and 200 to the new one."""

    async def answer(asked: Asked) -> Answer:
        return (200, b"{}") if asked.headers["x-access-token"] == NEW else (status, b"{}")

    registry = Registry()
    async with gate(answer) as server:
        old = RuntimeAccess(envd_url=f"{server.base_url}/old", access_token=registry.register("T", OLD))
        new = RuntimeAccess(envd_url=f"{server.base_url}/new", access_token=registry.register("T", NEW))
        plane = Plane(None if gone else old if same else new)
        transport = RuntimeTransport(old, plane.renew)
        yield transport, server, plane
        await transport.aclose()


def paths(server: Gate) -> list[str]:
    return [asked.path for asked in server.asked]


@pytest.mark.parametrize("status", [401, 404])
async def test_what_was_refused_is_sent_again_to_the_new_url_with_the_new_token(status: int) -> None:
    async with linked(status) as (transport, server, plane):
        assert (await transport.request("POST", "/work", operation="work", body={"x": 1})).status == 200
        stream = await transport.stream("POST", "/work", operation="work", body={"x": 2})
        await stream.aclose()
        assert paths(server) == ["/old/work", "/new/work", "/new/work"]
        assert server.asked[1].body == b'{"x":1}'
        assert plane.asked == 1


async def test_work_that_may_have_been_done_is_not_sent_again_and_the_next_request_goes_to_the_new_url() -> None:
    async with linked(502) as (transport, server, _):
        with pytest.raises(SandboxResponseError) as caught:
            await transport.request("POST", "/work", operation="work", body={})
        assert caught.value.maybe_done
        assert caught.value.__context__ is None
        assert paths(server) == ["/old/work"]
        assert (await transport.request("POST", "/work", operation="work", body={})).status == 200


async def test_a_body_that_can_be_read_only_once_is_not_sent_again() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    async with linked(401) as (transport, server, _):
        with pytest.raises(SandboxResponseError):
            await transport.request(
                "POST", "/work", operation="work", content=pieces(), headers={"Content-Length": "1"}
            )
        assert paths(server) == ["/old/work"]


async def test_calls_that_fail_together_ask_once() -> None:
    async with linked(401) as (transport, _, plane), anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(lambda: transport.request("POST", "/work", operation="work", body={}))
    assert plane.asked == 1


async def test_a_plain_404_of_a_sandbox_that_is_there_is_taken_at_its_word() -> None:
    async with linked(404, same=True) as (transport, server, plane):
        for _ in range(3):
            with pytest.raises(SandboxResponseError):
                await transport.request("GET", "/missing", operation="read")
        assert plane.asked == 1
        assert len(server.asked) == 3


async def test_a_sandbox_that_is_gone_is_told_as_gone() -> None:
    async with linked(404, gone=True) as (transport, _, _):
        with pytest.raises(SandboxNotFoundError) as caught:
            await transport.request("GET", "/file", operation="read")
        assert caught.value.reason == "sandbox_not_found"


async def test_an_unreachable_url_is_replaced() -> None:
    async with linked(500) as (transport, server, plane):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as closed:
            port = closed.extra(anyio.abc.SocketAttribute.local_port)
        dead = RuntimeAccess(envd_url=f"http://127.0.0.1:{port}", access_token=transport.access.access_token)
        other = RuntimeTransport(dead, plane.renew)
        assert (await other.request("POST", "/work", operation="work", body={})).status == 200
        assert paths(server) == ["/new/work"]
        await other.aclose()
