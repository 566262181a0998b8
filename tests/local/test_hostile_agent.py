"""Agents that do anything at all: only their own channel ends, and nothing is kept of what they sent."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import anyio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox_tools.local.channel import AgentError, ChannelError
from tests.local.test_channel import connected, make_listener, make_pipe, make_udp, make_unix, open_descriptors, send

FIELDS = st.fixed_dictionaries(
    {"id": st.integers(-1, 6)},
    optional={
        "pid": st.integers(-1, 1 << 23),
        "exit": st.integers(-70, 300),
        "error": st.integers(-1, 5000),
        "ready": st.booleans(),
        "x": st.none(),
    },
)
DESCRIPTORS = st.lists(st.sampled_from([make_udp, make_unix, make_pipe, make_listener]), max_size=12)
ACTIONS = st.one_of(
    st.tuples(st.just("message"), FIELDS, DESCRIPTORS),
    st.tuples(st.just("bytes"), st.binary(max_size=300), DESCRIPTORS),
    st.tuples(st.just("flood"), st.integers(1, 500), st.just([])),
    st.tuples(st.just("big"), st.integers(65_000, 70_000), st.just([])),
    st.tuples(st.just("end"), st.none(), st.just([])),
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTIONS, max_size=8), st.booleans())
def test_whatever_an_agent_does_callers_get_an_answer_or_a_known_error(
    actions: list[tuple[str, Any, list[Any]]], wants_connection: bool
) -> None:
    anyio.run(misbehave, actions, wants_connection)


async def misbehave(actions: list[tuple[str, Any, list[Any]]], wants_connection: bool) -> None:
    before = open_descriptors()
    async with connected() as (channel, agent, _, complaints), anyio.create_task_group() as tasks:

        async def call() -> None:
            try:
                if wants_connection:
                    (await channel.connect({"port": 80, "v6": False})).close()
                else:
                    await channel.request("exec", {"argv": ["x"]})
            except (AgentError, ChannelError):
                return

        tasks.start_soon(call)
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        for action in actions:
            act(agent, *action)
            await anyio.wait_all_tasks_blocked()
        agent.close()
        with anyio.fail_after(5):
            while not channel._closed:
                await anyio.sleep(0)
    assert len(complaints) <= 1
    assert len(open_descriptors()) <= len(before)


def act(agent: socket.socket, what: str, value: Any, makers: list[Any]) -> None:
    fds = [make() for make in makers]
    try:
        if what == "message":
            send(agent, value, fds)
        elif what == "bytes":
            socket.send_fds(agent, [value], fds) if fds else agent.send(value)
        elif what == "flood":
            for number in range(value):
                agent.send(json.dumps({"id": number + 10, "exit": 0}).encode())
        elif what == "big":
            agent.send(b"x" * value)
        else:
            agent.close()
    except OSError:  # the host has hung up, or takes no more: an agent can wait
        return
    finally:
        for fd in fds:
            os.close(fd)
