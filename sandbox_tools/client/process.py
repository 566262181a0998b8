"""One process in a sandbox and its event stream (wire contract 4.3)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

import anyio

from sandbox_tools.client.process_calls import OPERATION, ProcessCalls
from sandbox_tools.client.response import OpenStream
from sandbox_tools.client.transport import Transport
from sandbox_tools.client.tree import marked
from sandbox_tools.errors import (
    ProcessLostError,
    SandboxProtocolError,
    SandboxRequestError,
    SandboxResponseError,
    SandboxTimeoutError,
    SandboxUnreachableError,
)
from sandbox_tools.wire.envelope import FrameDecoder, WireError, parse_json_object
from sandbox_tools.wire.errors import parse_end_stream
from sandbox_tools.wire.output import output_from_payload
from sandbox_tools.wire.process import (
    Command,
    Ended,
    ProcessEvent,
    SignalName,
    Started,
    TerminalSize,
    events_from_json,
)
from sandbox_tools.wire.process_calls import Selector

_LAST_BYTES_S: Final = 0.25
"""Time for the last frame of a stream after the end event, in seconds. It comes at once or is not worth waiting for."""


class RemoteProcess:
    """A started process. `aclose` ends the event stream, not the process."""

    def __init__(self, calls: ProcessCalls, stream: OpenStream, *, pty: bool) -> None:
        self._calls = calls
        self._stream = stream
        self._pty = pty
        self._events = self._read()
        self._started = Started(0)

    @classmethod
    async def start(cls, transport: Transport, command: Command) -> RemoteProcess:
        """Start `command` and wait for its start event. It is marked (client/tree.py), and tagged if it has no tag.

        Raises:
            SandboxRequestError: It was refused, or the answer is not valid. `maybe_done` says whether it may run.
        """
        calls = ProcessCalls(transport)
        return await cls._opened(calls, await calls.open_start(marked(command)), pty=command.pty is not None)

    @classmethod
    async def connect(cls, transport: Transport, process: Selector, *, pty: bool = False) -> RemoteProcess:
        """Return a process that was started before, by anybody, with its events from now on.

        What it wrote while nobody was connected is not repeated (wire contract 4.3).

        Raises:
            SandboxRequestError: There is no such process ("process_not_found"), or the answer is not valid.
        """
        calls = ProcessCalls(transport)
        return await cls._opened(calls, await calls.open_connect(process), pty=pty)

    @classmethod
    async def _opened(cls, calls: ProcessCalls, stream: OpenStream, *, pty: bool) -> RemoteProcess:
        process = cls(calls, stream, pty=pty)
        try:
            await process._read_start()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            raise
        return process

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def cmd_id(self) -> str | None:
        """SeaCloud's name for it, for `ProcessCalls.result`; it may be absent."""
        return self._started.cmd_id

    def events(self) -> AsyncIterator[ProcessEvent]:
        """Yield what happens after the start, up to and including `Ended`.

        Raises:
            ProcessLostError: The connection was lost, or the stream ended before the process did. `connect` again.
            SandboxRequestError: The stream broke the wire format, or said that it failed.
        """
        return self._events

    async def send_input(self, data: bytes) -> None:
        """Write to the standard input, or to the terminal; one request."""
        await self._calls.send_input(self.pid, data, pty=self._pty)

    async def stream_input(self, pieces: AsyncIterator[bytes]) -> None:
        """Write pieces as they come, over one request."""
        await self._calls.stream_input(self.pid, pieces, pty=self._pty)

    async def close_stdin(self) -> None:
        """End the standard input; a process that reads to its end goes on."""
        await self._calls.close_stdin(self.pid)

    async def send_signal(self, signal: SignalName) -> None:
        """Signal the process; the local sandbox signals its whole group."""
        await self._calls.send_signal(self.pid, signal)

    async def resize(self, size: TerminalSize) -> None:
        """Change the size of its terminal."""
        await self._calls.resize(self.pid, size)

    async def exit_code(self, ended: Ended) -> int:
        """Return the exit code, by the ladder of wire contract 4.3."""
        return await self._calls.exit_code(ended, self.cmd_id)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _read_start(self) -> None:
        async for event in self._events:
            if isinstance(event, Started):
                self._started = event
                return
            if isinstance(event, Ended):
                break
        raise SandboxProtocolError(OPERATION, "a process stream does not begin with a start event", maybe_done=True)

    async def _read(self) -> AsyncIterator[ProcessEvent]:
        decoder = FrameDecoder()
        pieces = self._stream.chunks()
        while (piece := await _next(pieces)) is not None:
            events, problem = _decode(decoder, piece)
            for event in events:
                if isinstance(event, SandboxResponseError):
                    raise event
                if isinstance(event, Ended):
                    await _read_to_the_end(pieces)  # before it is told: nobody reads on after it
                yield event
                if isinstance(event, Ended):
                    return
            if problem:
                raise SandboxProtocolError(OPERATION, problem, maybe_done=True)
        raise ProcessLostError(OPERATION, self._started.pid or None)


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    """Return the next piece; None when there is none, because the stream ended or because the connection was lost."""
    try:
        return await anext(pieces)
    except (StopAsyncIteration, SandboxUnreachableError, SandboxTimeoutError):
        return None


async def _read_to_the_end(pieces: AsyncIterator[bytes]) -> None:
    """Take what follows the end event, so that the connection can serve the next request. Nothing in it matters."""
    with anyio.move_on_after(_LAST_BYTES_S), contextlib.suppress(SandboxRequestError):
        async for _ in pieces:
            pass


def _decode(decoder: FrameDecoder, piece: bytes) -> tuple[list[ProcessEvent | SandboxResponseError], str]:
    """Return the events in `piece`, and what is wrong with what follows them."""
    events: list[ProcessEvent | SandboxResponseError] = []
    try:
        for event in _frames_to_events(decoder, piece):
            events.append(event)
    except WireError as exc:
        return events, str(exc)
    return events, ""


def _frames_to_events(decoder: FrameDecoder, piece: bytes) -> Iterator[ProcessEvent | SandboxResponseError]:
    for frame in decoder.feed(piece):
        if frame.end_stream:
            error = parse_end_stream(frame.payload)
            if error is not None:
                yield SandboxResponseError(
                    OPERATION, kind=error.kind, status=error.status, reason=error.reason, maybe_done=True
                )
        elif output := output_from_payload(frame.payload):
            yield output
        elif frame.payload:  # an empty payload is a keepalive (wire contract 4.1)
            yield from events_from_json(parse_json_object(frame.payload, what="a stream message"))
