"""One Python kernel in a sandbox, seen from here: start it, send it code, interrupt it, kill it."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Final, Protocol

import anyio

from sandbox_tools.errors import SandboxProtocolError, SandboxRequestError, SandboxResponseError
from sandbox_tools.runtime import CodeError, OutputSink, OutputStream, RichResult
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.kernel import (
    Done,
    KernelEvent,
    LineDecoder,
    Printed,
    Raised,
    Ready,
    Shown,
    event_from_line,
    interrupt_request,
    run_request,
)
from sandbox_tools.wire.process import Command, Ended, OutputData, ProcessEvent, SignalName

OPERATION: Final = "run Python code"

KILL_WAIT_S: Final = 2.0
"""Time in which the end of a process must be seen, in seconds."""

MAX_RESULTS: Final = 64
MAX_RESULT_CHARS: Final = 2 * 1024 * 1024
MAX_RESULT_IMAGE_BYTES: Final = 16 * 1024 * 1024
"""What one run may show; the rest is dropped with a notice."""

MAX_IDLE_BYTES: Final = 64 * 1024
"""Output between runs (of threads and child processes) that is kept for the next run, in bytes."""

MAX_STDERR_BYTES: Final = 4096
"""What is kept of the kernel's own last words, in bytes."""

_SIGNALLED: Final = re.compile(r"signal: [a-z ]{1,40}")


class ProcessStream(Protocol):
    """A started process and its events."""

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


class ProcessStarter(Protocol):
    """What a kernel needs of a sandbox. Both methods raise SandboxRequestError."""

    async def start(self, command: Command) -> ProcessStream: ...

    async def write_file(self, path: str, data: bytes) -> None: ...


class IdleOutput:
    """Output that came while nothing ran."""

    def __init__(self) -> None:
        self._clear()

    def add(self, stream: OutputStream, data: bytes) -> None:
        kept = data[: self._room]
        self._room -= len(kept)
        self._dropped += len(data) - len(kept)
        if kept:
            self._pieces.append((stream, kept))

    def hand_over(self, run: Run) -> None:
        """Give it to a run, and be empty."""
        for stream, data in self._pieces:
            run.print(stream, data)
        if self._dropped:
            run.print("stderr", b"\n[%d bytes of output between the calls are not kept]\n" % self._dropped)
        self._clear()

    def _clear(self) -> None:
        self._pieces: list[tuple[OutputStream, bytes]] = []
        self._room = MAX_IDLE_BYTES
        self._dropped = 0


class Run:
    """One run of code: what came of it so far.

    Attributes:
        over: Set when nothing more will come: `done` says whether the code ended, or the process did.
        stopping: Whether we interrupted it.
        sink_failure: The first exception that the caller's sink raised; it is not called after that.
    """

    def __init__(self, on_output: OutputSink) -> None:
        self.id = uuid.uuid4().hex
        self.over = anyio.Event()
        self.done: Done | None = None
        self.error: CodeError | None = None
        self.stopping = False
        self.sink_failure: Exception | None = None
        self._on_output = on_output
        self._results: list[RichResult] = []
        self._dropped = 0
        self._chars = MAX_RESULT_CHARS
        self._image_bytes = MAX_RESULT_IMAGE_BYTES

    @property
    def results(self) -> tuple[RichResult, ...]:
        """What it showed, and a notice when some of that was dropped."""
        if not self._dropped:
            return tuple(self._results)
        notice = RichResult(text={"text/plain": f"[{self._dropped} more results are not shown]"})
        return (*self._results, notice)

    def print(self, stream: OutputStream, data: bytes) -> None:
        if self.sink_failure is None:
            try:
                self._on_output(stream, data)
            except Exception as exc:  # noqa: BLE001 - raised to the caller of the run, not to the reader's task group
                self.sink_failure = exc

    def take(self, event: Shown | Raised | Done) -> None:
        """Take an event; one of another run is ignored."""
        if event.run_id != self.id:
            return
        if isinstance(event, Shown):
            self._show(event)
        elif isinstance(event, Raised):
            self.error = CodeError(name=event.name, message=event.message, traceback=event.traceback)
        else:
            self.done = event
            self.over.set()

    def _show(self, shown: Shown) -> None:
        chars = sum(map(len, shown.text.values()))
        image_bytes = sum(map(len, shown.images.values()))
        if len(self._results) == MAX_RESULTS or chars > self._chars or image_bytes > self._image_bytes:
            self._dropped += 1
            return
        self._chars -= chars
        self._image_bytes -= image_bytes
        self._results.append(RichResult(text=shown.text, images=shown.images))


class Kernel:
    """One kernel process.

    Attributes:
        started: Set when the process was started, or could not be.
        over: Set when its events came to an end: `ended` says how it ended, or `failure` what broke the stream.
        ready: It has said that it runs, so it may hold variables.
        killed: We killed it.
        run: The newest run; None when it was let go.
    """

    def __init__(self, starter: ProcessStarter, idle: IdleOutput) -> None:
        self.started = anyio.Event()
        self.over = anyio.Event()
        self.ready = False
        self.killed = False
        self.ended: Ended | None = None
        self.failure: SandboxRequestError | None = None
        self.run: Run | None = None
        self._starter = starter
        self._idle = idle
        self._scope = anyio.CancelScope()
        self._stream: ProcessStream | None = None
        self._lines = LineDecoder()
        self._stderr = b""

    async def serve(self, cwd: str | None) -> None:
        """Start the process and read its events to the end. Runs in a task of its own, so that the cancellation of
        a run cannot leave a process that nobody knows."""
        with self._scope:
            try:
                await self._start(cwd)
                await self._read()
            except SandboxRequestError as exc:
                self.failure = exc
            except WireError as exc:
                self.failure = SandboxProtocolError(OPERATION, str(exc))
            finally:
                self._finish()
                await self._close()

    async def begin(self, code: str, on_output: OutputSink) -> bool:
        """Send code. False: the process is gone, and the code did not reach it.

        Raises:
            SandboxRequestError: It is not known whether the code reached it.
        """
        run = self.run = Run(on_output)
        self._idle.hand_over(run)
        if self._stream is None or self.over.is_set():
            run.over.set()
            return False
        try:
            await self._stream.send_input(run_request(run.id, code))
        except SandboxResponseError as exc:
            if exc.status != 404 and exc.reason != "process_not_found":
                raise
        else:
            return True
        with anyio.move_on_after(KILL_WAIT_S):
            await self.over.wait()  # it says how it ended
        self._scope.cancel()
        return False

    def is_running(self) -> bool:
        """Tell whether a run is going on."""
        return self.run is not None and not self.run.over.is_set()

    async def interrupt(self, grace_s: float) -> None:
        """Interrupt the run; kill the process when the run is not over after `grace_s`."""
        if self.run is None or self._stream is None:
            return
        self.run.stopping = True
        with anyio.move_on_after(grace_s), suppress(SandboxRequestError):
            await self._stream.send_input(interrupt_request(self.run.id))
            await self.run.over.wait()
        if not self.run.over.is_set():
            await self.kill()

    async def kill(self) -> None:
        """Kill the process and its group, and wait until its end is seen. Bounded; raises no SandboxRequestError."""
        self.killed = True
        with anyio.move_on_after(KILL_WAIT_S), suppress(SandboxRequestError):
            if self._stream is not None:
                await self._stream.send_signal("SIGNAL_SIGKILL")
                await self._kill_group(self._stream.pid)
                await self.over.wait()
        self._scope.cancel()

    def has_no_python(self) -> bool:
        """Tell whether the sandbox has no python3: the process never ran (exit code of a shell or `env`)."""
        return not self.ready and self.ended is not None and self.ended.exit_code == 127

    def death(self) -> CodeError:
        """Say how the process ended during a run."""
        return CodeError(
            name="ContextDied",
            message=f"The Python process ended while the code ran ({_how(self.ended)}). Its variables are gone.",
            traceback=self._last_words(),
        )

    def _last_words(self) -> str:
        """Return what a crash left on the standard error, without the kernel's own frames."""
        lines = self._stderr.decode("utf-8", "replace").splitlines(keepends=True)
        return "".join(line for line in lines if _program()[0] not in line)

    async def _start(self, cwd: str | None) -> None:
        path, program = _program()
        await self._starter.write_file(path, program)
        self._stream = await self._starter.start(Command(cmd="python3", args=("-u", path), cwd=cwd, stdin=True))
        self.started.set()

    async def _read(self) -> None:
        if self._stream is None:
            return
        async for event in self._stream.events():
            if isinstance(event, Ended):
                self.ended = event
            elif isinstance(event, OutputData) and event.stream == "stderr":
                self._stderr = (self._stderr + event.data)[-MAX_STDERR_BYTES:]
            elif isinstance(event, OutputData):
                for line in self._lines.feed(event.data):
                    self._take(event_from_line(line))

    def _take(self, event: KernelEvent | None) -> None:
        if isinstance(event, Ready):
            self.ready = True
        elif isinstance(event, Printed):
            sink = self.run.print if self.run is not None and self.is_running() else self._idle.add
            sink(event.stream, event.data)
        elif event is not None and self.run is not None:
            self.run.take(event)

    def _finish(self) -> None:
        self.started.set()
        self.over.set()
        if self.run is not None:
            self.run.over.set()

    async def _close(self) -> None:
        if self._stream is not None:
            with anyio.move_on_after(KILL_WAIT_S, shield=True), suppress(SandboxRequestError):
                await self._stream.aclose()

    async def _kill_group(self, pid: int) -> None:
        """Kill what the kernel started: some runtimes signal only the process itself (wire contract 4.3). The kernel
        made itself the leader of a group."""
        killer = await self._starter.start(Command(cmd="/bin/sh", args=("-c", f"kill -9 -{pid:d}")))
        await killer.aclose()


@cache
def _program() -> tuple[str, bytes]:
    """Return the kernel's path in a sandbox, which names its version, and its content."""
    program = files("sandbox_tools.guest").joinpath("kernel.py").read_bytes()
    return f"/tmp/.sandbox-tools/kernel-{hashlib.sha256(program).hexdigest()[:12]}.py", program  # noqa: S108 - there


def _how(ended: Ended | None) -> str:
    if ended is None:
        return "it is not known how"
    if _SIGNALLED.fullmatch(ended.status):
        hint = "; often the memory limit" if ended.status == "signal: killed" else ""
        return ended.status + hint
    return "exit status unknown" if ended.exit_code is None else f"exit status {ended.exit_code}"
