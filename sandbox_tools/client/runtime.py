"""A sandbox over the wire: the `Runtime` that tools use (wire contract 3, 4, 5, 6)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import anyio
import anyio.abc

from sandbox_tools.client.contexts import PythonContext
from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.process import RemoteProcess
from sandbox_tools.client.transport import OpenStream, Transport
from sandbox_tools.errors import SandboxProtocolError, SandboxRequestError, SandboxResponseError
from sandbox_tools.runtime import CodeResult, ExecResult, KillOutcome, Language, OutputSink
from sandbox_tools.wire.envelope import WireError, parse_json_array
from sandbox_tools.wire.preview import parse_port, preview_url
from sandbox_tools.wire.process import Command, Ended, OutputData

WRITE_TIMEOUT_S: Final = 300.0

_SHELL: Final = 'if command -v bash >/dev/null 2>&1; then exec bash -c "$1"; else exec sh -c "$1"; fi'
"""bash where the template has it, because models write bash; one start either way."""

_ONE_SHOT: Final[Mapping[Language, str]] = {
    "bash": 'command -v bash >/dev/null 2>&1 || exit 127; exec bash -c "$1"',
    "javascript": 'command -v node >/dev/null 2>&1 || exit 127; exec node --input-type=module -e "$1"',
}

MAX_ONE_SHOT_CODE_BYTES: Final = 128 * 1024 - 1
"""Longest argument that Linux passes to a program (MAX_ARG_STRLEN, counting the final NUL), in bytes."""

_START_CONFIRM_S: Final = 2.0
"""Time in which a process that must be ended has to say its pid, in seconds."""

_SERVER_MARGIN_S: Final = 10.0
"""The server's own deadline is this much after ours: it only counts when this process is gone."""


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
        return await self._run(
            Command(cmd="/bin/sh", args=("-c", _SHELL, "sh", command), cwd=cwd, envs=envs or {}), timeout_s, on_output
        )

    async def run_code(self, code: str, *, language: Language, timeout_s: float, on_output: OutputSink) -> CodeResult:
        """Run code; see `Runtime.run_code`."""
        if language == "python":
            return await self._context.run(code, timeout_s=timeout_s, on_output=on_output)
        command = Command(cmd="/bin/sh", args=("-c", _ONE_SHOT[language], "sh", code))
        result = await self._run(command, timeout_s, on_output)
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

    async def _run(self, command: Command, timeout_s: float, on_output: OutputSink) -> ExecResult:
        began = time.monotonic()
        command = replace(command, timeout_ms=int((timeout_s + _SERVER_MARGIN_S) * 1000))
        result = await _Run(self._transport, command, on_output).result(timeout_s)
        return replace(result, elapsed_ms=int((time.monotonic() - began) * 1000))


class _Run:
    """One process from start to end. A task of its own reads the events, shielded from the caller's cancellation,
    so that the end of a process that we kill is seen and not guessed."""

    def __init__(self, transport: Transport, command: Command, on_output: OutputSink) -> None:
        self._transport = transport
        self._command = command
        self._on_output = on_output
        self._process: RemoteProcess | None = None
        self._ended: Ended | None = None
        self._failure: BaseException | None = None
        self._started = anyio.Event()
        self._finished = anyio.Event()

    async def result(self, timeout_s: float) -> ExecResult:
        async with anyio.create_task_group() as tasks:
            reader = anyio.CancelScope(shield=True)
            tasks.start_soon(self._read, reader)
            try:
                with anyio.move_on_after(timeout_s):
                    await self._finished.wait()
                kill_outcome = None if self._finished.is_set() else await self._end()
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._end()
                raise
            finally:
                reader.cancel()
        if self._failure is not None:
            raise self._failure
        if kill_outcome in ("killed", "kill_unconfirmed"):
            return ExecResult(exit_code=None, timed_out=True, kill_outcome=kill_outcome)
        return await self._normal_end()

    async def _normal_end(self) -> ExecResult:
        if self._ended is None or self._process is None:
            raise SandboxProtocolError("run a process", "the stream ended before the process did")
        signal = "" if self._ended.exited else self._ended.status
        return ExecResult(exit_code=await self._process.exit_code(self._ended), signal=signal)

    async def _read(self, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                self._process = await RemoteProcess.start(self._transport, self._command)
                self._started.set()
                async for event in self._process.events():
                    if isinstance(event, OutputData):
                        self._on_output("stderr" if event.stream == "stderr" else "stdout", event.data)
                    elif isinstance(event, Ended):
                        self._ended = event
            except SandboxRequestError as exc:
                self._failure = exc
            finally:
                self._started.set()
                self._finished.set()
                if self._process is not None:
                    with anyio.CancelScope(shield=True):
                        await self._process.aclose()

    async def _end(self) -> KillOutcome:
        """End the process group, whatever state the start is in. Bounded."""
        with anyio.move_on_after(_START_CONFIRM_S):
            await self._started.wait()
        if self._process is None:
            return "already_finished" if self._finished.is_set() else "kill_unconfirmed"
        return await self._process.end_group(self._finished)


class _RemoteFile:
    """An open file; implements `sandbox_tools.runtime.FileReader`."""

    def __init__(self, stream: OpenStream) -> None:
        self._stream = stream

    @property
    def size(self) -> int | None:
        return self._stream.content_length

    def chunks(self) -> AsyncIterator[bytes]:
        return self._stream.chunks()
