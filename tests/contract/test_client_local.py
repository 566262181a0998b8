"""The client of the wire against the real local service."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from sandbox_tools.client.control import ControlPlane
from sandbox_tools.client.process import RemoteProcess
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.errors import SandboxNotFoundError, SandboxResponseError, SandboxToolsError
from sandbox_tools.redaction import Redactor, Registry
from sandbox_tools.wire.control import NewSandbox
from sandbox_tools.wire.process import Command, Ended, OutputData, ProcessEvent
from tests.local.service import LocalServer


@asynccontextmanager
async def control_plane(server: LocalServer, registry: Registry) -> AsyncIterator[ControlPlane]:
    control = ControlPlane(server.base_url, registry.register("KEY", server.api_key), registry)
    try:
        yield control
    finally:
        await control.aclose()


@asynccontextmanager
async def sandbox(server: LocalServer, **wanted: object) -> AsyncIterator[RemoteRuntime]:
    async with control_plane(server, Registry()) as control, anyio.create_task_group() as tasks:
        info, access = await control.create(NewSandbox(**wanted))  # type: ignore[arg-type]
        runtime = RemoteRuntime(info.sandbox_id, access, tasks)
        try:
            yield runtime
        finally:
            await runtime.aclose()
            await control.delete(info.sandbox_id)
            tasks.cancel_scope.cancel()


async def output_of(runtime: RemoteRuntime, command: str) -> bytes:
    output = bytearray()
    result = await runtime.exec(command, timeout_s=20, on_output=lambda _, data: output.extend(data))
    assert result.exit_code == 0, output
    return bytes(output)


async def test_the_life_of_a_sandbox(local_server: LocalServer) -> None:
    registry = Registry()
    async with control_plane(local_server, registry) as control:
        info, access = await control.create(NewSandbox(ttl_s=600, metadata={"test": "life"}))
        assert info.state == "running"
        assert info.isolation is not None
        assert info.isolation.level == "namespaces"
        assert "processes" in info.isolation.hard_limits
        assert Redactor(registry).text(repr((info, access))) == repr((info, access))
        assert [found.sandbox_id for found in (await control.list(metadata={"test": "life"})).items] == [
            info.sandbox_id
        ]
        assert (await control.list(metadata={"test": "death"})).items == ()
        kept, again = await control.connect(info.sandbox_id)
        assert kept.end_at == info.end_at
        assert again.envd_url == access.envd_url
        await control.set_timeout(info.sandbox_id, 3600)
        assert (await control.get(info.sandbox_id)).end_at > info.end_at
        assert await control.delete(info.sandbox_id) is True
        assert await control.delete(info.sandbox_id) is False
        with pytest.raises(SandboxNotFoundError):
            await control.get(info.sandbox_id)
        with pytest.raises(SandboxNotFoundError):
            await control.connect(info.sandbox_id)


async def test_an_unknown_template_is_an_error(local_server: LocalServer) -> None:
    async with control_plane(local_server, Registry()) as control:
        with pytest.raises(SandboxToolsError):
            await control.create(NewSandbox(template="no-such-template"))


async def test_environments_reach_every_process_and_cwd_and_envs_one(local_server: LocalServer) -> None:
    async with sandbox(local_server, envs={"FROM_CREATE": "1"}) as runtime:
        assert await output_of(runtime, 'echo "$FROM_CREATE$PWD"') == b"1/root/workspace\n"
        seen = bytearray()
        await runtime.exec(
            'echo "$ONE$PWD"', cwd="/tmp", envs={"ONE": "x"}, timeout_s=5, on_output=lambda _, data: seen.extend(data)
        )
        assert bytes(seen) == b"x/tmp\n"


async def test_output_streams_apart_and_in_order_while_the_process_runs(local_server: LocalServer) -> None:
    async with sandbox(local_server) as runtime:
        pieces: list[tuple[str, bytes]] = []
        first = anyio.Event()

        def take(stream: str, data: bytes) -> None:
            pieces.append((stream, data))
            first.set()

        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                command = "echo one; until [ -e go ]; do sleep 0.01; done; echo two >&2; printf 'a\\0b\\377'"
                await runtime.exec(command, timeout_s=20, on_output=take)

            tasks.start_soon(run)
            await first.wait()
            assert pieces == [("stdout", b"one\n")]
            await runtime.write_file("go", b"")
        assert b"".join(data for stream, data in pieces if stream == "stdout") == b"one\na\0b\xff"
        assert b"".join(data for stream, data in pieces if stream == "stderr") == b"two\n"


async def events_of(process: RemoteProcess) -> list[ProcessEvent]:
    return [event async for event in process.events()]


async def test_standard_input_and_its_end(local_server: LocalServer) -> None:
    async with sandbox(local_server) as runtime:
        process = await runtime.start(Command(cmd="cat", stdin=True))
        await process.send_input(b"typed \xff")
        await process.close_stdin()
        with anyio.fail_after(5):
            events = await events_of(process)
        await process.aclose()
        assert b"".join(event.data for event in events if isinstance(event, OutputData)) == b"typed \xff"
        assert events[-1] == Ended(0, True, "exit status 0")


@pytest.mark.parametrize(
    ("signal", "status"), [("SIGNAL_SIGTERM", "signal: terminated"), ("SIGNAL_SIGKILL", "signal: killed")]
)
async def test_signals(local_server: LocalServer, signal: str, status: str) -> None:
    async with sandbox(local_server) as runtime:
        process = await runtime.start(Command(cmd="sleep", args=("1000",)))
        await process.send_signal(signal)  # type: ignore[arg-type]
        with anyio.fail_after(5):
            assert (await events_of(process))[-1] == Ended(-1, False, status)
        await process.aclose()
        with pytest.raises(SandboxResponseError) as caught:
            await process.send_signal("SIGNAL_SIGTERM")
        assert caught.value.reason == "process_not_found"


async def test_a_big_file_comes_back_as_it_was(local_server: LocalServer) -> None:
    data = os.urandom(5_000_000)
    async with sandbox(local_server) as runtime:
        await runtime.write_file("dir/big ü.bin", data)
        async with runtime.open_file("/root/workspace/dir/big ü.bin") as reader:
            assert reader.size == len(data)
            assert b"".join([chunk async for chunk in reader.chunks()]) == data


async def test_reading_may_stop_early_and_the_next_request_works(local_server: LocalServer) -> None:
    async with sandbox(local_server) as runtime:
        await output_of(runtime, "head -c 50000000 /dev/zero > zeros")
        async with runtime.open_file("zeros") as reader:
            assert (await anext(reader.chunks())).startswith(b"\0")
        assert await output_of(runtime, "echo on") == b"on\n"


async def test_ports_and_previews(local_server: LocalServer) -> None:
    async with sandbox(local_server) as runtime:
        assert await runtime.listening_ports() == frozenset()
        server = await runtime.start(Command(cmd="python3", args=("-u", "-m", "http.server", "8077")))
        with anyio.fail_after(10):
            while await runtime.listening_ports() != {8077}:
                await anyio.sleep(0.02)
        async with httpx.AsyncClient(trust_env=False) as browser:
            page = await browser.get(await runtime.preview_url(8077))
            assert page.status_code == 200
            assert (await browser.get(await runtime.preview_url(8078))).status_code == 502
        await server.aclose()


async def test_one_sandbox_cannot_be_used_with_the_token_of_another(local_server: LocalServer) -> None:
    registry = Registry()
    async with control_plane(local_server, registry) as control, anyio.create_task_group() as tasks:
        first, access_first = await control.create(NewSandbox())
        second, access_second = await control.create(NewSandbox())
        crossed = RemoteRuntime(
            "crossed",
            type(access_first)(envd_url=access_first.envd_url, access_token=access_second.access_token),
            tasks,
        )
        with pytest.raises(SandboxResponseError) as caught:
            await output_of(crossed, "true")
        assert caught.value.kind == "authentication"
        await crossed.aclose()
        for info in (first, second):
            await control.delete(info.sandbox_id)
