"""The events of one process, through lost connections: the outcome is learnt, not guessed (wire contract 4.3, 4.4)."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio

from sandbox_tools.client.process import RemoteProcess
from sandbox_tools.client.process_calls import OPERATION, ProcessCalls
from sandbox_tools.client.transport import Transport
from sandbox_tools.errors import (
    ProcessLostError,
    SandboxRequestError,
    SandboxResponseError,
    SandboxTimeoutError,
    SandboxUnreachableError,
)
from sandbox_tools.runtime import ExecResult, OutputSink, OutputStream
from sandbox_tools.wire.process import Ended, OutputData
from sandbox_tools.wire.process_calls import Finished, Selector

RECONNECT_PAUSES_S: Final = (0.0, 0.1, 0.3, 1.0, 2.0, 4.0)
"""Pauses before the tries to find a process again, in seconds; up to half of each is left to chance."""

_MAX_BROKEN: Final = 3
"""Times that it is answered and that leads to nothing: such a server will not do better."""

_STEADY_S: Final = 1.0
"""A connection that held this long, in seconds, was a good one: the tries are counted anew."""

_CONNECT_S: Final = 10.0
"""Deadline of one try, in seconds."""

_BUSY: Final = (429, 502, 503, 504)


class Followed:
    """One process, to its end. It is never started twice.

    Args:
        begin: Starts it, or connects to it.
        selector: Finds it again when the connection is lost.

    Attributes:
        started: Set when its pid is known.
        ended: Set when its end is known.
    """

    def __init__(
        self,
        transport: Transport,
        begin: Callable[[], Awaitable[RemoteProcess]],
        selector: Selector,
        on_output: OutputSink,
    ) -> None:
        self.started = anyio.Event()
        self.ended = anyio.Event()
        self.pid: int | None = None
        self._transport = transport
        self._calls = ProcessCalls(transport)
        self._begin = begin
        self._selector = selector
        self._process: RemoteProcess | None = None
        self._cmd_id: str | None = None
        self._output = _Output(on_output)
        self._tries = 0
        self._broken = 0

    async def run(self) -> ExecResult:
        """Begin, read its events to the end, and return how it ended.

        Raises:
            ProcessLostError: The connection was lost for good; it may still run.
            SandboxRequestError: It was refused, or its stream failed.
        """
        try:
            await self._start()
            ended = await self._last_event()
            self.ended.set()
            return ExecResult(
                exit_code=await self._calls.exit_code(ended, self._cmd_id),
                signal="" if ended.exited else ended.status,
                missing_bytes=await self._missing_bytes(),
            )
        finally:
            await self._close()

    async def _start(self) -> None:
        failure: SandboxRequestError
        try:
            self._take(await self._begin())
        except (SandboxUnreachableError, SandboxTimeoutError) as exc:
            failure = exc
        else:
            return
        if not failure.maybe_done:
            raise failure
        await self._reconnect()

    async def _last_event(self) -> Ended:
        while self._process is not None:
            began = time.monotonic()
            with suppress(ProcessLostError):
                return await self._read(self._process)
            self._broken += 1
            if time.monotonic() - began > _STEADY_S:
                self._tries = self._broken = 0
            await self._reconnect()
        return Ended((await self._finished()).exit_code)

    async def _read(self, process: RemoteProcess) -> Ended:
        async for event in process.events():
            if isinstance(event, OutputData):
                self._output.take(event)
            elif isinstance(event, Ended):
                return event
        raise ProcessLostError(OPERATION, self.pid)

    async def _reconnect(self) -> None:
        """Find the process again. There is none afterwards when it has ended and only its result is kept."""
        await self._close()
        self._output.lost = True
        while self._tries < len(RECONNECT_PAUSES_S) and self._broken < _MAX_BROKEN:
            await anyio.sleep(RECONNECT_PAUSES_S[self._tries] * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            self._tries += 1
            try:
                with anyio.move_on_after(_CONNECT_S):
                    return self._take(await RemoteProcess.connect(self._transport, self._selector))
            except SandboxResponseError as exc:
                if _is_gone(exc) and self._cmd_id is not None:
                    return None
                if not _is_gone(exc) and exc.status not in _BUSY:
                    raise
                self._broken += 1
            except SandboxUnreachableError as exc:
                self._broken += exc.was_sent
            except SandboxTimeoutError:
                self._broken += 1
        raise ProcessLostError(OPERATION, self.pid)

    def _take(self, process: RemoteProcess) -> None:
        self._process = process
        self.pid = process.pid
        self._cmd_id = process.cmd_id or self._cmd_id
        self.started.set()

    async def _finished(self) -> Finished:
        """Ask for the result; whoever asks has no other way to know it."""
        with suppress(SandboxRequestError):
            if self._cmd_id is not None:
                return await self._calls.result(self._cmd_id)
        raise ProcessLostError(OPERATION, self.pid)

    async def _missing_bytes(self) -> int | None:
        """Hand on what was lost, where that is possible; return about how much is missing, None when nobody knows."""
        if not self._output.lost:
            return 0
        with suppress(ProcessLostError):
            return self._output.complete(await self._finished())
        return None

    async def _close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with anyio.CancelScope(shield=True):
                await process.aclose()


class _Output:
    """What came of the output, and whether it is whole.

    Attributes:
        lost: Whether a connection was lost.
    """

    def __init__(self, on_output: OutputSink) -> None:
        self.lost = False
        self._on_output = on_output
        self._received: dict[OutputStream, int] = {"stdout": 0, "stderr": 0}
        self._torn: set[OutputStream] = set()

    def take(self, event: OutputData) -> None:
        stream: OutputStream = "stderr" if event.stream == "stderr" else "stdout"
        self._received[stream] += len(event.data)
        if self.lost:
            self._torn.add(stream)
        self._on_output(stream, event.data)

    def complete(self, finished: Finished) -> int | None:
        """Hand on the rest of a stream that broke off once and never went on; return how much else is missing."""
        missing: int | None = 0
        texts: tuple[tuple[OutputStream, str], ...] = (("stdout", finished.stdout), ("stderr", finished.stderr))
        for stream, text in texts:
            rest = self._rest(stream, text)
            if rest is None or missing is None:
                missing = None
            elif stream in self._torn:
                missing += len(rest)
            elif rest:
                self._on_output(stream, rest)
        return missing

    def _rest(self, stream: OutputStream, text: str) -> bytes | None:
        """Return what is beyond the bytes that were received; None when a text cannot tell: it was cut by the server,
        or it stands for bytes that are not UTF-8."""
        data = text.encode("utf-8", "surrogatepass")
        if len(data) < self._received[stream] or "\N{REPLACEMENT CHARACTER}" in text:
            return None
        return data[self._received[stream] :]


def _is_gone(error: SandboxResponseError) -> bool:
    return error.reason == "process_not_found" or (error.status == 404 and error.reason is None)
