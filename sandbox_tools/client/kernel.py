"""Running code on the kernel process of a context: hand it over, wait for its end, interrupt it, kill it.

The process belongs to the sandbox and not to the stream of its events. A stream that breaks during a run is replaced,
and the run is asked for again by its id, which the kernel answers without running the code twice.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import anyio

from sandbox_tools.client.coderun import Run
from sandbox_tools.client.kernel_line import KILL_WAIT_S, RETRY_PAUSES_S, KernelLine, says_gone
from sandbox_tools.errors import SandboxProtocolError, SandboxRequestError, SandboxTimeoutError
from sandbox_tools.runtime import CodeError
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.kernel import KernelEvent, OfRun, interrupt_request

OPERATION: Final = "run code"

ANSWER_S: Final = 5.0
"""Time in which a run should begin, in seconds; else its connection is replaced, because it may be dead."""

TAKE_BACK_S: Final = 0.5
"""Time in which a run that waits for another one may still turn out to have begun, in seconds."""

GONE_PAUSE_S: Final = 0.05
"""Between two looks whether a process is gone, in seconds."""


class Kernel:
    """One kernel process.

    Attributes:
        line: How it is reached.
        started: Set when the process was found or started, or could not be.
        over: Set when its events came to an end: `line.ended` says how it ended, or `failure` what broke the stream.
        broken: It does not speak the protocol (any more).
        killed: We killed it.
        dismissed: The user wanted its end.
        run: The newest run; None when it was let go.
    """

    def __init__(self, line: KernelLine) -> None:
        self.line = line
        self.started = anyio.Event()
        self.over = anyio.Event()
        self.broken = False
        self.killed = False
        self.dismissed = False
        self.failure: SandboxRequestError | None = None
        self.run: Run | None = None
        self._scope = anyio.CancelScope()
        self._reading = anyio.CancelScope()

    async def serve(self, pid: int | None = None) -> None:
        """Find the process, or start it, and hear it to the end. Runs in a task of its own, so that the cancellation
        of a run cannot leave a process that nobody knows.

        Args:
            pid: Connect to this process, and to no other.
        """
        with self._scope:
            try:
                await (self.line.open() if pid is None else self.line.connect(pid))
                self.started.set()
                await self._hear_to_the_end()
            except SandboxRequestError as exc:
                self.failure = exc
            except WireError as exc:
                self.broken = True
                self.failure = SandboxProtocolError(OPERATION, str(exc))
            finally:
                self._finish()
                await self.line.close()

    async def carry_out(self, run: Run) -> bool:
        """Have code run, and wait for its end. False: it surely did not run, and this kernel will not do it.

        Raises:
            SandboxRequestError: It is not known whether the code reached it.
        """
        self.run = run
        pauses = iter(RETRY_PAUSES_S)
        while not (run.over.is_set() or self.over.is_set()):
            run.stirred = anyio.Event()
            failure = await self._ask(run)
            if failure is None:
                pauses = iter(RETRY_PAUSES_S)
                await self._wait_for_news(run)
            elif says_gone(failure):
                if not await self._is_stirred(run):
                    break
            elif (pause_s := next(pauses, None)) is None or not failure.retryable:
                raise failure
            else:
                await anyio.sleep(pause_s)
        run.end()
        return not self.line.lacks_file() and (run.asked or not self.line.ready)

    def is_running(self) -> bool:
        """Tell whether a run is going on."""
        return self.run is not None and not self.run.over.is_set()

    def has_lost_its_run(self) -> bool:
        """Tell whether a run may go on that we know nothing of any more."""
        ended = self.line.ended is not None or self.killed
        return (
            self.run is not None and self.run.asked and self.run.done is None and not ended and not self.run.taken_back
        )

    async def interrupt(self, grace_s: float) -> None:
        """Interrupt the run; kill the process when the run is not over after `grace_s`. One that still waits for
        another client's run is only taken back."""
        run = self.run
        if run is None or self.line.pid is None:
            return
        run.stopping = True
        waits = self.line.ready and not run.begun
        with anyio.move_on_after(TAKE_BACK_S if waits else grace_s), suppress(SandboxRequestError):
            await self.interrupt_run(run.id)
            await run.over.wait()
        if run.over.is_set():
            return
        if self.line.ready and not run.begun:
            run.taken_back = True
            run.end()
        else:
            await self.kill()

    async def interrupt_run(self, run_id: str) -> None:
        """Interrupt a run, if it goes on; raises SandboxRequestError."""
        await self.line.send(interrupt_request(run_id))

    async def kill(self) -> None:
        """Kill the process and its group, and wait until its end is seen. Bounded; raises no SandboxRequestError."""
        self.killed = True
        with anyio.move_on_after(KILL_WAIT_S), suppress(SandboxRequestError):
            if self.line.pid is not None:
                await self.line.kill()
                await self._wait_until_gone()
        self.detach()

    def death(self) -> CodeError:
        """Say how the process ended during a run."""
        return CodeError(
            name="ContextDied",
            message=f"The {self.line.title} process ended while the code ran ({self.line.how_it_ended()}). "
            "Its variables are gone.",
            traceback=self.line.last_words(),
        )

    def detach(self) -> None:
        """Stop hearing it. The process lives on."""
        self._scope.cancel()

    async def _hear_to_the_end(self) -> None:
        while True:
            failure = await self._hear()
            if failure is None:
                if not await self._follow():
                    return
            elif self.is_running():
                await self.line.reopen(failure)
            else:
                raise failure
            if self.run is not None:
                self.run.stir()

    async def _follow(self) -> bool:
        """Go on with another process, if this one yielded to it."""
        if self.dismissed or not self.line.did_yield():
            return False
        if self.run is not None:
            self.run.asked = False
        return await self.line.follow()

    async def _hear(self) -> SandboxRequestError | None:
        """Take what the process says; return what broke the stream, or None when the process ended."""
        with anyio.CancelScope() as self._reading:
            try:
                async for said in self.line.hear():
                    self._take(said)
            except SandboxRequestError as exc:
                return exc
            return None
        return SandboxTimeoutError(OPERATION, ANSWER_S)

    def _take(self, said: KernelEvent) -> None:
        if isinstance(said, OfRun) and self.run is not None:
            self.run.take(said)

    async def _ask(self, run: Run) -> SandboxRequestError | None:
        """Send the request for a run; return what went wrong."""
        if self.line.pid is None:
            return self.failure
        try:
            await self.line.send(run.request())
        except SandboxRequestError as exc:
            run.asked = run.asked or not says_gone(exc)
            return exc
        run.asked = True
        return None

    async def _wait_for_news(self, run: Run) -> None:
        """Wait until a run is over or must be asked for again."""
        with anyio.move_on_after(ANSWER_S) as patience:
            await run.heard.wait()
        if patience.cancelled_caught:
            self._reading.cancel()  # the connection may have died in silence; once, because the kernel may be busy
        await run.stirred.wait()

    async def _is_stirred(self, run: Run) -> bool:
        """Wait for the end of a process that is gone, because it says how, or for the one to which it yielded."""
        with anyio.move_on_after(KILL_WAIT_S):
            await run.stirred.wait()
            return True
        self.detach()
        return False

    async def _wait_until_gone(self) -> None:
        if not self.over.is_set():
            await self.over.wait()
            return
        while self.line.pid in await self.line.pids():  # noqa: ASYNC110 - nobody reads its events any more
            await anyio.sleep(GONE_PAUSE_S)

    def _finish(self) -> None:
        self.started.set()
        self.over.set()
        if self.run is not None:
            self.run.end()
