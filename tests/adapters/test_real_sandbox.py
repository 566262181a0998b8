"""The adapters on a real local sandbox: what is left of a process when its call, or everything, ends."""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult, TextContent

from sandbox_tools.adapters.langchain import SandboxToolkit
from tests.adapters.conftest import until
from tests.adapters.stdio_client import StdioClient, stdio_client

COMMAND = (sys.executable, "-m", "sandbox_tools", "mcp")
EXIT_WITHIN_S = 2.0 + 1.0  # the promise, and what a busy test machine adds


@pytest.fixture
def marker() -> str:
    """An argument of a process that is found again from outside the sandbox."""
    return f"{uuid.uuid4().int % 10**9 + 10**6}.5"


def running(marker: str) -> bool:
    """Whether some process on this machine sleeps for `marker` seconds."""
    return any(marker.encode() in read(path) for path in Path("/proc").glob("[0-9]*/cmdline"))


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it ended meanwhile


def text(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_session_keeps_files_and_variables(mode: str) -> None:
    server = StdioServerParameters(command=COMMAND[0], args=list(COMMAND[1:]))
    async with Client(server, mode=mode) as client:
        await client.call_tool("write_file", {"path": "numbers", "content": "20\n22\n"})
        await client.call_tool("run_code", {"code": "total = sum(map(int, open('numbers')))"})
        assert text(await client.call_tool("run_code", {"code": "total"})) == "--- result ---\n42"
        failed = await client.call_tool("exec", {"command": "exit 3"})
    assert not failed.is_error
    assert text(failed).startswith("exit_code: 3")


async def test_cancelling_a_call_kills_its_process_and_leaves_the_sandbox(marker: str) -> None:
    server = StdioServerParameters(command=COMMAND[0], args=list(COMMAND[1:]))
    async with Client(server) as client:
        await client.call_tool("exec", {"command": "echo kept > kept"})
        stubborn = f"trap '' TERM; (trap '' TERM; sleep {marker}) & wait; sleep {marker}"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "exec", {"command": stubborn})
            await until(lambda: running(marker))
            tasks.cancel_scope.cancel()
        await until(lambda: not running(marker))
        assert "kept" in text(await client.call_tool("exec", {"command": "cat kept"}))


def close_stdin(client: StdioClient) -> Any:
    assert client.process.stdin is not None
    return client.process.stdin.aclose()


def send(number: signal.Signals) -> Callable[[StdioClient], Any]:
    async def send_signal(client: StdioClient) -> None:
        client.process.send_signal(number)

    return send_signal


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(close_stdin, id="stdin-ends"),
        pytest.param(send(signal.SIGTERM), id="SIGTERM"),
        pytest.param(send(signal.SIGKILL), id="SIGKILL"),
    ],
)
async def test_no_process_is_left_when_the_server_ends(
    tmp_path: Path, marker: str, end: Callable[[StdioClient], Any]
) -> None:
    async with stdio_client(tmp_path / "unused", era="2026-07-28", command=COMMAND) as client:
        sleep = {"command": f"nohup setsid sleep {marker} & sleep {marker}"}
        await client.begin("tools/call", {"name": "exec", "arguments": sleep})
        await until(lambda: running(marker))
        await end(client)
        with anyio.fail_after(EXIT_WITHIN_S):
            await client.process.wait()
    await until(lambda: not running(marker))


async def test_cancelling_a_langchain_call_kills_its_process(marker: str) -> None:
    async with SandboxToolkit() as toolkit:
        tools = {tool.name: tool for tool in await anyio.to_thread.run_sync(toolkit.get_tools)}
        call = asyncio.create_task(tools["exec"].ainvoke({"command": f"sleep {marker}"}))
        await until(lambda: running(marker))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not running(marker)
        assert "still here" in await tools["exec"].ainvoke({"command": "echo still here"})
