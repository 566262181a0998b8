"""One kernel process in a sandbox, seen from here: find or start it, have it run code, interrupt it, kill it.

The process belongs to the sandbox and not to the stream of its events. A stream that breaks during a run is replaced,
and the run is asked for again by its id, which the kernel answers without running the code twice.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

import anyio

from sandbox_tools.client.coderun import Run
from sandbox_tools.client.kernel_program import DIRECTORY, KernelProgram, KernelPrograms
from sandbox_tools.errors import SandboxProtocolError, SandboxRequestError, SandboxResponseError, SandboxTimeoutError
from sandbox_tools.runtime import CodeError
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.kernel import LineDecoder, OfRun, event_from_line, interrupt_request
from sandbox_tools.wire.process import Command, Ended, OutputData, ProcessEvent, SignalName

OPERATION: Final = "run code"

KILL_WAIT_S: Final = 2.0
"""Time in which the end of a process must be seen, in seconds."""

RETRY_PAUSES_S: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Before each new try to reach a sandbox during a run, in seconds. Then the connection counts as lost."""

ANSWER_S: Final = 5.0
"""Time in which a run should begin, in seconds; else its connection is replaced, because it may be dead."""

TAKE_BACK_S: Final = 0.5
"""Time in which a run that waits for another one may still turn out to have begun, in seconds."""

GONE_PAUSE_S: Final = 0.05
"""Between two looks whether a process is gone, in seconds."""

MAX_STDERR_BYTES: Final = 4096
"""What is kept of the kernel's own last words, in bytes."""

_SIGNALLED: Final = re.compile(r"signal: [a-z ]{1,40}")


class ProcessStream(Protocol):
    """A process and its events from now on."""

    @property
    def pid(self) -> int: ...

    def events(self) -> AsyncIterator[ProcessEvent]:
        """Yield what happens, up to and including `Ended`; raises SandboxRequestError."""
        ...

    async def send_input(self, data: bytes) -> None:
        """Write to the standard input, in one request; raises SandboxRequestError."""
        ...

    async def send_signal(self, signal: SignalName) -> None:
        """Signal the process; raises SandboxRequestError."""
        ...

    async def aclose(self) -> None:
        """Close the stream. The process lives on."""
        ...


class TaggedProcess(Protocol):
    """A process that runs, as a sandbox lists it."""

    @property
    def pid(self) -> int: ...

    @property
    def tag(self) -> str | None: ...


class ProcessList(Protocol):
    async def list(self) -> Sequence[TaggedProcess]: ...


class ProcessHost(Protocol):
    """What a kernel needs of a sandbox. Every method raises SandboxRequestError."""

    @property
    def processes(self) -> ProcessList: ...

    async def start(self, command: Command) -> ProcessStream: ...

    async def connect(self, pid: int, /) -> ProcessStream: ...

    async def write_file(self, path: str, data: bytes) -> None: ...


class Kernel:
    """One kernel process.

    Attributes:
        started: Set when the process was found or started, or could not be.
        over: Set when its events came to an end: `ended` says how it ended, or `failure` what broke the stream.
        found: It ran before we came.
        ready: It has said that it runs, so it may hold variables.
        broken: It does not speak the protocol (any more).
        killed: We killed it.
        dismissed: The user wanted its end.
        run: The newest run; None when it was let go.
    """

    def __init__(self, host: ProcessHost, programs: KernelPrograms, program: KernelProgram, tag: str) -> None:
        self.started = anyio.Event()
        self.over = anyio.Event()
        self.found = False
        self.ready = False
        self.broken = False
        self.killed = False
        self.dismissed = False
        self.ended: Ended | None = None
        self.failure: SandboxRequestError | None = None
        self.run: Run | None = None
        self._host = host
        self._programs = programs
        self._program = program
        self._tag = tag
        self._scope = anyio.CancelScope()
        self._reading = anyio.CancelScope()
        self._stream: ProcessStream | None = None
        self._lines = LineDecoder()
        self._stderr = b""

    @property
    def pid(self) -> int | None:
        return None if self._stream is None else self._stream.pid

    async def serve(self, *, start: bool = True) -> None:
        """Find the process, or start it, and read its events to the end. Runs in a task of its own, so that the
        cancellation of a run cannot leave a process that nobody knows."""
        with self._scope:
            try:
                if not await self._find() and start:
                    await self._start()
                self.started.set()
                await self._read_to_the_end()
            except SandboxRequestError as exc:
                self.failure = exc
            except WireError as exc:
                self.broken = True
                self.failure = SandboxProtocolError(OPERATION, str(exc))
            finally:
                self._finish()
                await self._close()

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
            elif _says_gone(failure):
                await self._see_the_end()
                break
            elif (pause_s := next(pauses, None)) is None or not failure.retryable:
                raise failure
            else:
                await anyio.sleep(pause_s)
        run.end()
        return self._did_try(run)

    def is_running(self) -> bool:
        """Tell whether a run is going on."""
        return self.run is not None and not self.run.over.is_set()

    def has_lost_its_run(self) -> bool:
        """Tell whether a run may go on that we know nothing of any more."""
        ended = self.ended is not None or self.killed
        return (
            self.run is not None and self.run.asked and self.run.done is None and not ended and not self.run.taken_back
        )

    async def interrupt(self, grace_s: float) -> None:
        """Interrupt the run; kill the process when the run is not over after `grace_s`. One that still waits for
        another client's run is only taken back."""
        run = self.run
        if run is None or self._stream is None:
            return
        run.stopping = True
        waits = self.ready and not run.begun
        with anyio.move_on_after(TAKE_BACK_S if waits else grace_s), suppress(SandboxRequestError):
            await self.interrupt_run(run.id)
            await run.over.wait()
        if run.over.is_set():
            return
        if self.ready and not run.begun:
            run.taken_back = True
            run.end()
        else:
            await self.kill()

    async def interrupt_run(self, run_id: str) -> None:
        """Interrupt a run, if it goes on; raises SandboxRequestError."""
        if self._stream is not None:
            await self._stream.send_input(interrupt_request(run_id))

    async def kill(self) -> None:
        """Kill the process and its group, and wait until its end is seen. Bounded; raises no SandboxRequestError."""
        self.killed = True
        with anyio.move_on_after(KILL_WAIT_S), suppress(SandboxRequestError):
            if self._stream is not None:
                await self._stream.send_signal("SIGNAL_SIGKILL")
                await self._kill_group(self._stream.pid)
                await self._wait_until_gone(self._stream.pid)
        self.detach()

    async def _wait_until_gone(self, pid: int) -> None:
        if not self.over.is_set():
            await self.over.wait()
            return
        while await self._is_listed(pid):  # noqa: ASYNC110 - nobody reads its events any more
            await anyio.sleep(GONE_PAUSE_S)

    async def _is_listed(self, pid: int) -> bool:
        return any(process.pid == pid for process in await self._host.processes.list())

    def detach(self) -> None:
        """Stop reading. The process lives on."""
        self._scope.cancel()

    def has_no_program(self) -> bool:
        """Tell whether the sandbox has not what the code needs: exit code of a shell, of `env` and of the kernel."""
        return not self.ready and self.ended is not None and self.ended.exit_code == 127

    def death(self) -> CodeError:
        """Say how the process ended during a run."""
        return CodeError(
            name="ContextDied",
            message=f"The {self._program.title} process ended while the code ran ({_how(self.ended)}). "
            "Its variables are gone.",
            traceback=self._last_words(),
        )

    def _last_words(self) -> str:
        """Return what a crash left on the standard error, without the kernel's own frames."""
        lines = self._stderr.decode("utf-8", "replace").splitlines(keepends=True)
        return "".join(line for line in lines if DIRECTORY not in line)

    async def _find(self) -> bool:
        pids = [process.pid for process in await self._host.processes.list() if process.tag == self._tag]
        if pids:  # more than one: two clients started it at the same time; who comes later takes the first
            with suppress(SandboxResponseError):  # it has just ended
                self._stream = await self._host.connect(min(pids))
                self._lines = LineDecoder(from_the_middle=True)
                self.found = self.ready = True
        return self.found

    async def _start(self) -> None:
        await self._programs.install(self._program)
        self._stream = await self._host.start(replace(self._program.command, tag=self._tag, stdin=True))

    async def _read_to_the_end(self) -> None:
        while True:
            failure = await self._read()
            if failure is None:
                return
            if not self.is_running():
                raise failure
            await self._reconnect(failure)
            if self.run is not None:
                self.run.stir()

    async def _reconnect(self, failure: SandboxRequestError) -> None:
        for pause_s in RETRY_PAUSES_S:
            await anyio.sleep(pause_s)
            try:
                stream = await self._host.connect(self.pid or 0)
            except SandboxRequestError as exc:
                failure = exc
                if _says_gone(exc):
                    self.ended = Ended(None)
                    return
                if not exc.retryable:
                    break
                continue
            await self._close()
            self._stream, self._lines = stream, LineDecoder(from_the_middle=True)
            return
        raise failure

    async def _read(self) -> SandboxRequestError | None:
        """Read events; return what broke the stream, or None when the process ended."""
        if self._stream is None or self.ended is not None:
            return None
        with anyio.CancelScope() as self._reading:
            try:
                async for event in self._stream.events():
                    self._note(event)
            except SandboxRequestError as exc:
                return exc
            return None
        return SandboxTimeoutError(OPERATION, ANSWER_S)

    def _note(self, event: ProcessEvent) -> None:
        if isinstance(event, Ended):
            self.ended = event
        elif isinstance(event, OutputData) and event.stream == "stderr":
            self._stderr = (self._stderr + event.data)[-MAX_STDERR_BYTES:]
        elif isinstance(event, OutputData):
            for line in self._lines.feed(event.data):
                said = event_from_line(line)
                self.ready = self.ready or said is not None
                if isinstance(said, OfRun) and self.run is not None:
                    self.run.take(said)

    async def _ask(self, run: Run) -> SandboxRequestError | None:
        """Send the request for a run; return what went wrong."""
        if self._stream is None:
            return self.failure
        try:
            await self._stream.send_input(run.request())
        except SandboxRequestError as exc:
            run.asked = run.asked or not _says_gone(exc)
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

    async def _see_the_end(self) -> None:
        """Wait for the end of a process that is gone, because it says how."""
        with anyio.move_on_after(KILL_WAIT_S):
            await self.over.wait()
        self.detach()

    def _did_try(self, run: Run) -> bool:
        """Tell whether the code may have run, or another kernel would do no better."""
        if not self.ready and self.ended is not None and self.ended.exit_code == 2:
            self._programs.forget(self._program)  # its file was not there: somebody emptied the directory
            return False
        return run.asked or not self.ready

    def _finish(self) -> None:
        self.started.set()
        self.over.set()
        if self.run is not None:
            self.run.end()

    async def _close(self) -> None:
        if self._stream is not None:
            with anyio.move_on_after(KILL_WAIT_S, shield=True), suppress(SandboxRequestError):
                await self._stream.aclose()

    async def _kill_group(self, pid: int) -> None:
        """Kill what the kernel started: some runtimes signal only the process itself (wire contract 4.3). The kernel
        made itself the leader of a group."""
        killer = await self._host.start(Command(cmd="/bin/sh", args=("-c", f"kill -9 -{pid:d}")))
        await killer.aclose()


def _says_gone(failure: SandboxRequestError) -> bool:
    if not isinstance(failure, SandboxResponseError) or failure.reason == "sandbox_not_found":
        return False
    return failure.status == 404 or failure.reason == "process_not_found"


def _how(ended: Ended | None) -> str:
    if ended is None or (ended.exit_code is None and not ended.status):
        return "it is not known how"
    if _SIGNALLED.fullmatch(ended.status):
        hint = "; often the memory limit" if ended.status == "signal: killed" else ""
        return ended.status + hint
    return "exit status unknown" if ended.exit_code is None else f"exit status {ended.exit_code}"
