"""One code context: the runs of code in it, one at a time, and what became of them and of its variables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import anyio
import anyio.abc

from sandbox_tools.client.coderun import Run
from sandbox_tools.client.kernel import OPERATION, Kernel
from sandbox_tools.client.kernel_host import ProcessHost
from sandbox_tools.client.kernel_line import KernelLine, says_gone
from sandbox_tools.client.kernel_program import ContextLanguage, KernelPrograms, kernel_program
from sandbox_tools.errors import SandboxRequestError, SandboxResponseError
from sandbox_tools.runtime import CodeError, CodeResult, OutputSink

INTERRUPT_GRACE_S: Final = 2.0
"""Time that interrupted code has before its process is killed, in seconds."""

CANCEL_GRACE_S: Final = 1.0
"""The same when the caller does not wait any more."""

_TRIES: Final = 3


class CodeContext:
    """Runs code in one process, one run at a time. Made by `CodeContexts.get`."""

    def __init__(
        self,
        host: ProcessHost,
        tasks: anyio.abc.TaskGroup,
        programs: KernelPrograms,
        language: ContextLanguage,
        tag: str,
    ) -> None:
        self._host = host
        self._tasks = tasks
        self._programs = programs
        self._program = kernel_program(language)
        self._tag = tag
        self._lock = anyio.Lock()
        self._kernel: Kernel | None = None
        self._pid: int | None = None
        self._loss_untold = False
        self._left_running: str | None = None

    async def run(self, code: str, *, timeout_s: float, on_output: OutputSink) -> CodeResult:
        """Run code. What earlier background work printed since the last run goes to the sink first.

        Cancelling it interrupts the code, and kills the process when that does not help; this takes 3 s at most.

        Args:
            timeout_s: In seconds, from its turn; then it is interrupted, and 2 s later its process is killed.

        Raises:
            SandboxRequestError: The sandbox could not be reached, broke the protocol, or has not the program
                (a `SandboxResponseError` with the reason "command_not_found"). Code that still runs then is
                interrupted by the next run.
        """
        async with self._lock:
            began = time.monotonic()
            try:
                with anyio.move_on_after(timeout_s):
                    await self._run_to_end(code, on_output)
                await self._stop(INTERRUPT_GRACE_S)
            except SandboxRequestError:
                await self._let_go()
                raise
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._stop(CANCEL_GRACE_S)
                    await self._let_go()
                raise
            result = await self._result()
            return replace(result, elapsed_ms=int((time.monotonic() - began) * 1000))

    async def end(self) -> None:
        """End the process and what it started, whoever made it. A run that goes on ends with it.

        Raises:
            SandboxRequestError: It is not known whether it runs.
        """
        kernels = await self._running_kernels()
        self._loss_untold = False
        for kernel in kernels:
            kernel.dismissed = True
            if kernel.line.pid is not None:
                await kernel.kill()
            elif kernel.failure is not None and not says_gone(kernel.failure):
                raise kernel.failure

    def detach(self) -> None:
        """Close the stream. The process lives on."""
        if self._kernel is not None:
            self._kernel.detach()

    async def _running_kernels(self) -> Sequence[Kernel]:
        """Return ours, if it is the one, else whatever has the tag: at its start a context may have several, of which
        all but one are about to yield."""
        kernel = self._kernel
        if kernel is not None and kernel.line.heard and not kernel.over.is_set():
            return [kernel]
        pids = await self._new_line().pids()
        if kernel is not None:
            kernel.dismissed = kernel.over.is_set() or kernel.line.pid in pids
        kernels = []
        for pid in pids:
            kernels.append(Kernel(self._new_line()))
            self._tasks.start_soon(kernels[-1].serve, pid)
        for kernel in kernels:
            await kernel.started.wait()
        return kernels

    async def _run_to_end(self, code: str, on_output: OutputSink) -> None:
        for tries_left in reversed(range(_TRIES)):
            kernel = await self._started_kernel()
            if await kernel.carry_out(Run(code, on_output)) or not tries_left:
                return
            await self._drop()

    async def _started_kernel(self) -> Kernel:
        if self._kernel is not None and self._kernel.over.is_set():
            await self._drop()
        if self._kernel is None:
            self._kernel = Kernel(self._new_line())
            self._tasks.start_soon(self._kernel.serve)
        kernel = self._kernel
        await kernel.started.wait()
        if kernel.line.found and kernel.line.pid == self._pid:
            self._loss_untold = False
        if kernel.line.found and self._left_running is not None:
            with suppress(SandboxRequestError):  # the request that follows says it too
                await kernel.interrupt_run(self._left_running)
        self._left_running = None
        return kernel

    def _new_line(self) -> KernelLine:
        return KernelLine(self._host, self._programs, self._program, self._tag)

    async def _stop(self, grace_s: float) -> None:
        """See to it that no run is going on."""
        if self._kernel is not None and self._kernel.is_running():
            await self._kernel.interrupt(grace_s)

    async def _result(self) -> CodeResult:
        kernel, loss_before = self._kernel, self._loss_untold
        run = kernel.run if kernel is not None else None
        if kernel is None or run is None:  # the time was over before the code could be sent
            return CodeResult(timed_out=True, state_lost_before=loss_before)
        failure, outcome = _failure(kernel, run), _outcome(kernel, run)
        await self._let_go()
        if failure is not None:
            raise failure
        self._loss_untold = False
        return replace(outcome, state_lost_before=loss_before)

    async def _let_go(self) -> None:
        """Let go of the run, and of a kernel that did not get through it."""
        kernel = self._kernel
        if kernel is None or kernel.run is None:
            return
        if kernel.killed or kernel.over.is_set() or kernel.has_lost_its_run():
            await self._drop()
        else:
            kernel.run = None

    async def _drop(self) -> None:
        """Let go of the kernel; end it if it cannot be used again."""
        kernel, self._kernel = self._kernel, None
        if kernel is None:
            return
        self._loss_untold = self._loss_untold or (kernel.line.ready and not kernel.dismissed)
        self._pid = kernel.line.pid or self._pid
        if kernel.broken and not kernel.killed:
            await kernel.kill()
        if kernel.run is not None and kernel.has_lost_its_run():
            self._left_running = kernel.run.id
        kernel.detach()


def _failure(kernel: Kernel, run: Run) -> Exception | None:
    """Return what to raise instead of a result."""
    if run.sink_failure is not None or run.done is not None or kernel.killed:
        return run.sink_failure
    if kernel.line.lacks_program():
        return SandboxResponseError(OPERATION, kind="not_found", status=200, reason="command_not_found")
    return kernel.failure


def _outcome(kernel: Kernel, run: Run) -> CodeResult:
    if run.done is not None and not kernel.killed:
        timed_out = run.stopping and run.done.interrupted
        return CodeResult(results=run.results, error=run.error, timed_out=timed_out)
    if run.taken_back:
        return CodeResult(timed_out=True, ran=False)
    error = run.error if run.stopping else kernel.death()
    if kernel.killed and kernel.line.ended is None:
        error = CodeError(name="KillUnconfirmed", message="Nobody confirmed the end of the process.", traceback="")
    return CodeResult(results=run.results, error=error, timed_out=run.stopping, state_kept=False)
