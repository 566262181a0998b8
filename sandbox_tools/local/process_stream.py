"""The stream of a process's events, and the headers by which a client shapes it (wire contract 4.1)."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.process import Process
from sandbox_tools.local.web import OwningResponse, RequestError
from sandbox_tools.wire.envelope import END_STREAM, encode_json_frame
from sandbox_tools.wire.output import output_frame
from sandbox_tools.wire.process import Ended, KeepAlive, OutputData, ProcessEvent, Started, event_to_json

STREAM_TYPE: Final = "application/connect+json"

KEEPALIVE_S: Final = 5.0
"""Between two frames at most, unless the client says otherwise; the contract asks for 10 s or less (10)."""

_MAX_KEEPALIVE_S: Final = 90
_DEADLINE: Final = {"error": {"code": "deadline_exceeded", "message": "deadline exceeded"}}


def connect_timeout_ms(request: Request) -> int | None:
    """Read `Connect-Timeout-Ms`; None and 0 are no limit.

    Raises:
        RequestError: It is no number of milliseconds (400).
    """
    return _number(request, "connect-timeout-ms") or None


def keepalive_s(request: Request) -> float:
    """Return how many seconds a stream may be silent: what `Keepalive-Ping-Interval` asks for.

    Raises:
        RequestError: It is no number of seconds (400).
    """
    asked_s = _number(request, "keepalive-ping-interval")
    return KEEPALIVE_S if asked_s is None else min(max(asked_s, 1), _MAX_KEEPALIVE_S)


def event_stream(request: Request, process: Process, *, limit_ms: int | None = None) -> Response:
    """Return the answer that streams the events of a process.

    Subscribes at once: no output is missed between the start and the first read.

    Args:
        limit_ms: After which the stream ends; None is no limit.

    Raises:
        RequestError: `Keepalive-Ping-Interval` is no number of seconds (400).
    """
    pause_s = keepalive_s(request)
    ends_at = math.inf if limit_ms is None else anyio.current_time() + limit_ms / 1000
    stack = AsyncExitStack()
    events = stack.enter_context(process.subscribe())
    return OwningResponse(_frames(process, events, pause_s, ends_at), owned=stack, media_type=STREAM_TYPE)


async def _frames(
    process: Process, events: MemoryObjectReceiveStream[ProcessEvent], pause_s: float, ends_at: float
) -> AsyncIterator[bytes]:
    yield _frame(Started(process.pid, process.cmd_id))
    last: ProcessEvent | None = None
    while not isinstance(last, Ended):
        last = None
        with anyio.move_on_at(min(ends_at, anyio.current_time() + pause_s)):
            try:
                last = await events.receive()
            except anyio.EndOfStream:  # it had ended before this subscription
                last = process.ended or Ended(-1, False, "signal: killed")
        if last is None and anyio.current_time() >= ends_at:
            yield encode_json_frame(_DEADLINE, flags=END_STREAM)
            return
        yield _frame(last or KeepAlive())
    yield encode_json_frame({}, flags=END_STREAM)


def _frame(event: ProcessEvent) -> bytes:
    if isinstance(event, OutputData):
        return output_frame(event)
    return encode_json_frame(event_to_json(event))


def _number(request: Request, name: str) -> int | None:
    text = request.headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise RequestError(400, f"{name} is not a whole number")
    return int(text)
