"""A service that says credentials back, in every place of every answer: none comes out of the package."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sandbox_tools.redaction import RedactingFormatter, Redactor, default_registry
from sandbox_tools.toolset import Toolset
from tests.leaks import oracle
from tests.leaks.echo_service import FAULTS, EchoService, echo_service
from tests.leaks.matrix_exits import EXITS

CALLS = {
    "exec": {"command": "true"},
    "run_code": {"code": "1", "language": "bash"},
    "process": {"action": "list"},
    "read_file": {"path": "/x"},
    "write_file": {"path": "/x", "content": "y"},
    "edit_file": {"path": "/x", "old_text": "a", "new_text": "b"},
    "list_files": {"path": "/x"},
    "get_preview_url": {"port": 8000},
}
WAYS = ("toolset", "MCP in memory", "LangChain", "OpenAI", "MCP HTTP, older era")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_tools.client.retry.FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr("sandbox_tools.client.follow.RECONNECT_PAUSES_S", (0.0,))
    monkeypatch.setattr("sandbox_tools.sandboxes.creation._FIND_PAUSES_S", (0.0,))
    monkeypatch.setattr("sandbox_tools.client.control.CREATE_TIMEOUT_S", 0.5)
    monkeypatch.setattr("sandbox_tools.tools.preview._PAUSES_S", (0.0,))


@asynccontextmanager
async def echoing(fault: str, faulty: str) -> AsyncIterator[EchoService]:
    async with echo_service() as service:
        service.fault, service.faulty = fault, faulty
        yield service
        assert service.stolen == []


def leaked(outputs: list[bytes], service: EchoService, *, depth: int = oracle.DEPTH) -> list[bytes]:
    return [out for out in outputs if any(oracle.shows(out, secret, depth=depth) for secret in service.credentials)]


CASES = [("", ""), *((fault, faulty) for faulty in ("runtime", "control") for fault in FAULTS)]
SHARE = 1 if os.environ.get("LEAKS") == "full" else 6


@pytest.mark.parametrize(("fault", "faulty"), CASES[::SHARE])
async def test_no_credential_comes_out(
    fault: str, faulty: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Results of every tool, records of our loggers, the whole log of a process that is ours, and what was printed."""
    caplog.set_level(logging.DEBUG)
    caplog.handler.setFormatter(RedactingFormatter(logging.Formatter(), Redactor(default_registry())))
    notices: list[str] = []
    way = WAYS[CASES.index((fault, faulty)) % len(WAYS)]
    async with (
        echoing(fault, faulty) as service,
        Toolset.open(base_url=service.base_url, api_key=service.api_key, on_notice=notices.append) as toolset,
        EXITS[way](toolset) as out,
    ):
        outputs = [output for name, arguments in CALLS.items() for output in await out.call(name, dict(arguments))]
        assert service.seen >= (len(CALLS) if faulty != "control" else 1)
    outputs += [notice.encode() for notice in notices]
    assert leaked(outputs, service) == []
    records = [repr(vars(record)) for record in caplog.records if record.name.startswith("sandbox_tools")]
    assert leaked([text.encode() for text in (*records, caplog.text, *capfd.readouterr())], service, depth=1) == []


COMMANDS = {
    "call": ("call", "exec", '{"command": "true"}'),
    "create": ("sandbox", "create"),
    "list": ("sandbox", "list", "--output", "json"),
    "info": ("sandbox", "info", "echo-1"),
    "exec": ("sandbox", "exec", "echo-1", "--", "true"),
    "logs": ("sandbox", "logs", "echo-1"),
}


@pytest.mark.parametrize("fault", ["", "status 500"])
async def test_no_command_prints_a_credential(fault: str) -> None:
    """Which of them succeed is not the point."""
    printed: list[bytes] = []

    async def run(service: EchoService, *arguments: str) -> None:
        env = {**os.environ, "SEACLOUD_BASE_URL": service.base_url, "SEACLOUD_API_KEY": service.api_key}
        done = await anyio.run_process([sys.executable, "-m", "sandbox_tools", *arguments], env=env, check=False)
        printed.extend((done.stdout, done.stderr))
        assert done.stdout + done.stderr

    async with echoing(fault, "runtime") as service, anyio.create_task_group() as tasks:
        for arguments in [*COMMANDS.values()][:: 1 if SHARE == 1 else 3]:
            tasks.start_soon(run, service, *arguments)
    assert b"REDACTED" in b"".join(printed) or fault
    assert leaked(printed, service) == []
