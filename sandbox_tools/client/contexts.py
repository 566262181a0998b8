"""Python code contexts: variables live on between calls, and a call costs one request (design decision 10)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import anyio
import anyio.abc

from sandbox_tools.client.kernel import OPERATION, IdleOutput, Kernel, ProcessStarter, Run
from sandbox_tools.errors import SandboxResponseError
from sandbox_tools.runtime import CodeError, CodeResult, OutputSink

INTERRUPT_GRACE_S: Final = 2.0
"""Time that interrupted code has before its process is killed, in seconds."""

CANCEL_GRACE_S: Final = 1.0
"""The same when the caller does not wait any more."""


class PythonContext:
    """Runs Python code in one sandbox, one run at a time, and keeps its variables.

    Args:
        task_group: Lives as long as the context; the reader of the kernel's events runs in it.
        cwd: Working directory of the code; None is the sandbox's default.
    """

    def __init__(self, starter: ProcessStarter, task_group: anyio.abc.TaskGroup, *, cwd: str | None = None) -> None:
        self._starter = starter
        self._tasks = task_group
        self._cwd = cwd
        self._lock = anyio.Lock()
        self._kernel: Kernel | None = None
        self._idle = IdleOutput()
        self._loss_untold = False

    async def run(self, code: str, *, timeout_s: float, on_output: OutputSink) -> CodeResult:
        """Run code. What earlier background work printed since the last run goes to the sink first.

        Cancelling it interrupts the code, and kills the process when that does not help; this takes 3 s at most.

        Args:
            timeout_s: In seconds, from its turn; then it is interrupted, and 2 s later its process is killed.

        Raises:
            SandboxRequestError: The sandbox could not be reached, broke the protocol, or has no python3
                (a `SandboxResponseError` with the reason "command_not_found").
        """
        async with self._lock:
            began = time.monotonic()
            try:
                with anyio.move_on_after(timeout_s):
                    await self._run_to_end(code, on_output)
                await self._stop(INTERRUPT_GRACE_S)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._stop(CANCEL_GRACE_S)
                    await self._let_go()
                raise
            result = await self._result()
            return replace(result, elapsed_ms=int((time.monotonic() - began) * 1000))

    async def aclose(self) -> None:
        """End the process of this context and what it started. Bounded; raises no SandboxRequestError."""
        if self._kernel is not None and not self._kernel.over.is_set():
            await self._kernel.kill()

    async def _run_to_end(self, code: str, on_output: OutputSink) -> None:
        kernel = await self._started_kernel()
        if not await kernel.begin(code, on_output) and kernel.ready:
            await self._drop()  # it had ended since the last run, and its end was not seen yet
            kernel = await self._started_kernel()
            await kernel.begin(code, on_output)
        if kernel.run is not None:
            await kernel.run.over.wait()

    async def _started_kernel(self) -> Kernel:
        if self._kernel is not None and self._kernel.over.is_set():
            await self._drop()
        if self._kernel is None:
            self._kernel = Kernel(self._starter, self._idle)
            self._tasks.start_soon(self._kernel.serve, self._cwd)
        await self._kernel.started.wait()
        return self._kernel

    async def _stop(self, grace_s: float) -> None:
        """See to it that no run is going on."""
        if self._kernel is not None and self._kernel.is_running():
            await self._kernel.interrupt(grace_s)

    async def _result(self) -> CodeResult:
        kernel, loss_before = self._kernel, self._loss_untold
        run = kernel.run if kernel is not None else None
        failure = _failure(kernel, run) if kernel is not None and run is not None else None
        await self._let_go()
        if failure is not None:
            raise failure
        self._loss_untold = False
        if kernel is None or run is None:  # the time was over before the code could be sent
            return CodeResult(timed_out=True, state_lost_before=loss_before)
        return replace(_outcome(kernel, run), state_lost_before=loss_before)

    async def _let_go(self) -> None:
        """Let go of the run, and of a kernel that did not get through it."""
        if self._kernel is None or self._kernel.run is None:
            return
        if self._kernel.run.done is None or self._kernel.killed:
            await self._drop()
        else:
            self._kernel.run = None

    async def _drop(self) -> None:
        """Let go of the kernel; end it if it may still live."""
        kernel, self._kernel = self._kernel, None
        if kernel is None:
            return
        self._loss_untold = self._loss_untold or kernel.ready
        if kernel.ended is None and not kernel.killed:
            await kernel.kill()


def _failure(kernel: Kernel, run: Run) -> Exception | None:
    """Return what to raise instead of a result."""
    if run.sink_failure is not None or run.done is not None or kernel.killed:
        return run.sink_failure
    if kernel.has_no_python():
        return SandboxResponseError(OPERATION, kind="not_found", status=200, reason="command_not_found")
    return kernel.failure


def _outcome(kernel: Kernel, run: Run) -> CodeResult:
    if run.done is not None and not kernel.killed:
        timed_out = run.stopping and run.done.interrupted
        return CodeResult(results=run.results, error=run.error, timed_out=timed_out)
    error = run.error if run.stopping else kernel.death()
    if kernel.killed and kernel.ended is None:
        error = CodeError(name="KillUnconfirmed", message="Nobody confirmed the end of the process.", traceback="")
    return CodeResult(results=run.results, error=error, timed_out=run.stopping, state_kept=False)
