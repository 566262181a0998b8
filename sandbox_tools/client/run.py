"""One process from start to end: its output as it comes, its time limit, and what becomes of it when it must end."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import anyio

from sandbox_tools.client.process import RemoteProcess
from sandbox_tools.client.transport import Transport
from sandbox_tools.errors import SandboxProtocolError, SandboxRequestError
from sandbox_tools.runtime import ExecResult, KillOutcome, OutputSink
from sandbox_tools.wire.process import Command, Ended, OutputData

_START_CONFIRM_S: Final = 2.0
"""Time in which a process that must be ended has to say its pid, in seconds."""

_SERVER_MARGIN_S: Final = 10.0
"""The server's own deadline is this much after ours: it only counts when this process is gone."""


async def run_process(transport: Transport, command: Command, *, timeout_s: float, on_output: OutputSink) -> ExecResult:
    """Run a program to its end; see `Runtime.exec`."""
    began = time.monotonic()
    command = replace(command, timeout_ms=int((timeout_s + _SERVER_MARGIN_S) * 1000))
    result = await _Run(transport, command, on_output).result(timeout_s)
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
