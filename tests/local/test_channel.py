"""The parser of what comes from a sandbox, against an agent that lies: it ends that sandbox and nothing else."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_tools.local import channel as channel_module
from sandbox_tools.local.channel import AgentError, Channel, ChannelError, Message, parse_message

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["id", "pid", "exit", "error", "ready", "x"]), inner)
    ),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_message_or_a_channel_error(data: bytes) -> None:
    try:
        message = parse_message(data)
    except ChannelError:
        return
    assert message is None or message.request >= 1


@given(st.integers(1, 1 << 53), st.integers(2, 1 << 22), st.integers(-64, 255))
def test_a_well_formed_message_is_read(request: int, pid: int, code: int) -> None:
    assert parse_message(json.dumps({"id": request, "pid": pid}).encode()) == Message(request, pid=pid)
    assert parse_message(json.dumps({"id": request, "exit": code}).encode()) == Message(request, exit_code=code)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 60_000,
        b'{"id":' * 10_000,
        b"1" * 60_000,
        b'{"id": 1, "pid": 1}',
        b'{"id": 1, "pid": 99999999}',
        b'{"id": 1, "exit": 256}',
        b'{"id": 1, "exit": true}',
        b'{"id": 1.0}',
        b'{"id": 0}',
        b'{"id": 1, "path": "x"}',
        b'{"ready": true, "id": 1}',
        b"\xff",
        b"",
    ],
)
def test_a_malformed_message_is_refused(data: bytes) -> None:
    with pytest.raises(ChannelError):
        parse_message(data)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Channel, socket.socket, list[tuple[int, int]], list[str]]]:
    """Yield a channel that is served, the agent's end, the exits and the complaints."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    exits: list[tuple[int, int]] = []
    complaints: list[str] = []
    channel = Channel(ours, lambda request, code: exits.append((request, code)))

    async def serve() -> None:
        try:
            await channel.serve()
        except ChannelError as error:
            complaints.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        with theirs:
            yield channel, theirs, exits, complaints
        channel.close()


async def receive(agent: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Take one request as the agent does."""
    data = b""
    while True:
        await anyio.wait_readable(agent)
        piece, ancillary, _, _ = agent.recvmsg(1 << 17, socket.CMSG_SPACE(64))
        data += piece[1:]
        if piece[:1] == b".":
            fds = list(array.array("i", b"".join(item[2] for item in ancillary)))
            request: dict[str, Any] = json.loads(data)
            return request, fds


def send(agent: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    agent.sendmsg([json.dumps(message).encode()], rights)


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def test_a_request_gets_its_answer() -> None:
    async with connected() as (channel, agent, exits, _), anyio.create_task_group() as tasks:

        async def answer() -> None:
            request, _ = await receive(agent)
            send(agent, {"id": request["id"], "pid": 7})
            send(agent, {"id": request["id"], "exit": -9})

        tasks.start_soon(answer)
        message = await channel.request("exec", {"argv": ["x" * 200_000]})
        assert message.pid == 7
        while not exits:
            await anyio.wait_all_tasks_blocked()
        assert exits == [(message.request, -9)]


async def test_an_error_of_the_agent_is_raised() -> None:
    async with connected() as (channel, agent, _, _), anyio.create_task_group() as tasks:

        async def answer() -> None:
            request, _ = await receive(agent)
            send(agent, {"id": request["id"], "error": 2})

        tasks.start_soon(answer)
        with pytest.raises(AgentError, match="No such file or directory"):
            await channel.request("exec", {})


@pytest.mark.parametrize(
    "misbehave",
    [
        pytest.param(lambda agent, _: agent.send(b"garbage"), id="garbage"),
        pytest.param(lambda agent, _: agent.send(b'{"id": 1, "x": "' + b"x" * 80_000 + b'"}'), id="too big"),
        pytest.param(lambda agent, request: send(agent, {"id": request["id"] + 1}), id="an answer to nothing"),
        pytest.param(lambda agent, _: send(agent, {"id": 99, "exit": 0}), id="the exit of nothing"),
        pytest.param(lambda agent, request: send(agent, {"id": request["id"]}, [agent.fileno()]), id="a descriptor"),
        pytest.param(lambda agent, _: send(agent, {"ready": True}, [agent.fileno()] * 16), id="many descriptors"),
    ],
)
async def test_a_broken_rule_ends_the_channel_and_leaks_nothing(
    misbehave: Callable[[socket.socket, dict[str, Any]], None],
) -> None:
    async with connected() as (channel, agent, _, complaints), anyio.create_task_group() as tasks:
        before = open_descriptors()

        async def answer() -> None:
            request, _ = await receive(agent)
            misbehave(agent, request)

        tasks.start_soon(answer)
        with pytest.raises(ChannelError):
            await channel.request("exec", {})
        await anyio.wait_all_tasks_blocked()
        assert complaints
        assert open_descriptors() <= before


def make_udp() -> int:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()


def make_unix() -> int:
    first, second = socket.socketpair()
    second.close()
    return first.detach()


def make_pipe() -> int:
    read_end, write_end = os.pipe()
    os.close(write_end)
    return read_end


def make_listener() -> int:
    return socket.create_server(("127.0.0.1", 0)).detach()


@pytest.mark.parametrize(
    "make",
    [
        make_udp,
        make_unix,
        make_listener,
        lambda: os.open("/", os.O_RDONLY),
        lambda: os.open("/dev/zero", os.O_RDONLY),
        make_pipe,
    ],
    ids=["udp", "unix", "listener", "directory", "device", "pipe"],
)
async def test_only_a_tcp_connection_is_accepted_for_a_connect(make: Callable[[], int]) -> None:
    async with connected() as (channel, agent, _, complaints), anyio.create_task_group() as tasks:

        async def answer() -> None:
            request, _ = await receive(agent)
            fd = make()
            send(agent, {"id": request["id"]}, [fd])
            os.close(fd)

        tasks.start_soon(answer)
        with pytest.raises(ChannelError):
            await channel.connect({"port": 80, "v6": False})
        await anyio.wait_all_tasks_blocked()
        assert complaints == ["a descriptor is not what was asked for"]


def make_connection() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return socket.create_connection(server.getsockname()).detach()


def make_bound() -> int:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound.detach()


def make_ipv6() -> int:
    return socket.socket(socket.AF_INET6).detach()


def make_new_of_the_host() -> int:
    """An agent that has no network of its own must not make the host serve its own loopback."""
    return socket.socket().detach()


@pytest.mark.parametrize(
    "make",
    [make_udp, make_unix, make_pipe, make_connection, make_listener, make_bound, make_ipv6, make_new_of_the_host],
)
async def test_only_a_new_socket_of_another_network_is_accepted(make: Callable[[], int]) -> None:
    async with connected() as (channel, agent, _, complaints), anyio.create_task_group() as tasks:

        async def answer() -> None:
            request, _ = await receive(agent)
            assert request["op"] == "socket"
            fd = make()
            send(agent, {"id": request["id"]}, [fd])
            os.close(fd)

        tasks.start_soon(answer)
        with pytest.raises(ChannelError):
            await channel.new_socket()
        await anyio.wait_all_tasks_blocked()
        assert complaints == ["a descriptor is not what was asked for"]


async def test_a_connect_without_a_descriptor_is_an_error() -> None:
    async with connected() as (channel, agent, _, _), anyio.create_task_group() as tasks:

        async def answer() -> None:
            request, _ = await receive(agent)
            send(agent, {"id": request["id"]})

        tasks.start_soon(answer)
        with pytest.raises(ChannelError, match="without a descriptor"):
            await channel.connect({"port": 80, "v6": False})


async def test_a_silent_agent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "ANSWER_TIMEOUT_S", 0.05)
    async with connected() as (channel, _, _, _):
        with pytest.raises(ChannelError, match="does not answer"):
            await channel.request("exec", {})
        with pytest.raises(ChannelError):
            await channel.request("exec", {})


async def test_who_waits_is_told_of_the_end() -> None:
    async with connected() as (channel, agent, _, _):
        agent.close()
        with pytest.raises(ChannelError):
            await channel.request("exec", {})
        with pytest.raises(ChannelError):
            await channel.wait_until_ready()
