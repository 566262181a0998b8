"""A sandbox over the wire: the `Runtime` that tools use (wire contract 3, 4, 5, 6)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.abc

from sandbox_tools.client.contexts import PythonContext
from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.process import RemoteProcess
from sandbox_tools.client.run import run_process
from sandbox_tools.client.transport import OpenStream, Transport
from sandbox_tools.errors import SandboxProtocolError, SandboxResponseError
from sandbox_tools.runtime import CodeResult, ExecResult, Language, OutputSink
from sandbox_tools.wire.envelope import WireError, parse_json_array
from sandbox_tools.wire.preview import parse_port, preview_url
from sandbox_tools.wire.process import Command

WRITE_TIMEOUT_S: Final = 300.0

_SHELL: Final = 'if command -v bash >/dev/null 2>&1; then exec bash -c "$1"; else exec sh -c "$1"; fi'
"""bash where the template has it, because models write bash; one start either way."""

_ONE_SHOT: Final[Mapping[Language, str]] = {
    "bash": 'command -v bash >/dev/null 2>&1 || exit 127; exec bash -c "$1"',
    "javascript": 'command -v node >/dev/null 2>&1 || exit 127; exec node --input-type=module -e "$1"',
}

MAX_ONE_SHOT_CODE_BYTES: Final = 128 * 1024 - 1
"""Longest argument that Linux passes to a program (MAX_ARG_STRLEN, counting the final NUL), in bytes."""


class RemoteRuntime:
    """One running sandbox, reached over the wire. Implements `sandbox_tools.runtime.Runtime`.

    Args:
        task_group: Lives as long as the runtime is used; the code context's reader runs in it.
    """

    def __init__(self, sandbox_id: str, access: RuntimeAccess, task_group: anyio.abc.TaskGroup) -> None:
        self._sandbox_id = sandbox_id
        self._envd_url = access.envd_url
        self._transport = Transport(access.envd_url, {"X-Access-Token": access.access_token})
        self._context = PythonContext(self, task_group)

    @property
    def sandbox_id(self) -> str:
        return self._sandbox_id

    async def exec(
        self,
        command: str,
        *,
        cwd: str | None = None,
        envs: Mapping[str, str] | None = None,
        timeout_s: float,
        on_output: OutputSink,
    ) -> ExecResult:
        """Run a shell command; see `Runtime.exec`."""
        shell = Command(cmd="/bin/sh", args=("-c", _SHELL, "sh", command), cwd=cwd, envs=envs or {})
        return await run_process(self._transport, shell, timeout_s=timeout_s, on_output=on_output)

    async def run_code(self, code: str, *, language: Language, timeout_s: float, on_output: OutputSink) -> CodeResult:
        """Run code; see `Runtime.run_code`."""
        if language == "python":
            return await self._context.run(code, timeout_s=timeout_s, on_output=on_output)
        command = Command(cmd="/bin/sh", args=("-c", _ONE_SHOT[language], "sh", code))
        result = await run_process(self._transport, command, timeout_s=timeout_s, on_output=on_output)
        return CodeResult(
            timed_out=result.timed_out,
            state_kept=False,
            exit_code=result.exit_code,
            elapsed_ms=result.elapsed_ms,
        )

    @asynccontextmanager
    async def open_file(self, path: str) -> AsyncIterator[_RemoteFile]:
        """Open a file for reading; see `Runtime.open_file`."""
        stream = await self._open(path)
        try:
            yield _RemoteFile(stream)
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    async def write_file(self, path: str, data: bytes) -> None:
        """Write a whole file; see `Runtime.write_file`."""
        await self._transport.request(
            "POST",
            "/file",
            operation="write a file",
            params={"path": path},
            content=data,
            headers={"Content-Type": "application/octet-stream"},
            timeout_s=WRITE_TIMEOUT_S,
        )

    async def listening_ports(self) -> frozenset[int] | None:
        """Return the listening TCP ports, or None when the runtime has no `/ports` (it is not in every one, 3.4)."""
        operation = "list the ports"
        try:
            response = await self._transport.request("GET", "/ports", operation=operation)
        except SandboxResponseError as exc:
            if exc.status not in (404, 501):
                raise
            return None
        problem = ""
        try:
            entries = parse_json_array(response.body, what="the list of ports")
            return frozenset(parse_port(entry.get("port")) for entry in entries if isinstance(entry, dict))
        except WireError as exc:
            problem = str(exc)
        raise SandboxProtocolError(operation, problem)

    def preview_url(self, port: int) -> str:
        """Return the URL of a port; see `Runtime.preview_url`."""
        return preview_url(self._envd_url, port)

    async def start(self, command: Command) -> RemoteProcess:
        """Start a process and return its event stream; for contexts."""
        return await RemoteProcess.start(self._transport, command)

    async def aclose(self) -> None:
        """Close the connections. Does not end the sandbox."""
        await self._context.aclose()
        await self._transport.aclose()

    async def _open(self, path: str) -> OpenStream:
        operation = "read a file"
        failure: SandboxResponseError
        try:
            return await self._transport.stream("GET", "/file", operation=operation, params={"path": path})
        except SandboxResponseError as exc:
            failure = exc
        if failure.status == 404 and failure.reason is None:
            # A runtime may say only "not found" (wire contract 3.2).
            raise SandboxResponseError(operation, kind="not_found", status=404, reason="path_not_found")
        raise failure


class _RemoteFile:
    """An open file; implements `sandbox_tools.runtime.FileReader`."""

    def __init__(self, stream: OpenStream) -> None:
        self._stream = stream

    @property
    def size(self) -> int | None:
        return self._stream.content_length

    def chunks(self) -> AsyncIterator[bytes]:
        return self._stream.chunks()
