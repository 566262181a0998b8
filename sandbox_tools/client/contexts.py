"""Code contexts: variables live on between calls, and a call costs one request (design decision 10).

A context belongs to its sandbox: it outlives lost connections, this process, and its tokens. Whoever comes next finds
it by the tag of its process.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, get_args

import anyio
import anyio.abc

from sandbox_tools.client.coderun import Run
from sandbox_tools.client.kernel import OPERATION, Kernel, ProcessHost
from sandbox_tools.client.kernel_program import ContextLanguage, KernelPrograms, kernel_program
from sandbox_tools.errors import SandboxRequestError, SandboxResponseError, ToolError
from sandbox_tools.runtime import CodeError, CodeResult, OutputSink

INTERRUPT_GRACE_S: Final = 2.0
"""Time that interrupted code has before its process is killed, in seconds."""

CANCEL_GRACE_S: Final = 1.0
"""The same when the caller does not wait any more."""

DEFAULT_NAME: Final = "default"

MAX_CONTEXTS: Final = 16
"""Of one sandbox. Each is a process with variables in memory, and a stream of events."""

_TAG: Final = "sandbox-tools-context:"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextInfo:
    """A context whose process runs.

    Attributes:
        pid: Of the process, in the sandbox.
    """

    name: str
    language: ContextLanguage
    pid: int


class CodeContexts:
    """The contexts of one sandbox, those of other clients too.

    Args:
        tasks: Lives as long as the contexts are used; the readers of their events run in it.
    """

    def __init__(self, host: ProcessHost, tasks: anyio.abc.TaskGroup) -> None:
        self._host = host
        self._tasks = tasks
        self._programs = KernelPrograms(host.write_file)
        self._contexts: dict[str, CodeContext] = {}

    async def get(self, name: str | None = None, language: ContextLanguage = "python") -> CodeContext:
        """Return a context; its first run starts it, if it is not there.

        Args:
            name: None is the one that everybody uses who does not name one.

        Raises:
            ToolError: The name is not one, or there are too many contexts.
            SandboxRequestError: See `list`, which is asked for a new name.
        """
        tag = _tag(name or DEFAULT_NAME, language)
        if tag not in self._contexts:
            if name is not None:
                await self._check_room(tag)
            self._contexts[tag] = CodeContext(self._host, self._tasks, self._programs, language, tag)
        return self._contexts[tag]

    async def list(self) -> tuple[ContextInfo, ...]:
        """Return the contexts that run in the sandbox, whoever made them; raises SandboxRequestError."""
        found = {process.tag: process.pid for process in await self._host.processes.list() if process.tag}
        return tuple(info for tag, pid in sorted(found.items()) if (info := _info(tag, pid)) is not None)

    async def restart(self, name: str | None = None, language: ContextLanguage = "python") -> None:
        """End a context and what it started; its next run begins without variables. Errors as for `get`."""
        await (await self.get(name, language)).end()

    async def remove(self, name: str | None = None, language: ContextLanguage = "python") -> None:
        """The same, and forget it."""
        await self.restart(name, language)
        self._contexts.pop(_tag(name or DEFAULT_NAME, language), None)

    def detach(self) -> None:
        """Close the streams. The contexts live on in their sandbox."""
        for context in self._contexts.values():
            context.detach()

    async def _check_room(self, tag: str) -> None:
        others = [info for info in await self.list() if _tag(info.name, info.language) != tag]
        if len(others) >= MAX_CONTEXTS:
            names = ", ".join(f"{info.name} ({info.language})" for info in others)
            raise ToolError(
                f"The sandbox has {len(others)} code contexts, which is the most. Use one of them: {names}."
            )


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
        kernel = self._kernel
        if kernel is None or kernel.over.is_set():
            kernel = self._new_kernel()
            self._tasks.start_soon(partial(kernel.serve, start=False))
            await kernel.started.wait()
        kernel.dismissed = True
        self._loss_untold = False
        if kernel.pid is not None:
            await kernel.kill()
        elif kernel.failure is not None:
            raise kernel.failure

    def detach(self) -> None:
        """Close the stream. The process lives on."""
        if self._kernel is not None:
            self._kernel.detach()

    async def _run_to_end(self, code: str, on_output: OutputSink) -> None:
        for _ in range(_TRIES):
            kernel = await self._started_kernel()
            if await kernel.carry_out(Run(code, on_output)):
                return
            await self._drop()

    async def _started_kernel(self) -> Kernel:
        if self._kernel is not None and self._kernel.over.is_set():
            await self._drop()
        if self._kernel is None:
            self._kernel = self._new_kernel()
            self._tasks.start_soon(self._kernel.serve)
        kernel = self._kernel
        await kernel.started.wait()
        if kernel.found and kernel.pid == self._pid:
            self._loss_untold = False
        if kernel.found and self._left_running is not None:
            with suppress(SandboxRequestError):  # the request that follows says it too
                await kernel.interrupt_run(self._left_running)
        self._left_running, self._pid = None, kernel.pid
        return kernel

    def _new_kernel(self) -> Kernel:
        return Kernel(self._host, self._programs, self._program, self._tag)

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
        self._loss_untold = self._loss_untold or (kernel.ready and not kernel.dismissed)
        if kernel.broken and not kernel.killed:
            await kernel.kill()
        if kernel.run is not None and kernel.has_lost_its_run():
            self._left_running = kernel.run.id
        kernel.detach()


def _failure(kernel: Kernel, run: Run) -> Exception | None:
    """Return what to raise instead of a result."""
    if run.sink_failure is not None or run.done is not None or kernel.killed:
        return run.sink_failure
    if kernel.has_no_program():
        return SandboxResponseError(OPERATION, kind="not_found", status=200, reason="command_not_found")
    return kernel.failure


def _outcome(kernel: Kernel, run: Run) -> CodeResult:
    if run.done is not None and not kernel.killed:
        timed_out = run.stopping and run.done.interrupted
        return CodeResult(results=run.results, error=run.error, timed_out=timed_out)
    if run.taken_back:
        return CodeResult(timed_out=True, ran=False)
    error = run.error if run.stopping else kernel.death()
    if kernel.killed and kernel.ended is None:
        error = CodeError(name="KillUnconfirmed", message="Nobody confirmed the end of the process.", traceback="")
    return CodeResult(results=run.results, error=error, timed_out=run.stopping, state_kept=False)


def _tag(name: str, language: ContextLanguage) -> str:
    if not _NAME.fullmatch(name):
        raise ToolError("A context's name has 1 to 64 letters, digits, '_' or '-'.")
    return f"{_TAG}{language}:{name}"


def is_context(tag: str | None) -> bool:
    """Tell whether a process with this tag is a context."""
    return tag is not None and tag.startswith(_TAG)


def _info(tag: str, pid: int) -> ContextInfo | None:
    language, _, name = tag.removeprefix(_TAG).partition(":")
    for known in get_args(ContextLanguage):
        if language == known and tag.startswith(_TAG) and _NAME.fullmatch(name):
            return ContextInfo(name=name, language=known, pid=pid)
    return None
