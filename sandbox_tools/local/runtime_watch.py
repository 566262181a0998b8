"""The runtime's watchers: WatchDir, CreateWatcher, GetWatcherEvents, RemoveWatcher (wire contract 4.2)."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.channel import AgentError, ChannelError
from sandbox_tools.local.process_stream import keepalive_s
from sandbox_tools.local.runtime_files import checked_path
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.tasks import Answer
from sandbox_tools.local.watchers import TooManyWatchersError
from sandbox_tools.local.web import OwningResponse, RequestError, json_response, read_body, read_json
from sandbox_tools.wire.envelope import END_STREAM, WireError, encode_frame, encode_json_frame, parse_stream_request
from sandbox_tools.wire.files import watch_event_from_json, whole_number

MAX_EVENTS: Final = 1000
"""In one answer of GetWatcherEvents."""

_BATCH_EVENTS: Final = 200
_BATCH_PAUSE_S: Final = 0.005
"""Between two batches of a stream: a sandbox that has always news must not keep the event loop busy."""

_FAILED: Final = {"error": {"code": "internal", "message": "the watcher gave no valid event"}}


async def watch_directory(request: Request, sandbox: Sandbox) -> Response:
    """Stream the changes of a directory; it is watched when the answer begins.

    SeaCloud's clients (bare JSON) get frames with events only, and empty ones as keepalive: one of them stops at the
    first other frame (quirk 27). Connect's (one envelope) get the `start` and `keepalive` messages that they expect.
    """
    message, enveloped = parse_stream_request(await read_body(request))
    path, recursive = _wanted(message)
    pause_s = keepalive_s(request)
    stack = AsyncExitStack()
    answer = await _started(stack, sandbox, path, recursive=recursive)
    frames = _frames(answer, pause_s, enveloped=enveloped)
    return OwningResponse(frames, owned=stack, media_type="application/connect+json")


async def create_watcher(request: Request, sandbox: Sandbox) -> Response:
    path, recursive = _wanted(await read_json(request))
    try:
        return json_response({"watcherId": await sandbox.watchers.create(path, recursive=recursive)})
    except (TooManyWatchersError, AgentError) as error:
        problem = _refusal(error)
    raise problem


async def get_watcher_events(request: Request, sandbox: Sandbox) -> Response:
    """Drain what has come since the last call, or `limit` of it. Unknown after the directory is gone."""
    message = await read_json(request)
    watcher_id = _watcher_id(message)
    limit = whole_number(message.get("limit"), default=MAX_EVENTS)
    answer = sandbox.watchers.find(watcher_id)
    if answer is None:
        raise RequestError(404, "watcher not found")
    lines = answer.lines_now(min(limit, MAX_EVENTS) if limit > 0 else MAX_EVENTS)
    if answer.ended:
        await sandbox.watchers.remove(watcher_id)
    return json_response({"events": [_told_event(line) for line in lines]})


async def remove_watcher(request: Request, sandbox: Sandbox) -> Response:
    if not await sandbox.watchers.remove(_watcher_id(await read_json(request))):
        raise RequestError(404, "watcher not found")
    return json_response({})


async def _started(stack: AsyncExitStack, sandbox: Sandbox, path: str, *, recursive: bool) -> Answer:
    try:
        return await stack.enter_async_context(sandbox.watchers.watch(path, recursive=recursive))
    except (TooManyWatchersError, AgentError) as error:
        problem = _refusal(error)
    raise problem


async def _frames(answer: Answer, pause_s: float, *, enveloped: bool) -> AsyncIterator[bytes]:
    if enveloped:
        yield encode_json_frame({"start": {}})
    try:
        async for lines in _batches(answer, pause_s):
            events = [encode_json_frame({"filesystem": _told_event(line)}) for line in lines]
            yield b"".join(events) or _keepalive(enveloped=enveloped)
    except ChannelError:
        yield encode_json_frame(_FAILED, flags=END_STREAM)
    else:
        yield encode_json_frame({}, flags=END_STREAM)


def _told_event(line: dict[str, object]) -> dict[str, object]:
    try:
        return watch_event_from_json(line)
    except WireError as error:
        raise ChannelError(str(error)) from None


async def _batches(answer: Answer, pause_s: float) -> AsyncIterator[list[dict[str, object]]]:
    """Yield the lines as they come, and an empty list when none has come for a while."""
    while True:
        with anyio.move_on_after(pause_s) as waiting:
            first = await answer.line()
        if waiting.cancelled_caught:
            yield []
        elif first is None:
            return
        else:
            yield [first, *answer.lines_now(_BATCH_EVENTS - 1)]
            await anyio.sleep(_BATCH_PAUSE_S)


def _keepalive(*, enveloped: bool) -> bytes:
    return encode_json_frame({"keepalive": {}}) if enveloped else encode_frame(b"")


def _wanted(message: dict[str, object]) -> tuple[str, bool]:
    recursive = message.get("recursive")
    if recursive is not None and not isinstance(recursive, bool):
        raise RequestError(400, "recursive must be true or false")
    return checked_path(message.get("path")), recursive is True


def _watcher_id(message: dict[str, object]) -> str:
    watcher_id = message.get("watcherId")
    if not isinstance(watcher_id, str) or not watcher_id:
        raise RequestError(400, "watcherId is required")
    return watcher_id


def _refusal(error: TooManyWatchersError | AgentError) -> Exception:
    if isinstance(error, TooManyWatchersError):
        return RequestError(429, "the sandbox has too many watchers")
    if error.number in (errno.ENOSPC, errno.EMFILE):
        return RequestError(400, "there are too many directories to watch")
    return error
