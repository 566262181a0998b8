"""One process in a sandbox, as the host sees it: its output, its input, how it ended.

Output flows through pipes that the host made, straight from the program. A subscriber that is slow slows the program
(nothing is buffered here); output without a subscriber is discarded, apart from a bounded head for GetResult.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, Protocol

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from sandbox_tools.local.pipes import Pipe
from sandbox_tools.wire.process import Command, Ended, OutputData, ProcessEvent

HEAD_BYTES: Final = 1 << 20
"""Kept of each stream for GetResult (brief: bounded; the contract names no number)."""

LINGER_S: Final = 0.05
"""How long after the end of a program its children may still add output, while they hold its pipes."""

_DISCARD_PAUSE_S: Final = 0.002
"""Between two reads that nobody wants: `yes &` must not keep the event loop busy (it gets about 100 MB/s)."""


class HeadRoom(Protocol):
    """Who lends memory for heads."""

    def take(self, wanted: int) -> int:
        """Return how many of `wanted` bytes may be kept, and count them."""
        ...


class Output:
    """One output stream: reads the pipe to its end, whether anybody listens or not."""

    def __init__(self, name: Literal["stdout", "stderr", "pty"], pipe: Pipe, room: HeadRoom) -> None:
        self.name: Final = name
        self.head = bytearray()
        self.ended = anyio.Event()
        self.caught_up = anyio.Event()
        self._pipe = pipe
        self._room = room
        self._received = 0
        self._delivered = 0
        self._wanted: int | None = None

    async def pump(self, process: Process) -> None:
        try:
            while data := await self._pipe.read():
                self._received += len(data)
                wanted = self._keep(data) or process.has_subscriber
                await process.publish(OutputData(self.name, data))
                self._delivered += len(data)
                self._check()
                if not wanted:
                    await anyio.sleep(_DISCARD_PAUSE_S)
        except (OSError, anyio.ClosedResourceError):
            pass
        finally:
            self._pipe.close()
            self.ended.set()
            self.caught_up.set()

    def note_exit(self) -> None:
        """The program ended: what it wrote is what was read and what waits in the pipe. `caught_up` is set after it."""
        if not self.ended.is_set():
            self._wanted = self._received + self._pipe.unread_bytes()
            self._check()

    def _check(self) -> None:
        if self._wanted is not None and self._delivered >= self._wanted:
            self.caught_up.set()

    def _keep(self, data: bytes) -> bool:
        """Add to the head what fits; return whether anything did."""
        count = self._room.take(min(HEAD_BYTES - len(self.head), len(data)))
        self.head += data[:count]
        return count > 0


class Process:
    """A process that was started through the API.

    Attributes:
        request: The agent's name for it.
        pid: Its process id, and its process group's, inside the sandbox.
        cmd_id: SeaCloud's name for it, for GetResult.
        stderr: None for a process with a PTY, which has one output (`stdout`).
        ended: How it ended, once its output has been delivered.
        command_bytes: What is kept of `command`, about.
        exited: Set when the program itself is gone.
        timed_out: Whether it was ended for its timeout.
    """

    def __init__(
        self, *, request: int, pid: int, command: Command, stdout: Output, stderr: Output | None, stdin: Pipe | None
    ) -> None:
        self.request: Final = request
        self.pid: Final = pid
        self.cmd_id: Final = f"cmd-{request}"
        self.command: Final = command
        self.stdout: Final = stdout
        self.stderr: Final = stderr
        self.outputs: Final = (stdout,) if stderr is None else (stdout, stderr)
        self.started_at_unix: Final = int(time.time())
        self.command_bytes: Final = _size(command)
        self.exited = anyio.Event()
        self.ended: Ended | None = None
        self.timed_out = False
        self._stdin = stdin
        self._writing = anyio.Lock()
        self._exit: Ended | None = None
        self._subscribers: list[MemoryObjectSendStream[ProcessEvent]] = []

    @property
    def has_subscriber(self) -> bool:
        return bool(self._subscribers)

    @contextmanager
    def subscribe(self) -> Iterator[MemoryObjectReceiveStream[ProcessEvent]]:
        """Yield the events from now on; the last one is `Ended`. Leaving drops the subscription, not the process."""
        send, receive = anyio.create_memory_object_stream[ProcessEvent](0)
        if self.ended is not None:
            send.close()
        else:
            self._subscribers.append(send)
        with receive:
            try:
                yield receive
            finally:
                self._drop(send)

    async def publish(self, event: ProcessEvent) -> None:
        """Give an event to every subscriber, at the pace of the slowest."""
        for subscriber in list(self._subscribers):
            try:
                await subscriber.send(event)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._drop(subscriber)

    def note_exit(self, code: int) -> None:
        """The program ended with an exit code, or by signal `-code`."""
        self._exit = Ended(code, True, f"exit status {code}") if code >= 0 else Ended(-1, False, _signal_status(-code))
        for output in self.outputs:
            output.note_exit()
        self.exited.set()

    async def run(self) -> None:
        """Carry the output and tell the subscribers of the end. Goes on reading while anything holds the pipes:
        a background child must not get SIGPIPE."""
        async with anyio.create_task_group() as tasks:
            for output in self.outputs:
                tasks.start_soon(output.pump, self)
            tasks.start_soon(self._finish)

    async def write_input(self, data: bytes) -> None:
        """Write to standard input.

        Raises:
            BrokenPipeError: There is none, it was closed, or nobody reads it.
        """
        async with self._writing:
            if self._stdin is None:
                raise BrokenPipeError
            try:
                await self._stdin.write(data)
            except anyio.ClosedResourceError:
                raise BrokenPipeError from None

    def close_input(self) -> None:
        """End standard input. Can be called again."""
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None

    async def _finish(self) -> None:
        await self.exited.wait()
        self.close_input()
        for output in self.outputs:
            await output.caught_up.wait()
        with anyio.move_on_after(LINGER_S):
            for output in self.outputs:
                await output.ended.wait()
        self.ended = self._exit or Ended(-1, False, "signal: killed")
        await self.publish(self.ended)
        for subscriber in list(self._subscribers):
            self._drop(subscriber)

    def _drop(self, subscriber: MemoryObjectSendStream[ProcessEvent]) -> None:
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
        subscriber.close()


def _size(command: Command) -> int:
    """Return about how many bytes of memory a command takes."""
    texts = [command.cmd, command.tag or "", command.cwd or "", *command.args, *command.envs, *command.envs.values()]
    return sum(len(text) for text in texts)


_SIGNAL_WORDS: Final = {
    signal.SIGHUP: "hangup",
    signal.SIGINT: "interrupt",
    signal.SIGQUIT: "quit",
    signal.SIGABRT: "aborted",
    signal.SIGKILL: "killed",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGPIPE: "broken pipe",
    signal.SIGALRM: "alarm clock",
    signal.SIGTERM: "terminated",
}
"""As Go prints them, because E2B's and SeaCloud's runtimes do (wire contract 4.3)."""


def _signal_status(number: int) -> str:
    words = {int(known): text for known, text in _SIGNAL_WORDS.items()}
    return f"signal: {words.get(number, f'signal {number}')}"
