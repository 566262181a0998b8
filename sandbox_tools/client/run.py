"""A command that runs beside its caller: wait for it, write to it, end it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import anyio
import anyio.abc

from sandbox_tools.client.ending import end_tree
from sandbox_tools.client.follow import Followed
from sandbox_tools.client.process_calls import OPERATION
from sandbox_tools.client.transport import Transport
from sandbox_tools.client.tree import MARK, marked
from sandbox_tools.errors import ProcessLostError, SandboxRequestError
from sandbox_tools.runtime import ExecResult, KillOutcome, OutputSink
from sandbox_tools.wire.process import Command

START_CONFIRM_S: Final = 2.0
"""Time in which a process that must be ended has to say its pid, in seconds."""

_LAST_OUTPUT_S: Final = 2.0
"""Time for what an ended process wrote to come in, in seconds."""

_SERVER_MARGIN_S: Final = 10.0
"""The server's own deadline is this much after ours: it only counts when this process is gone."""


class RunningProcess:
    """A command that was started. Implements `sandbox_tools.runtime.RunningProcess`.

    Args:
        tasks: Lives as long as the runtime. The reader runs in it, so that the cancellation of a caller cannot leave
            a process that nobody knows.
    """

    def __init__(
        self, transport: Transport, command: Command, on_output: OutputSink, tasks: anyio.abc.TaskGroup
    ) -> None:
        command = marked(command)
        self._transport = transport
        self._mark = command.envs[MARK]
        self._followed = Followed(transport, command, on_output)
        self._began = time.monotonic()
        self._result: ExecResult | None = None
        self._failure: Exception | None = None
        self._over = anyio.Event()
        self._reader = anyio.CancelScope()
        tasks.start_soon(self._read)

    @property
    def pid(self) -> int:
        """In the sandbox; 0 before it has started."""
        return self._followed.pid or 0

    async def started(self) -> None:
        """Wait until it runs; a caller who gives up waiting ends it.

        Raises:
            SandboxRequestError: It was refused, or nobody knows whether it was started.
        """
        try:
            await self._followed.started.wait()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.kill()
            raise
        if self._failure is not None and self._followed.pid is None:
            raise self._failure

    async def wait(self, timeout_s: float) -> ExecResult | None:
        """Wait for the end; None when it still runs after `timeout_s`. It is not ended for that.

        Raises:
            SandboxRequestError: It could not be started, or nobody knows how it ended.
        """
        with anyio.move_on_after(timeout_s):
            await self._over.wait()
        if not self._over.is_set():
            return None
        if self._result is None:
            raise self._failure or ProcessLostError(OPERATION, self._followed.pid)
        return self._result

    async def kill(self) -> KillOutcome:
        """End it with all that it started. Bounded; raises nothing but cancellation."""
        if self._result is not None:
            return "already_finished"
        if isinstance(self._failure, SandboxRequestError):
            return "kill_unconfirmed"  # it was refused, or cannot be reached
        with anyio.move_on_after(START_CONFIRM_S):
            await self._followed.started.wait()
        pid, ended = self._followed.pid, self._followed.ended
        outcome = await end_tree(self._transport, mark=self._mark, pid=pid, ended=ended)
        with anyio.move_on_after(_LAST_OUTPUT_S if ended.is_set() else 0):
            await self._over.wait()
        self._reader.cancel()
        return outcome

    async def _read(self) -> None:
        with self._reader:
            try:
                result = await self._followed.run()
                self._result = replace(result, elapsed_ms=int((time.monotonic() - self._began) * 1000))
            except Exception as exc:  # noqa: BLE001 - for whoever waits, not for the task group; a sink is foreign code
                self._failure = exc
            finally:
                self._followed.started.set()
                self._over.set()


async def run_process(
    transport: Transport, command: Command, tasks: anyio.abc.TaskGroup, *, timeout_s: float, on_output: OutputSink
) -> ExecResult:
    """Run a program to its end, or end it after `timeout_s`; see `Runtime.exec`."""
    began = time.monotonic()
    command = replace(command, timeout_ms=int((timeout_s + _SERVER_MARGIN_S) * 1000))
    process = RunningProcess(transport, command, on_output, tasks)
    try:
        result = await process.wait(timeout_s)
        if result is not None:
            return result
        outcome = await process.kill()
        if outcome == "already_finished" and (result := await process.wait(0)) is not None:
            return result
    except BaseException:
        with anyio.CancelScope(shield=True):
            await process.kill()
        raise
    elapsed_ms = int((time.monotonic() - began) * 1000)
    return ExecResult(exit_code=None, timed_out=True, kill_outcome=outcome, elapsed_ms=elapsed_ms)
