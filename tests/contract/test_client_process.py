"""Processes: ending a whole tree on any runtime, and learning the outcome through lost connections."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from sandbox_tools.client.control import ControlPlane, RuntimeAccess
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.errors import ProcessLostError, SandboxResponseError
from sandbox_tools.redaction import Registry
from sandbox_tools.wire.control import NewSandbox
from sandbox_tools.wire.envelope import END_STREAM, encode_frame, encode_json_frame
from sandbox_tools.wire.process import Command, Ended, OutputData, Started, TerminalSize, event_to_json
from tests.contract.hostile import hostile_server, json_answer, stream_answer
from tests.contract.plain_runtime import plain_runtime
from tests.contract.proxy import CuttingProxy, cutting_proxy
from tests.local.service import LocalServer

STARTED = encode_json_frame(event_to_json(Started(7, "cmd-1")))
OUTPUT = encode_json_frame(event_to_json(OutputData("stdout", b"hello\n")))
END = encode_frame(b"{}", flags=END_STREAM)


Cut = Callable[[bytes], bool]


class Seen:
    """A sink that tells when a text has come."""

    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self._changed = anyio.Event()

    def __call__(self, stream: str, data: bytes) -> None:
        if stream == "stdout":
            self.out += data
        else:
            self.err += data
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def until(self, text: bytes) -> None:
        with anyio.fail_after(15):
            while text not in self.out:
                await self._changed.wait()


@asynccontextmanager
async def runtime_with(access: RuntimeAccess) -> AsyncIterator[RemoteRuntime]:
    async with anyio.create_task_group() as tasks:
        runtime = RemoteRuntime("s", access, tasks)
        try:
            yield runtime
        finally:
            await runtime.aclose()
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def runtime_at(url: str) -> AsyncIterator[RemoteRuntime]:
    token = Registry().register("SANDBOX_TOKEN", secrets.token_urlsafe(32))
    async with runtime_with(RuntimeAccess(envd_url=url, access_token=token)) as runtime:
        yield runtime


@asynccontextmanager
async def local_access(server: LocalServer) -> AsyncIterator[RuntimeAccess]:
    registry = Registry()
    control = ControlPlane(server.base_url, registry.register("KEY", server.api_key), registry)
    info, access = await control.create(NewSandbox())
    try:
        yield access
    finally:
        await control.delete(info.sandbox_id)
        await control.aclose()


@asynccontextmanager
async def runtime_of(kind: str, server: LocalServer) -> AsyncIterator[RemoteRuntime]:
    """A sandbox of the local service, or a runtime whose signals reach one process only."""
    if kind == "plain":
        async with plain_runtime() as url, runtime_at(url) as runtime:
            yield runtime
    else:
        async with local_access(server) as access, runtime_with(access) as runtime:
            yield runtime


@asynccontextmanager
async def behind_a_proxy(server: LocalServer) -> AsyncIterator[tuple[RemoteRuntime, CuttingProxy, RemoteRuntime]]:
    """A sandbox behind a proxy, the proxy, and the same sandbox without it."""
    async with local_access(server) as access, cutting_proxy(access.envd_url) as proxy:
        through = RuntimeAccess(envd_url=proxy.base_url, access_token=access.access_token)
        async with runtime_with(through) as runtime, runtime_with(access) as beside:
            yield runtime, proxy, beside


TREES = {
    "one that ignores TERM": "trap '' TERM; {sleep} & {sleep} & echo up; wait",
    "a daemon in a session of its own": "(setsid sh -c \"trap '' TERM; {sleep} & {sleep}; :\" &); echo up; {sleep}; :",
    "a stopped child": "{sleep} & kill -STOP $!; echo up; wait",
    "a child without environment": "env -i {sleep} & echo up; wait",
    "a child without environment in a session of its own": "setsid env -i {sleep} & echo up; wait",
    "one that starts another when its child ends": "trap '' TERM; echo up; while :; do {sleep}; done",
}


@pytest.mark.parametrize("kind", ["local", "plain"])
async def test_a_killed_command_leaves_nothing_whatever_its_children_did(local_server: LocalServer, kind: str) -> None:
    async def check(name: str, tree: str) -> None:
        length = f"9{secrets.randbelow(10**6)}.5"
        seen = Seen()
        process = await runtime.start_command(tree.format(sleep=f"sleep {length}"), on_output=seen)
        await seen.until(b"up")
        assert await process.kill() == "killed", name
        left = Seen()
        look = f"grep -ls '{length.replace('.', '[.]')}' /proc/[0-9]*/cmdline"
        await runtime.exec(look, timeout_s=20, on_output=left)
        assert left.out == b"", name

    async with runtime_of(kind, local_server) as runtime, anyio.create_task_group() as tasks:
        for name, tree in TREES.items():
            tasks.start_soon(check, name, tree)


async def test_a_hot_call_is_one_request_on_the_connection_that_is_there(local_server: LocalServer) -> None:
    """A connection costs two more round trips, so also a process stream must leave it fit for the next call."""
    async with behind_a_proxy(local_server) as (runtime, proxy, _):
        for _ in range(3):
            await runtime.exec("echo x", timeout_s=20, on_output=Seen())
            await runtime.write_file("a.txt", b"data")
            assert await runtime.files.read("a.txt") == b"data"
        assert (proxy.connections, len(proxy.requests)) == (1, 9)
        await runtime.run_code("1", language="python", timeout_s=20, on_output=Seen())
        before = proxy.connections, len(proxy.requests)
        for _ in range(3):
            await runtime.run_code("1", language="python", timeout_s=20, on_output=Seen())
        assert (proxy.connections, len(proxy.requests)) == (before[0], before[1] + 3)


async def test_a_command_whose_connection_is_cut_goes_on_and_its_outcome_is_learnt(local_server: LocalServer) -> None:
    async with behind_a_proxy(local_server) as (runtime, proxy, beside):
        seen = Seen()
        command = "echo one; until [ -e go ]; do sleep 0.01; done; echo two; exit 7"
        process = await runtime.start_command(command, on_output=seen)
        await seen.until(b"one\n")
        proxy.cut()
        await beside.write_file("go", b"")
        result = await process.wait(15)
        assert result is not None
        assert result.exit_code == 7
        # It may write while nobody is connected; the server keeps it, and what it keeps is handed on.
        assert (seen.out, result.missing_bytes) == (b"one\ntwo\n", 0)
        assert [line.rsplit("/", 1)[-1] for line in proxy.requests].count("Start") == 1


async def test_output_that_is_lost_in_the_middle_is_counted(local_server: LocalServer) -> None:
    async with behind_a_proxy(local_server) as (runtime, proxy, beside):
        seen = Seen()
        command = (
            "echo one; until [ -e away ]; do sleep 0.01; done; echo lost; echo done > said;"
            "until [ -e back ]; do sleep 0.01; done; echo three"
        )
        process = await runtime.start_command(command, on_output=seen)
        await seen.until(b"one\n")
        proxy.refuses = True
        proxy.cut()
        await beside.exec("touch away; until [ -e said ]; do sleep 0.01; done", timeout_s=15, on_output=Seen())
        proxy.refuses = False
        with anyio.fail_after(15):
            await proxy.passed.wait()
        await beside.write_file("back", b"")
        result = await process.wait(15)
        assert result is not None
        assert (result.exit_code, seen.out, result.missing_bytes) == (0, b"one\nthree\n", len(b"lost\n"))


@pytest.mark.parametrize(
    "cut_at",
    [
        pytest.param(
            lambda piece: b'"start"' in piece or piece.startswith(b"HTTP/1.1 200"), id="before the start event"
        ),
        pytest.param(lambda piece: b'"end"' in piece, id="at the end event"),
    ],
)
async def test_a_command_that_is_cut_off_at_its_edges_runs_once(local_server: LocalServer, cut_at: Cut) -> None:
    async with behind_a_proxy(local_server) as (runtime, proxy, _):
        cuts = 0

        def once(piece: bytes) -> bool:
            nonlocal cuts
            cuts += cut_at(piece)
            return cuts == 1 and cut_at(piece)

        proxy.cut_at = once
        seen = Seen()
        result = await runtime.exec("echo ran >> count; echo said; exit 3", timeout_s=15, on_output=seen)
        assert cuts >= 1
        assert (result.exit_code, seen.out, result.missing_bytes) == (3, b"said\n", 0)
        count = Seen()
        await runtime.exec("cat count", timeout_s=15, on_output=count)
        assert count.out == b"ran\n"


@pytest.mark.parametrize(
    ("frames", "pid"),
    [
        pytest.param([STARTED, OUTPUT[:-3]], 7, id="truncated frame"),
        pytest.param([STARTED, OUTPUT], 7, id="no end event"),
        pytest.param([END], None, id="nothing at all"),
    ],
)
async def test_a_process_that_cannot_be_found_again_may_still_run_and_the_error_says_so(
    frames: list[bytes], pid: int | None
) -> None:
    async with hostile_server(stream_answer(*frames)) as server, runtime_at(server.base_url) as runtime:
        with pytest.raises(ProcessLostError) as caught, anyio.fail_after(10):
            await runtime.exec("true", timeout_s=8, on_output=Seen())
        assert [request.target.rsplit("/", 1)[-1] for request in server.requests].count("Start") == 1
    assert (caught.value.pid, caught.value.maybe_done, caught.value.retryable) == (pid, True, False)
    assert caught.value.__context__ is None


async def test_a_process_that_ended_while_nobody_was_connected_is_asked_for_by_its_name(
    local_server: LocalServer,
) -> None:
    """A server may have forgotten the process and kept its result (wire contract 4.4)."""
    gone, result = (
        json_answer({"error": "process not found"}, 404),
        json_answer({"exitCode": 5, "stdout": "hello\nrest"}),
    )
    broken = stream_answer(STARTED, OUTPUT)
    async with hostile_server(broken, gone, result) as server, runtime_at(server.base_url) as runtime:
        seen = Seen()
        ended = await runtime.exec("true", timeout_s=8, on_output=seen)
    assert (ended.exit_code, seen.out, ended.missing_bytes) == (5, b"hello\nrest", 0)


async def test_a_terminal_and_every_way_to_write(local_server: LocalServer) -> None:
    async with local_access(local_server) as access, runtime_with(access) as runtime:
        terminal = await runtime.start(Command(cmd="/bin/sh", stdin=True, tag="shell", pty=TerminalSize(80, 24)))
        await terminal.resize(TerminalSize(101, 41))
        await terminal.send_input(b"stty size; exit 6\n")
        with anyio.fail_after(15):
            events = [event async for event in terminal.events()]
        assert b"41 101" in b"".join(event.data for event in events if isinstance(event, OutputData))
        assert {event.stream for event in events if isinstance(event, OutputData)} == {"pty"}
        assert events[-1] == Ended(6, True, "exit status 6")

        process = await runtime.start(Command(cmd="cat", args=("-",), cwd="/tmp", stdin=True, tag="cat"))
        (listed,) = [found for found in await runtime.processes.list() if found.tag == "cat"]
        assert (listed.pid, listed.cmd, listed.args, listed.cwd) == (process.pid, "cat", ("-",), "/tmp")
        assert "SANDBOX_TOOLS_CALL" not in repr(listed)
        later = await runtime.connect("cat")
        assert (later.pid, later.cmd_id) == (process.pid, process.cmd_id)
        await process.stream_input(pieces(b"one ", b"", b"two "))
        await runtime.processes.send_input("cat", b"three")
        await runtime.processes.close_stdin(process.pid)
        with anyio.fail_after(15):
            for stream in (process, later):
                events = [event async for event in stream.events()]
                assert b"".join(event.data for event in events if isinstance(event, OutputData)) == b"one two three"
                assert events[-1] == Ended(0, True, "exit status 0")
        assert process.cmd_id is not None
        assert (await runtime.processes.result(process.cmd_id)).stdout == "one two three"
        with pytest.raises(SandboxResponseError) as caught:
            await runtime.processes.send_signal("cat", "SIGNAL_SIGTERM")
        assert caught.value.reason == "process_not_found"


async def test_a_process_of_another_client_is_listed_followed_and_killed_with_its_tree(
    local_server: LocalServer,
) -> None:
    async with local_access(local_server) as access:
        async with runtime_with(access) as first:
            command = "setsid sleep 54321 & echo begun; until [ -e go ]; do sleep 0.01; done; echo gone on; wait"
            seen = Seen()
            pid = (await first.start_command(command, on_output=seen)).pid
            await seen.until(b"begun")
        async with runtime_with(access) as second:  # the first client is gone, its command is not
            assert [(found.pid, found.command) for found in await second.list_processes()] == [(pid, command)]
            seen = Seen()
            process = await second.attach(pid, on_output=seen)
            assert process is not None
            await second.write_file("go", b"")
            await seen.until(b"gone on")
            assert await process.kill() == "killed"
            left = Seen()
            await second.exec("grep -ls '5432[1]' /proc/[0-9]*/cmdline", timeout_s=15, on_output=left)
            assert left.out == b""
            assert await second.list_processes() == ()
            assert await second.attach(pid + 1000, on_output=seen) is None


async def test_a_command_that_takes_every_process_of_the_sandbox_is_killed(local_server: LocalServer) -> None:
    async with local_access(local_server) as access, runtime_with(access) as runtime:
        seen = Seen()
        bomb = (
            "import os, time\nwhile True:\n try: os.fork() or time.sleep(1000)\n"
            " except OSError: print('full', flush=True); time.sleep(1000)"
        )
        process = await runtime.start_command(f"trap '' TERM; python3 -c \"{bomb}\"", on_output=seen)
        await seen.until(b"full")
        outcome = await process.kill()
        if outcome == "kill_unconfirmed":  # honest, on a machine that another test's bomb holds up: then ask again
            outcome = await process.kill()
        assert outcome in ("killed", "already_finished")
        await runtime.exec("echo free", timeout_s=15, on_output=seen)
        assert seen.out.endswith(b"free\n")


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece
