"""A client that sees the bytes: it keeps every line that the server writes to stdout, and all of stderr."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc

Era = Literal["2025-11-25", "2026-07-28"]
ERAS: tuple[Era, ...] = ("2025-11-25", "2026-07-28")

SERVER = str(Path(__file__).with_name("stdio_server.py"))
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


class StdioClient:
    """Speaks JSON-RPC with a server process."""

    def __init__(self, process: anyio.abc.Process, era: Era) -> None:
        self.process = process
        self.era = era
        self.stdout = b""
        self.stderr = b""
        self._ids = itertools.count(1)

    async def start(self) -> None:
        """Shake hands, where there is a handshake."""
        if self.era == "2025-11-25":
            client = {"name": "test", "version": "1"}
            await self.request("initialize", {"protocolVersion": self.era, "capabilities": {}, "clientInfo": client})
            await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        else:
            await self.request("server/discover", {})

    async def send(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send(json.dumps(message).encode() + b"\n")

    async def begin(self, method: str, params: Mapping[str, Any]) -> int:
        """Send a request and return its id."""
        number = next(self._ids)
        meta = {"_meta": META} if self.era == "2026-07-28" else {}
        await self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, **meta}})
        return number

    async def request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return the whole answer to it."""
        number = await self.begin(method, params)
        with anyio.fail_after(20):
            while True:
                for line in self.stdout.split(b"\n")[:-1]:
                    message: dict[str, Any] = json.loads(line)
                    if message.get("id") == number:
                        return message
                await self.receive()

    async def call(self, command: str) -> dict[str, Any]:
        return await self.request("tools/call", {"name": "exec", "arguments": {"command": command}})

    async def receive(self) -> None:
        assert self.process.stdout is not None
        self.stdout += await self.process.stdout.receive()

    async def read_to_end(self) -> None:
        """Read what is left of stdout and stderr; both end when the process does."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout += b"".join([chunk async for chunk in self.process.stdout])
        self.stderr += b"".join([chunk async for chunk in self.process.stderr])


@asynccontextmanager
async def stdio_client(
    journal: Path, *, era: Era, secret: str | None = None, command: Sequence[str] = (), **env: str
) -> AsyncIterator[StdioClient]:
    """Start the test server (or `command`) and shake hands. It is killed at the end if it still runs."""
    journal.touch()
    arguments = [sys.executable, SERVER, str(journal), *([secret] if secret else [])]
    process = await anyio.open_process(
        [*(command or arguments)], stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd()), **env}
    )
    try:
        client = StdioClient(process, era)
        await client.start()
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.wait()
            await process.aclose()
