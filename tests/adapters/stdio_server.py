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
from sandbox_tools.runtime import ExecResult
from sandbox_tools.testing import FakeRuntime, fake_toolset
from sandbox_tools.toolset import Toolset

JOURNAL = Path(sys.argv[1])
SECRET = sys.argv[2] if len(sys.argv) > 2 else "not-a-secret-that-any-test-looks-for"


def note(what: str) -> None:
    with JOURNAL.open("a") as journal:
        journal.write(f"{what}\n")


class Sandbox(FakeRuntime):
    """Does what the command says."""

    async def exec(self, command: str, **kwargs: Any) -> ExecResult:
        note(command)
        self.hangs = command == "hang"
        self.fails_with = RuntimeError(SECRET) if command == "crash" else None
        if command == "pollute":
            print("noise from print")
            os.write(1, b"noise from file descriptor 1\n")
            subprocess.run(["echo", "noise from a child"], check=True)
        if command == "log":
            logging.getLogger("somewhere").error("a log line with %s", SECRET)
        try:
            return await super().exec(command, **kwargs)
        except anyio.get_cancelled_exc_class():
            note("cancelled")
            raise


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
