"""The process routes of a runtime, typed (wire contract 4.3, 4.4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import anyio

from sandbox_tools.client.response import OpenStream
from sandbox_tools.client.transport import Transport
from sandbox_tools.errors import SandboxProtocolError, SandboxResponseError
from sandbox_tools.wire.envelope import WireError, encode_json_frame
from sandbox_tools.wire.process import Command, Ended, SignalName, TerminalSize, start_request_json
from sandbox_tools.wire.process_calls import (
    Finished,
    ListedProcess,
    Selector,
    finished_from_json,
    input_json,
    processes_from_json,
    selector_json,
    terminal_json,
)

OPERATION: Final = "run a process"

_CONNECT_HEADERS: Final = {"Connect-Protocol-Version": "1"}
_STREAM_HEADERS: Final = {
    **_CONNECT_HEADERS,
    "Content-Type": "application/connect+json",
    "Keepalive-Ping-Interval": "20",
}
_RESULT_TRIES: Final = 40
_RESULT_PAUSE_S: Final = 0.05
"""GetResult may say "not finished" for up to 2 s after the end event (wire contract 4.4)."""


class ProcessCalls:
    """One method a route. All raise `SandboxRequestError`; a process that is not there is a `SandboxResponseError`
    with the reason "process_not_found"."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> tuple[ListedProcess, ...]:
        """Return the processes that run and were started through the API, by anybody (`List`)."""
        message = await self._unary("List", {}, operation="list the processes", safe=True)
        problem = ""
        try:
            return processes_from_json(message)
        except WireError as exc:
            problem = str(exc)
        raise SandboxProtocolError("list the processes", problem)

    async def send_input(self, process: Selector, data: bytes, *, pty: bool = False) -> None:
        """Write to the standard input, or to the terminal (`SendInput`). Nothing is sent when there is no data."""
        if data:
            await self._unary("SendInput", {"process": selector_json(process), "input": input_json(data, pty=pty)})

    async def stream_input(self, process: Selector, pieces: AsyncIterator[bytes], *, pty: bool = False) -> None:
        """Write pieces to the standard input, or to the terminal, as they come, over one request (`StreamInput`)."""
        stream = await self._stream("StreamInput", _input_frames(process, pieces, pty=pty))
        try:
            await stream.read(64 * 1024)
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    async def close_stdin(self, process: Selector) -> None:
        """End the standard input; a process that reads to its end goes on (`CloseStdin`). A PTY has no such end: send
        the byte 4 (Ctrl-D)."""
        await self._unary("CloseStdin", {"process": selector_json(process)}, safe=True)

    async def send_signal(self, process: Selector, signal: SignalName) -> None:
        """Signal the process; some runtimes signal its whole group (`SendSignal`)."""
        await self._unary("SendSignal", {"process": selector_json(process), "signal": signal})

    async def resize(self, process: Selector, size: TerminalSize) -> None:
        """Change the size of the terminal (`Update`)."""
        await self._unary("Update", {"process": selector_json(process), "pty": terminal_json(size)}, safe=True)

    async def result(self, cmd_id: str) -> Finished:
        """Return how an ended process ended, and what the server kept of its output (`GetResult`).

        Waits 2 s at most for the result to appear (wire contract 4.4).
        """
        problem = "the result of an ended process does not appear"
        for _ in range(_RESULT_TRIES):
            try:
                return finished_from_json(await self._unary("GetResult", {"cmdId": cmd_id}, safe=True))
            except SandboxResponseError as exc:
                if exc.reason not in ("process_not_found", "process_not_finished"):
                    raise
            except WireError as exc:
                problem = str(exc)
                break
            await anyio.sleep(_RESULT_PAUSE_S)
        raise SandboxProtocolError(OPERATION, problem)

    async def exit_code(self, ended: Ended, cmd_id: str | None) -> int:
        """Return the exit code of a process whose end was seen, by the ladder of wire contract 4.3."""
        if ended.exit_code is not None:
            return ended.exit_code
        if cmd_id is None:
            return 0 if ended.exited else 1
        return (await self.result(cmd_id)).exit_code

    async def open_start(self, command: Command) -> OpenStream:
        """Start a process and return its events, unread (`Start`)."""
        return await self._stream("Start", _bare(start_request_json(command)))

    async def open_connect(self, process: Selector) -> OpenStream:
        """Return the events of a process from now on, unread (`Connect`)."""
        return await self._stream("Connect", _bare({"process": selector_json(process)}), safe=True)

    async def _stream(
        self, method: str, content: bytes | AsyncIterator[bytes], *, safe: bool | None = None
    ) -> OpenStream:
        path = f"/process.Process/{method}"
        return await self._transport.stream(
            "POST", path, operation=OPERATION, headers=_STREAM_HEADERS, content=content, safe=safe
        )

    async def _unary(
        self, method: str, body: object, *, operation: str = OPERATION, safe: bool | None = None
    ) -> dict[str, object]:
        path = f"/process.Process/{method}"
        response = await self._transport.request(
            "POST", path, operation=operation, body=body, headers=_CONNECT_HEADERS, safe=safe
        )
        problem = ""
        try:
            return response.json_object("an answer")
        except WireError as exc:
            problem = str(exc)
        raise SandboxProtocolError(operation, problem)


def _bare(message: object) -> bytes:
    """A stream request is one bare JSON object, not an envelope (wire contract 4.1)."""
    return encode_json_frame(message)[5:]


async def _input_frames(process: Selector, pieces: AsyncIterator[bytes], *, pty: bool) -> AsyncIterator[bytes]:
    yield encode_json_frame({"start": {"process": selector_json(process)}})
    async for piece in pieces:
        if piece:
            yield encode_json_frame({"data": {"input": input_json(piece, pty=pty)}})
