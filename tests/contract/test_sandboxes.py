"""Which sandbox a call uses, with a real service: created once, kept alive, found again, never silently replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from sandbox_tools.client.control import ControlPlane
from sandbox_tools.errors import SandboxNotFoundError, SandboxToolsError, ToolError
from sandbox_tools.redaction import Registry
from sandbox_tools.runtime import Runtime
from sandbox_tools.sandboxes import Sandboxes, SandboxOptions, SandboxSource, owner
from sandbox_tools.wire.control import NewSandbox
from sandbox_tools.wire.records import SandboxInfo
from tests.contract.gate import Gate, gate_to
from tests.local.service import LocalServer


@asynccontextmanager
async def admin(server: LocalServer) -> AsyncIterator[ControlPlane]:
    """Somebody else with the same key."""
    registry = Registry()
    control = ControlPlane(server.base_url, registry.register("KEY", server.api_key), registry)
    try:
        yield control
    finally:
        await control.aclose()


def source(base_url: str, server: LocalServer) -> SandboxSource:
    registry = Registry()
    return SandboxSource(
        where="here", registry=registry, base_url=base_url, api_key=registry.register("KEY", server.api_key)
    )


@asynccontextmanager
async def opened(
    server: LocalServer, *, ttl_s: int = 600, notices: list[str] | None = None
) -> AsyncIterator[tuple[Sandboxes, Gate, ControlPlane]]:
    """The sandboxes of one principal, the gate before its control plane, and an administrator."""
    said: list[str] = [] if notices is None else notices
    async with (
        admin(server) as control,
        gate_to(server.base_url) as gate,
        Sandboxes.open(source(gate.base_url, server), SandboxOptions(ttl_s=ttl_s), on_notice=said.append) as sandboxes,
    ):
        yield sandboxes, gate, control


async def run(runtime: Runtime, command: str) -> str:
    output = bytearray()
    result = await runtime.exec(command, timeout_s=30, on_output=lambda _, data: output.extend(data))
    assert result.exit_code == 0, output
    return output.decode()


async def call(sandboxes: Sandboxes, command: str, sandbox_id: str | None = None) -> tuple[str, str]:
    """Run a command as a tool does; return the sandbox and the output."""
    async with sandboxes.use(sandbox_id) as runtime:
        output = await run(runtime, command)
    return runtime.sandbox_id, output


async def until(control: ControlPlane, sandbox_id: str, done: Callable[[SandboxInfo | None], bool]) -> None:
    with anyio.fail_after(20):
        while True:
            try:
                info = await control.get(sandbox_id)
            except SandboxNotFoundError:
                info = None
            if done(info):
                return
            await anyio.sleep(0.05)


async def test_twenty_first_calls_at_once_create_one_sandbox_which_says_whose_it_is(local_server: LocalServer) -> None:
    async with opened(local_server) as (sandboxes, gate, control):
        used: set[str] = set()

        async def first_call() -> None:
            async with sandboxes.use(None) as runtime:
                used.add(runtime.sandbox_id)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(first_call)
        assert gate.count("POST /sandboxes") == 1
        (sandbox_id,) = used
        info = await control.get(sandbox_id)
        assert info.metadata.items() >= owner.MADE_BY.items()
        assert len(info.metadata[owner.KEY]) == 16
        assert info.metadata[owner.CREATED] <= info.started_at
        assert not owner.is_orphan(info)
        assert owner.is_orphan(replace(info, metadata={owner.OWNER: f"{owner.this_host()}.999999999"}))
    async with admin(local_server) as control:
        with pytest.raises(SandboxNotFoundError):
            await control.get(sandbox_id)


async def test_a_caller_that_gives_up_does_not_lose_the_sandbox_that_is_being_created(
    local_server: LocalServer,
) -> None:
    async with opened(local_server) as (sandboxes, gate, _):
        gate.held.add("POST /sandboxes")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, sandboxes, "true")
            with anyio.fail_after(10):
                await gate.arrived.wait()
            tasks.cancel_scope.cancel()
        gate.release.set()
        sandbox_id, _ = await call(sandboxes, "echo x > kept")
        assert await call(sandboxes, "cat kept") == (sandbox_id, "x\n")
        assert gate.count("POST /sandboxes") == 1


async def test_a_sandbox_whose_creation_was_not_answered_is_found_and_not_paid_for_twice(
    local_server: LocalServer,
) -> None:
    async with opened(local_server) as (sandboxes, gate, control):
        gate.lost.add("POST /sandboxes")
        sandbox_id, _ = await call(sandboxes, "true")
        assert gate.count("POST /sandboxes") == 1
        key = (await control.get(sandbox_id)).metadata[owner.KEY]
        assert [info.sandbox_id async for info in control.list_all(metadata={owner.KEY: key})] == [sandbox_id]


async def test_a_creation_that_fails_is_told_and_tried_again_by_the_next_call(local_server: LocalServer) -> None:
    registry = Registry()
    wrong = SandboxSource(
        where="here", registry=registry, base_url=local_server.base_url, api_key=registry.register("K", "wrong-key-1")
    )
    async with Sandboxes.open(wrong, on_notice=print) as sandboxes:
        for _ in range(2):
            with pytest.raises(SandboxToolsError, match="authentication"):
                await call(sandboxes, "true")


async def test_a_new_token_is_picked_up_once_for_all_calls_and_a_paused_sandbox_is_resumed(
    local_server: LocalServer,
) -> None:
    notices: list[str] = []
    async with opened(local_server, notices=notices) as (sandboxes, gate, control):
        sandbox_id, _ = await call(sandboxes, "echo 1 > kept")
        connects = f"POST /sandboxes/{sandbox_id}/connect"
        await control.pause(sandbox_id)
        assert await call(sandboxes, "cat kept") == (sandbox_id, "1\n")
        assert gate.count(connects) == 1
        assert notices[-1] == f"Sandbox {sandbox_id} was paused and is resumed."
        await control.pause(sandbox_id)
        await control.connect(sandbox_id)  # somebody else resumes it, which changes its token
        answers: list[tuple[str, str]] = []

        async def one_of_many() -> None:
            answers.append(await call(sandboxes, "cat kept"))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(one_of_many)
        assert answers == [(sandbox_id, "1\n")] * 8
        assert gate.count(connects) == 2
        assert gate.asked[-1].body == b'{"timeout":0}'


async def test_an_adopted_sandbox_keeps_its_time_to_live_and_outlives_us(local_server: LocalServer) -> None:
    async with admin(local_server) as control:
        info, _ = await control.create(NewSandbox(ttl_s=700))
        async with opened(local_server, ttl_s=60) as (sandboxes, gate, _):
            assert (await call(sandboxes, "echo mine", info.sandbox_id))[1] == "mine\n"
            own, _ = await call(sandboxes, "true")
            assert own != info.sandbox_id
            with pytest.raises(ToolError, match="no sandbox with this id"):
                await call(sandboxes, "true", "nobody")
            assert gate.count("POST /sandboxes") == 1
        left = await control.get(info.sandbox_id)
        assert (left.state, left.end_at) == ("running", info.end_at)
        await control.delete(info.sandbox_id)


async def test_a_sandbox_that_somebody_deleted_is_told_as_gone_and_only_then_replaced(
    local_server: LocalServer,
) -> None:
    async with opened(local_server) as (sandboxes, gate, control):
        first, _ = await call(sandboxes, "echo x > file")
        await control.delete(first)
        with pytest.raises(ToolError, match=f"The sandbox {first} has ended; its files and processes are gone"):
            await call(sandboxes, "cat file")
        second, output = await call(sandboxes, "ls")
        assert (second != first, output) == (True, "")
        assert gate.count("POST /sandboxes") == 2


async def test_a_call_outlives_the_time_to_live_and_an_idle_sandbox_does_not(local_server: LocalServer) -> None:
    """The same, at the same time, for one that is ours and one that is not."""
    async with opened(local_server, ttl_s=3) as (sandboxes, _, control):
        info, _ = await control.create(NewSandbox(ttl_s=2))
        ours: list[str] = []

        async def in_ours() -> None:
            ours.append((await call(sandboxes, "sleep 4; echo done"))[0])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_ours)
            assert (await call(sandboxes, "sleep 4; echo done", info.sandbox_id))[1] == "done\n"
        for sandbox_id in (info.sandbox_id, *ours):
            await until(control, sandbox_id, lambda found: found is None)
        with pytest.raises(ToolError, match="has ended"):
            await call(sandboxes, "true")
        assert (await call(sandboxes, "echo new"))[1] == "new\n"


async def test_a_sandbox_that_its_time_to_live_paused_is_resumed_by_a_call(local_server: LocalServer) -> None:
    async with opened(local_server) as (sandboxes, _, control):
        info, _ = await control.create(NewSandbox(ttl_s=600, auto_pause=True))
        await call(sandboxes, "echo x > kept", info.sandbox_id)
        await control.set_timeout(info.sandbox_id, 0)
        await until(control, info.sandbox_id, lambda found: found is not None and found.state == "paused")
        assert (await call(sandboxes, "cat kept", info.sandbox_id))[1] == "x\n"
        await control.delete(info.sandbox_id)


async def test_leaving_does_not_wait_for_a_service_that_does_not_answer(
    local_server: LocalServer, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(15):
        async with opened(local_server) as (sandboxes, gate, _):
            sandbox_id, _ = await call(sandboxes, "true")
            gate.held.add(f"DELETE /sandboxes/{sandbox_id}")
    assert "sandbox-tools sandbox prune" in caplog.text


async def test_a_service_of_ours_that_died_takes_its_sandboxes_with_it_and_is_started_again() -> None:
    before = children()
    source_here = SandboxSource(where="here", registry=Registry())
    async with Sandboxes.open(source_here, on_notice=print) as sandboxes:
        first, _ = await call(sandboxes, "true")
        (service,) = children() - before
        os.kill(service, signal.SIGKILL)
        with pytest.raises(ToolError, match=f"The sandbox {first} has ended"):
            async with sandboxes.use(None) as runtime:
                await runtime.listening_ports()
        assert (await call(sandboxes, "echo new"))[1] == "new\n"


def children() -> set[int]:
    """Return the processes that this one started and that have not ended."""
    running = set()
    for file in Path("/proc/self/task").glob("*/children"):
        for pid in file.read_text().split():
            with suppress(OSError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    running.add(int(pid))
    return running
