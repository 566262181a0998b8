"""The stdio server as a process: what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import TextContent, jsonrpc_message_adapter

from tests.adapters.conftest import until
from tests.adapters.stdio_client import ERAS, META, SERVER, Era, StdioClient, stdio_client

EXIT_WITHIN_S = 2.0 + 1.0
"""Clients kill a server that takes 2 s; the rest is for a busy test machine."""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def noted(journal: Path) -> list[str]:
    return journal.read_text().split()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_real_client_lists_calls_and_leaves(journal: Path, mode: str) -> None:
    server = StdioServerParameters(command=sys.executable, args=[SERVER, str(journal)])
    async with Client(server, mode=mode) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        result = await client.call_tool("exec", {"command": "greet"})
    assert "exec" in names
    assert isinstance(result.content[0], TextContent)
    assert "exit_code: 0" in result.content[0].text
    assert noted(journal) == ["greet", "closed"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_call_that_a_real_client_gives_up_is_cancelled(journal: Path, mode: str) -> None:
    server = StdioServerParameters(command=sys.executable, args=[SERVER, str(journal)])
    async with Client(server, mode=mode) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "exec", {"command": "hang"})
            await until(lambda: "hang" in journal.read_text() if journal.exists() else False)
            tasks.cancel_scope.cancel()
        await until(lambda: "cancelled" in noted(journal))
        assert not (await client.call_tool("exec", {"command": "next"})).is_error


@pytest.mark.parametrize("era", ERAS)
async def test_stdout_carries_json_rpc_and_nothing_else(journal: Path, era: Era) -> None:
    async with stdio_client(journal, era=era) as client:
        await client.call("pollute")
        await client.call("crash")
        await client.request("tools/call", {"name": "no_such_tool"})
        await client.request("no/such/method", {})
        await close_stdin(client)
        await client.read_to_end()
    for line in client.stdout.splitlines():
        jsonrpc_message_adapter.validate_json(line)
    assert client.stderr.count(b"noise") == 3
    assert b"the tools run in a fake sandbox" in client.stderr


async def close_stdin(client: StdioClient) -> None:
    assert client.process.stdin is not None
    await client.process.stdin.aclose()


def send(number: signal.Signals) -> Callable[[StdioClient], Awaitable[None]]:
    async def send_signal(client: StdioClient) -> None:
        client.process.send_signal(number)

    return send_signal


@pytest.mark.parametrize(
    ("era", "end"),
    [
        pytest.param("2025-11-25", close_stdin, id="stdin-ends-legacy"),
        pytest.param("2026-07-28", close_stdin, id="stdin-ends-modern"),
        pytest.param("2026-07-28", send(signal.SIGTERM), id="SIGTERM"),
        pytest.param("2025-11-25", send(signal.SIGINT), id="SIGINT"),
        pytest.param("2026-07-28", send(signal.SIGHUP), id="SIGHUP"),
    ],
)
async def test_it_ends_in_time_and_cleans_up(
    journal: Path, era: Era, end: Callable[[StdioClient], Awaitable[None]]
) -> None:
    async with stdio_client(journal, era=era) as client:
        await client.begin("tools/call", {"name": "exec", "arguments": {"command": "hang"}})
        await until(lambda: noted(journal))
        await end(client)
        with anyio.fail_after(EXIT_WITHIN_S):
            assert await client.process.wait() == 0
    assert noted(journal) == ["hang", "cancelled", "closed"]


def test_it_ends_and_cleans_up_when_nobody_reads_stdout_any_more(journal: Path) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    arguments = [sys.executable, SERVER, str(journal)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        assert process.wait(timeout=20) == 1
    assert noted(journal) == ["closed"]


async def test_it_ends_in_time_even_when_cleaning_up_hangs(journal: Path) -> None:
    async with stdio_client(journal, era="2026-07-28", TEST_CLOSE="hangs") as client:
        await close_stdin(client)
        with anyio.fail_after(EXIT_WITHIN_S):
            assert await client.process.wait() == 1


async def test_it_ends_when_its_parent_dies_and_the_pipe_stays_open(journal: Path) -> None:
    """A client that crashed cannot close stdin when another process holds the pipe."""
    parent = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    command = [sys.executable, "-c", parent, sys.executable, SERVER, str(journal)]
    async with stdio_client(journal, era="2026-07-28", command=command) as client:
        client.process.kill()
        with anyio.fail_after(EXIT_WITHIN_S):
            await client.read_to_end()  # the server's end of the pipes closes when it ends
    assert noted(journal) == ["closed"]


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        pytest.param("fails", b"sandbox-tools: a setting is missing\n", id="our-error"),
        pytest.param("crashes", b"sandbox-tools: stopped by an unexpected RuntimeError\n", id="foreign-exception"),
    ],
)
async def test_a_toolset_that_does_not_open_is_told_on_stderr(journal: Path, failure: str, said: bytes) -> None:
    """The text of an exception that is not ours may hold a secret, so it is not told."""
    with anyio.fail_after(20):
        ended = await anyio.run_process(
            [sys.executable, SERVER, str(journal), "a-secret"],
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TEST_OPEN": failure},
        )
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, b"", said)


async def test_starting_imports_no_other_framework_and_no_server_of_ours() -> None:
    heavy = {"langchain_core", "openai", "matplotlib", "sandbox_tools.local.app", "sandbox_tools.local.service"}
    code = f"import sys, sandbox_tools.adapters.mcp.stdio\nprint(sorted({heavy} & set(sys.modules)))"
    ended = await anyio.run_process([sys.executable, "-c", code])
    assert ended.stdout == b"[]\n"
