"""One process in a sandbox and its event stream (wire contract 4.3)."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

import anyio

from sandbox_tools.client.transport import OpenStream, Transport
from sandbox_tools.errors import SandboxProtocolError, SandboxRequestError, SandboxResponseError, SandboxToolsError
from sandbox_tools.runtime import KillOutcome
from sandbox_tools.wire.envelope import FrameDecoder, WireError, encode_json_frame, parse_json_object
from sandbox_tools.wire.errors import parse_end_stream
from sandbox_tools.wire.process import (
    Command,
    Ended,
    ProcessEvent,
    SignalName,
    Started,
    events_from_json,
    exit_code_from_result,
    selector_json,
    start_request_json,
)

TERM_GRACE_S: Final = 0.5
"""Time that a process group has between TERM and KILL, in seconds."""

KILL_CONFIRM_S: Final = 2.0
"""Time in which the end of a killed process must be seen, in seconds; else it is `kill_unconfirmed`."""

_OPERATION: Final = "run a process"
_CONNECT_HEADERS: Final = {"Connect-Protocol-Version": "1"}
_STREAM_HEADERS: Final = {
    **_CONNECT_HEADERS,
    "Content-Type": "application/connect+json",
    "Keepalive-Ping-Interval": "20",
}
_LAST_BYTES_S: Final = 0.25
"""Time for the last frame of a stream after the end event, in seconds. It comes at once or is not worth waiting for."""

_RESULT_TRIES: Final = 40
_RESULT_PAUSE_S: Final = 0.05
"""GetResult may say "not finished" for up to 2 s after the end event (wire contract 4.4)."""


class RemoteProcess:
    """A started process. `close` ends the event stream, not the process."""

    def __init__(self, transport: Transport, stream: OpenStream) -> None:
        self._transport = transport
        self._stream = stream
        self._events = _events(stream)
        self._started = Started(0)

    @classmethod
    async def start(cls, transport: Transport, command: Command) -> RemoteProcess:
        """Start `command` and wait for its start event.

        Raises:
            SandboxRequestError: It was refused, or the answer is not valid.
        """
        stream = await transport.stream(
            "POST",
            "/process.Process/Start",
            operation=_OPERATION,
            headers=_STREAM_HEADERS,
            content=_json_bytes(start_request_json(command)),
        )
        process = cls(transport, stream)
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

    def events(self) -> AsyncIterator[ProcessEvent]:
        """Yield what happens after the start, up to and including `Ended`.

        Raises:
            SandboxRequestError: The stream broke, or ended before the process did.
        """
        return self._events

    async def send_input(self, data: bytes) -> None:
        """Write to the standard input; one request."""
        body = {"process": selector_json(self.pid), "input": {"stdin": base64.b64encode(data).decode()}}
        await self._unary("SendInput", body)

    async def close_stdin(self) -> None:
        """End the standard input; a process that reads to its end goes on."""
        await self._unary("CloseStdin", {"process": selector_json(self.pid)})

    async def send_signal(self, signal: SignalName) -> None:
        """Signal the process; the local sandbox signals its whole group."""
        await self._unary("SendSignal", {"process": selector_json(self.pid), "signal": signal})

    async def exit_code(self, ended: Ended) -> int:
        """Return the exit code, by the ladder of wire contract 4.3."""
        if ended.exit_code is not None:
            return ended.exit_code
        if self._started.cmd_id is None:
            return 0 if ended.exited else 1
        return await self._exit_code_of_result(self._started.cmd_id)

    async def end_group(self, ended: anyio.Event) -> KillOutcome:
        """End the process group: TERM, a grace, KILL. Bounded; never raises but on cancellation.

        Args:
            ended: Set by whoever reads the events when the process has ended.
        """
        if ended.is_set():
            return "already_finished"
        if await self._signal_is_refused("SIGNAL_SIGTERM"):
            with anyio.move_on_after(TERM_GRACE_S):
                await ended.wait()
            return "already_finished" if ended.is_set() else "kill_unconfirmed"
        with anyio.move_on_after(TERM_GRACE_S):
            await ended.wait()
        # Also when the leader has ended: members of its group may ignore TERM.
        await self._signal_is_refused("SIGNAL_SIGKILL")
        with anyio.move_on_after(KILL_CONFIRM_S):
            await ended.wait()
        return "killed" if ended.is_set() else "kill_unconfirmed"

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _read_start(self) -> None:
        async for event in self._events:
            if isinstance(event, Started):
                self._started = event
                return
            if isinstance(event, Ended):
                break
        raise SandboxProtocolError(_OPERATION, "a process stream does not begin with a start event")

    async def _signal_is_refused(self, signal: SignalName) -> bool:
        """Send a signal; True when the sandbox says that there is no such process."""
        with anyio.move_on_after(KILL_CONFIRM_S):
            try:
                await self.send_signal(signal)
            except SandboxResponseError as exc:
                return exc.status == 404 or exc.reason == "process_not_found"
            except SandboxToolsError:
                return False
        return False

    async def _exit_code_of_result(self, cmd_id: str) -> int:
        for _ in range(_RESULT_TRIES):
            try:
                answer = await self._unary("GetResult", {"cmdId": cmd_id})
            except SandboxResponseError as exc:
                if exc.reason not in ("process_not_found", "process_not_finished"):
                    raise
            else:
                return exit_code_from_result(answer)
            await anyio.sleep(_RESULT_PAUSE_S)
        raise SandboxProtocolError(_OPERATION, "the result of an ended process does not appear")

    async def _unary(self, method: str, body: object) -> dict[str, object]:
        response = await self._transport.request(
            "POST", f"/process.Process/{method}", operation=_OPERATION, body=body, headers=_CONNECT_HEADERS
        )
        problem = ""
        try:
            return response.json_object("an answer")
        except WireError as exc:
            problem = str(exc)
        raise SandboxProtocolError(_OPERATION, problem)


def _json_bytes(message: object) -> bytes:
    """A stream request is one bare JSON object, not an envelope (wire contract 4.1)."""
    return encode_json_frame(message)[5:]


async def _events(stream: OpenStream) -> AsyncIterator[ProcessEvent]:
    decoder = FrameDecoder()
    pieces = stream.chunks()
    async for piece in pieces:
        events, problem = _decode(decoder, piece)
        for event in events:
            if isinstance(event, SandboxResponseError):
                raise event
            yield event
            if isinstance(event, Ended):
                await _read_to_the_end(pieces)
                return
        if problem:
            raise SandboxProtocolError(_OPERATION, problem)
    raise SandboxProtocolError(_OPERATION, "the stream ended before the process did")


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
                yield SandboxResponseError(_OPERATION, kind=error.kind, status=error.status, reason=error.reason)
        elif frame.payload:  # an empty payload is a keepalive (wire contract 4.1)
            yield from events_from_json(parse_json_object(frame.payload, what="a stream message"))
