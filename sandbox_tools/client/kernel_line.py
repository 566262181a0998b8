"""The line to the process of a code context: to find it or start it, hear it, reach it again, and kill it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Set
from contextlib import suppress
from dataclasses import replace
from typing import Final

import anyio

from sandbox_tools.client.kernel_host import ProcessHost, ProcessStream
from sandbox_tools.client.kernel_program import DIRECTORY, KernelProgram, KernelPrograms, lock_path
from sandbox_tools.errors import SandboxRequestError, SandboxResponseError
from sandbox_tools.wire.kernel import YIELDED, KernelEvent, LineDecoder, event_from_line
from sandbox_tools.wire.process import Command, Ended, OutputData

KILL_WAIT_S: Final = 2.0
"""Time in which the end of a process must be seen, in seconds."""

RETRY_PAUSES_S: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Before each new try to reach a sandbox during a run, in seconds. Then the connection counts as lost."""

YIELD_PAUSES_S: Final = (0.0, 0.0, 0.05, 0.1) * 3
"""Before each new look for the process to which ours yielded, in seconds."""

TRIES_OF_A_LOCK: Final = 4
"""After so many starts that found a lock taken, it is not a kernel that has it: the next lock is used."""

MAX_STDERR_BYTES: Final = 4096
"""What is kept of the kernel's own last words, in bytes."""

_SIGNALLED: Final = re.compile(r"signal: [a-z ]{1,40}")


class KernelLine:
    """The line to one kernel process.

    Clients that start the same context at the same moment start a process each. The first one takes a lock; the others
    end before they read anything, with the exit code `YIELDED`, and their lines go to the first one instead.

    Attributes:
        found: It ran before we came.
        heard: It may have said something since we came, so it did not yield.
        ready: It has said that it runs, or did so before we came, so it may hold variables.
        ended: How it ended; None as long as that was not seen.
    """

    def __init__(self, host: ProcessHost, programs: KernelPrograms, program: KernelProgram, tag: str) -> None:
        self.title = program.title
        self.found = self.heard = self.ready = False
        self.ended: Ended | None = None
        self._host = host
        self._programs = programs
        self._program = program
        self._tag = tag
        self._stream: ProcessStream | None = None
        self._lines = LineDecoder()
        self._stderr = b""
        self._yielded: set[int] = set()

    @property
    def pid(self) -> int | None:
        return None if self._stream is None else self._stream.pid

    async def open(self) -> None:
        """Find the process or start it; raises SandboxRequestError."""
        for pid in sorted(await self.pids() - self._yielded):  # if there are more, all but one are about to yield
            with suppress(SandboxResponseError):  # it has just ended
                await self.connect(pid)
                return
        await self._programs.install(self._program)
        lock = lock_path(self._tag, len(self._yielded) // TRIES_OF_A_LOCK)
        self._stream = await self._host.start(replace(self._program.command(lock), tag=self._tag, stdin=True))
        self._lines = LineDecoder()

    async def connect(self, pid: int) -> None:
        """Connect to a process that was found; raises SandboxRequestError."""
        self._stream = await self._host.connect(pid)
        self._lines = LineDecoder(from_the_middle=True)
        self.found = self.ready = True

    async def pids(self) -> Set[int]:
        """Return the processes with the tag; raises SandboxRequestError."""
        return {process.pid for process in await self._host.processes.list() if process.tag == self._tag}

    async def hear(self) -> AsyncIterator[KernelEvent]:
        """Yield what the process says, to its end. Nothing when there is none.

        Raises:
            SandboxRequestError: The stream broke; see `reopen`.
            WireError: It does not speak the protocol.
        """
        if self._stream is None or self.ended is not None:
            return
        async for event in self._stream.events():
            if isinstance(event, Ended):
                self.ended = event
            elif isinstance(event, OutputData) and event.stream == "stderr":
                self._stderr = (self._stderr + event.data)[-MAX_STDERR_BYTES:]
            elif isinstance(event, OutputData):
                for line in self._lines.feed(event.data):
                    if (said := event_from_line(line)) is not None:
                        self.heard = self.ready = True
                        yield said

    def did_yield(self) -> bool:
        """Tell whether the process ended without having run anything, because another one is the context's."""
        return not self.heard and self.ended is not None and self.ended.exit_code == YIELDED

    async def follow(self) -> bool:
        """Go to the process to which this one yielded; if that has ended meanwhile, `open` another one.

        Returns:
            False: This was tried often enough.

        Raises:
            SandboxRequestError: As for `open`.
        """
        if self.pid is None or len(self._yielded) == len(YIELD_PAUSES_S):
            return False
        await anyio.sleep(YIELD_PAUSES_S[len(self._yielded)])
        self._yielded.add(self.pid)
        await self.close()
        self.found = self.ready = False
        self.ended, self._stream, self._stderr = None, None, b""
        await self.open()
        return True

    async def reopen(self, failure: SandboxRequestError) -> None:
        """Connect again to the same process; `ended` is set when it is gone. Raises SandboxRequestError, `failure` if
        there is no other reason."""
        for pause_s in RETRY_PAUSES_S:
            await anyio.sleep(pause_s)
            try:
                stream = await self._host.connect(self.pid or 0)
            except SandboxRequestError as exc:
                failure = exc
                if says_gone(exc):
                    self.ended = Ended(None)
                    return
                if not exc.retryable:
                    break
                continue
            await self.close()
            self._stream, self._lines = stream, LineDecoder(from_the_middle=True)
            self.heard = True
            return
        raise failure

    async def send(self, request: bytes) -> None:
        """Write a request; raises SandboxRequestError."""
        if self._stream is not None:
            await self._stream.send_input(request)

    async def kill(self) -> None:
        """Kill the process and what it started, since some runtimes signal only the process itself (wire contract 4.3).
        It made itself the leader of a group. Raises SandboxRequestError."""
        if self._stream is not None:
            await self._stream.send_signal("SIGNAL_SIGKILL")
            killer = await self._host.start(Command(cmd="/bin/sh", args=("-c", f"kill -9 -{self._stream.pid:d}")))
            await killer.aclose()

    async def close(self) -> None:
        """Close the stream. The process lives on."""
        if self._stream is not None:
            with anyio.move_on_after(KILL_WAIT_S, shield=True), suppress(SandboxRequestError):
                await self._stream.aclose()

    def lacks_program(self) -> bool:
        """Tell whether the sandbox has not what the code needs: exit code of a shell, of `env` and of the kernel."""
        return not self.ready and self.ended is not None and self.ended.exit_code == 127

    def lacks_file(self) -> bool:
        """Tell whether the kernel's file was not there: somebody emptied the directory. Then it is written again."""
        if self.ready or self.ended is None or self.ended.exit_code != 2:
            return False
        self._programs.forget(self._program)
        return True

    def last_words(self) -> str:
        """Return what a crash left on the standard error, without the kernel's own frames."""
        lines = self._stderr.decode("utf-8", "replace").splitlines(keepends=True)
        return "".join(line for line in lines if DIRECTORY not in line)

    def how_it_ended(self) -> str:
        """Return the end of the process in words."""
        ended = self.ended
        if ended is None or (ended.exit_code is None and not ended.status):
            return "it is not known how"
        if _SIGNALLED.fullmatch(ended.status):
            hint = "; often the memory limit" if ended.status == "signal: killed" else ""
            return ended.status + hint
        return "exit status unknown" if ended.exit_code is None else f"exit status {ended.exit_code}"


def says_gone(failure: SandboxRequestError) -> bool:
    """Tell whether an answer means that the process is not there."""
    if not isinstance(failure, SandboxResponseError) or failure.reason == "sandbox_not_found":
        return False
    return failure.status == 404 or failure.reason == "process_not_found"
