"""A command that runs beside its caller: wait for it, write to it, end it."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Final

import anyio
import anyio.abc

from sandbox_tools.client.ending import end_tree
from sandbox_tools.client.follow import Followed
from sandbox_tools.client.process import RemoteProcess
from sandbox_tools.client.process_calls import OPERATION, ProcessCalls
from sandbox_tools.client.transport import Transport
from sandbox_tools.client.tree import MARK, marked, new_mark
from sandbox_tools.errors import ProcessLostError, SandboxRequestError
from sandbox_tools.runtime import ExecResult, KillOutcome, OutputSink
from sandbox_tools.wire.process import Command
from sandbox_tools.wire.process_calls import ListedProcess

START_CONFIRM_S: Final = 2.0
"""Time in which a process that must be ended has to say its pid, in seconds."""

_LAST_OUTPUT_S: Final = 2.0
"""Time for what an ended process wrote to come in, in seconds."""

_SERVER_MARGIN_S: Final = 10.0
"""The server's own deadline is this much after ours."""


class RunningProcess:
    """A command that was started, by us or by anybody. Implements `sandbox_tools.runtime.RunningProcess`.

    Args:
        mark: The value of `tree.MARK` in its environment.
        tasks: Lives as long as the runtime. The reader runs in it, so that the cancellation of a caller cannot leave
            a process that nobody knows.
    """

    def __init__(self, transport: Transport, followed: Followed, mark: str, tasks: anyio.abc.TaskGroup) -> None:
        self._transport = transport
        self._followed = followed
        self._mark = mark
        self._began = time.monotonic()
        self._result: ExecResult | None = None
        self._failure: Exception | None = None
        self._ending = anyio.Lock()
        self._read_over = anyio.Event()
        self._over = anyio.Event()
        self._reader = anyio.CancelScope()
        tasks.start_soon(self._read)

    @classmethod
    def begin(
        cls,
        transport: Transport,
        command: Command,
        on_output: OutputSink,
        tasks: anyio.abc.TaskGroup,
        *,
        limit_s: float | None,
    ) -> RunningProcess:
        """Start a command; `started` says whether that worked.

        Args:
            limit_s: The server ends it somewhat later, which counts when this process is gone. See `end_after`.
        """
        if limit_s is not None:
            command = replace(command, timeout_ms=int((limit_s + _SERVER_MARGIN_S) * 1000))
        command = marked(command)
        followed = Followed(
            transport, lambda: RemoteProcess.start(transport, command), command.tag or command.envs[MARK], on_output
        )
        return cls(transport, followed, command.envs[MARK], tasks)

    @classmethod
    def attach(
        cls, transport: Transport, process: ListedProcess, on_output: OutputSink, tasks: anyio.abc.TaskGroup
    ) -> RunningProcess:
        """Follow a process that was started before; `started` says whether it is still there."""
        followed = Followed(
            transport,
            lambda: RemoteProcess.connect(transport, process.pid),
            process.tag or process.pid,
            on_output,
        )
        # The commands of this package have their mark as their tag. Any other has a pid, a session and a group.
        return cls(transport, followed, process.tag or new_mark(), tasks)

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

    async def send_input(self, data: bytes) -> None:
        """Write to its standard input.

        Raises:
            SandboxRequestError: It has none, it closed it, or it has ended.
        """
        await ProcessCalls(self._transport).send_input(self.pid, data)

    async def close_input(self) -> None:
        """End its standard input; raises as `send_input`."""
        await ProcessCalls(self._transport).close_stdin(self.pid)

    async def kill(self) -> KillOutcome:
        """End it with all that it started. Bounded; raises nothing but cancellation."""
        return await self._end(timed_out=False)

    async def end_after(self, limit_s: float) -> None:
        """Wait for its end; end it when it still runs after `limit_s`, which its result then says."""
        with anyio.move_on_after(limit_s):
            await self._over.wait()
        if not self._over.is_set():
            await self._end(timed_out=True)

    async def _end(self, *, timed_out: bool) -> KillOutcome:
        async with self._ending:
            with anyio.move_on_after(START_CONFIRM_S):
                await self._followed.started.wait()
            if self._result is not None or self._was_refused():
                return "already_finished"
            try:
                pid, ended = self._followed.pid, self._followed.ended
                outcome = await end_tree(self._transport, mark=self._mark, pid=pid, ended=ended)
                with anyio.move_on_after(_LAST_OUTPUT_S if ended.is_set() else 0):
                    await self._read_over.wait()
                if outcome != "already_finished" or self._result is None:
                    self._result = self._timed(ExecResult(exit_code=None, timed_out=timed_out, kill_outcome=outcome))
                return outcome
            finally:
                self._reader.cancel()
                self._over.set()

    async def _read(self) -> None:
        with self._reader:
            try:
                self._result = self._timed(await self._followed.run())
            except Exception as exc:  # noqa: BLE001 - for whoever waits, not for the task group; a sink is foreign code
                self._failure = exc
            finally:
                self._followed.started.set()
                self._read_over.set()
                if not self._ending.locked():  # else its end is told when all of it is gone
                    self._over.set()

    def _timed(self, result: ExecResult) -> ExecResult:
        return replace(result, elapsed_ms=int((time.monotonic() - self._began) * 1000))

    def _was_refused(self) -> bool:
        return isinstance(self._failure, SandboxRequestError) and not self._failure.maybe_done


async def run_process(
    transport: Transport, command: Command, tasks: anyio.abc.TaskGroup, *, timeout_s: float, on_output: OutputSink
) -> ExecResult:
    """Run a program to its end, or end it after `timeout_s`; see `Runtime.exec`."""
    process = RunningProcess.begin(transport, command, on_output, tasks, limit_s=timeout_s)
    try:
        await process.end_after(timeout_s)
        result = await process.wait(math.inf)
    except SandboxRequestError:
        raise
    except BaseException:
        with anyio.CancelScope(shield=True):
            await process.kill()
        raise
    if result is None:
        raise ProcessLostError(OPERATION, process.pid)
    return result
