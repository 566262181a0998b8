"""The stdio server on a scripted sandbox: stdio_server.py JOURNAL [SECRET]. Notes in the journal what happens."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from sandbox_tools.adapters.mcp.stdio import serve_stdio
from sandbox_tools.errors import ConfigurationError
from sandbox_tools.runtime import KillOutcome
from sandbox_tools.testing import FakeProcess, FakeRuntime, fake_toolset
from sandbox_tools.toolset import Toolset

JOURNAL = Path(sys.argv[1])
SECRET = sys.argv[2] if len(sys.argv) > 2 else "not-a-secret-that-any-test-looks-for"


def note(what: str) -> None:
    with JOURNAL.open("a") as journal:
        journal.write(f"{what}\n")


class Process(FakeProcess):
    """Notes when it is ended."""

    async def kill(self) -> KillOutcome:
        note("cancelled")
        return await super().kill()


class Sandbox(FakeRuntime):
    """Does what the command says."""

    async def start_command(self, command: str, **kwargs: Any) -> FakeProcess:
        note(command)
        self.hangs = command == "hang"
        self.fails_with = RuntimeError(SECRET) if command == "crash" else None
        if command == "pollute":
            print("noise from print")
            os.write(1, b"noise from file descriptor 1\n")
            subprocess.run(["echo", "noise from a child"], check=True)
        if command == "log":
            logging.getLogger("somewhere").error("a log line with %s", SECRET)
        return Process(**vars(await super().start_command(command, **kwargs)))


@asynccontextmanager
async def open_toolset() -> AsyncIterator[Toolset]:
    if os.environ.get("TEST_OPEN") == "fails":
        raise ConfigurationError("a setting is missing")
    if os.environ.get("TEST_OPEN") == "crashes":
        raise RuntimeError(SECRET)
    toolset = fake_toolset(Sandbox(stdout=f"out {SECRET}\n".encode()), secrets={"CANARY": SECRET})
    try:
        yield toolset
    finally:
        with anyio.CancelScope(shield=True):
            if os.environ.get("TEST_CLOSE") == "hangs":
                await anyio.sleep_forever()
            await anyio.sleep(0.05)  # what deleting a sandbox takes
            note("closed")


if __name__ == "__main__":
    anyio.run(serve_stdio, open_toolset)
