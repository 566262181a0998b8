"""Names in a sandbox: look, list, move, remove, watch; the Filesystem RPCs (wire contract 4.2)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

import anyio

from sandbox_tools.client.answers import ValueT, parsed
from sandbox_tools.client.response import OpenStream
from sandbox_tools.client.transport import Transport
from sandbox_tools.errors import SandboxProtocolError, SandboxResponseError
from sandbox_tools.wire.envelope import FrameDecoder, WireError, encode_json_frame, parse_json_object
from sandbox_tools.wire.errors import parse_end_stream
from sandbox_tools.wire.files import Entry, WatchEvent, entries_of_answer, entry_of_answer, watch_event

_HEADERS: Final = {"Connect-Protocol-Version": "1"}
_WATCH: Final = "watch a directory"


class RemoteFilesystem:
    """The directory tree of one sandbox. Every method raises `SandboxRequestError` (see errors.py)."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def stat(self, path: str) -> Entry:
        """Return what is at a path; a symlink itself, not what it names. Nothing there: status 404."""
        return await self._call("Stat", {"path": path}, "look at a path", entry_of_answer, safe=True)

    async def exists(self, path: str) -> bool:
        """Tell whether something is at a path."""
        try:
            await self.stat(path)
        except SandboxResponseError as exc:
            if exc.status != 404 or exc.reason == "sandbox_not_found":
                raise
            return False
        return True

    async def list(self, path: str, *, depth: int = 1) -> tuple[Entry, ...]:
        """Return what is below a directory, `depth` levels of it. Symlinked directories are not entered."""
        body: dict[str, object] = {"path": path, "depth": depth}
        return await self._call("ListDir", body, "list a directory", entries_of_answer, safe=True)

    async def make_directory(self, path: str) -> Entry:
        """Make a directory and its parents; one that is there already has the reason "already_exists"."""
        return await self._call("MakeDir", {"path": path}, "make a directory", entry_of_answer)

    async def move(self, source: str, destination: str) -> Entry:
        """Rename; parents of the destination are made. A file that is there is replaced, as rename(2) does."""
        return await self._call("Move", {"source": source, "destination": destination}, "move a file", entry_of_answer)

    async def remove(self, path: str) -> None:
        """Remove a file, or a directory with all in it. A path that is not there is fine."""
        await self._call("Remove", {"path": path}, "remove a path", _nothing, safe=True)

    async def edit(self, path: str, old_text: str, new_text: str) -> None:
        """Replace text in a file, on the server.

        Be sure that `old_text` is there exactly once: the local sandbox refuses all else (400), and the contract does
        not say what others do.
        """
        await self._call("Edit", {"path": path, "oldText": old_text, "newText": new_text}, "edit a file", _nothing)

    @asynccontextmanager
    async def watch(self, path: str, *, recursive: bool = False) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Watch a directory: what happens from now on, until the context is left.

        The events end when the directory is gone. For a watcher that outlives a connection use `create_watcher`.
        """
        stream = await self._transport.stream(
            "POST",
            "/filesystem.Filesystem/WatchDir",
            operation=_WATCH,
            headers={**_HEADERS, "Content-Type": "application/connect+json", "Keepalive-Ping-Interval": "20"},
            content=encode_json_frame({"path": path, "recursive": recursive})[5:],  # bare (wire contract 4.1)
            safe=True,
        )
        try:
            async with aclosing(_events(stream)) as events:
                yield events
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    async def create_watcher(self, path: str, *, recursive: bool = False) -> str:
        """Start a watcher that collects events in the sandbox, and return its id."""
        return await self._call("CreateWatcher", {"path": path, "recursive": recursive}, _WATCH, _watcher_id)

    async def watcher_events(self, watcher_id: str, *, limit: int | None = None) -> tuple[WatchEvent, ...]:
        """Return what a watcher collected since the last call, at most `limit` of it."""
        body: dict[str, object] = {"watcherId": watcher_id} | ({} if limit is None else {"limit": limit})
        return await self._call("GetWatcherEvents", body, _WATCH, _watcher_events)

    async def remove_watcher(self, watcher_id: str) -> None:
        """End a watcher. An unknown one is answered with 404."""
        await self._call("RemoveWatcher", {"watcherId": watcher_id}, _WATCH, _nothing)

    async def _call(
        self,
        method: str,
        body: dict[str, object],
        operation: str,
        parse: Callable[[dict[str, object]], ValueT],
        *,
        safe: bool = False,
    ) -> ValueT:
        response = await self._transport.request(
            "POST", f"/filesystem.Filesystem/{method}", operation=operation, body=body, headers=_HEADERS, safe=safe
        )
        return parsed(operation, lambda: parse(response.json_object("an answer")))


def _nothing(_: dict[str, object]) -> None:
    """Of an answer that says nothing."""


def _watcher_id(message: dict[str, object]) -> str:
    watcher_id = message.get("watcherId")
    if not isinstance(watcher_id, str) or not watcher_id:
        raise WireError("a watcher has no id")
    return watcher_id


def _watcher_events(message: dict[str, object]) -> tuple[WatchEvent, ...]:
    events = message.get("events") or []
    if not isinstance(events, list):
        raise WireError("the events are not a list")
    return tuple(map(watch_event, events))


async def _events(stream: OpenStream) -> AsyncGenerator[WatchEvent, None]:
    decoder = FrameDecoder()
    async for piece in stream.chunks():
        found, problem = _decode(decoder, piece)
        for event in found:
            if isinstance(event, SandboxResponseError):
                raise event
            yield event
        if problem:
            raise SandboxProtocolError(_WATCH, problem)


def _decode(decoder: FrameDecoder, piece: bytes) -> tuple[list[WatchEvent | SandboxResponseError], str]:
    """Return the events in a piece, and what is wrong with what follows them."""
    found: list[WatchEvent | SandboxResponseError] = []
    try:
        for event in _frames_to_events(decoder, piece):
            found.append(event)
    except WireError as exc:
        return found, str(exc)
    return found, ""


def _frames_to_events(decoder: FrameDecoder, piece: bytes) -> Iterator[WatchEvent | SandboxResponseError]:
    """Yield the events in a piece. What is neither an event nor an end is a keepalive (wire contract 4.2)."""
    for frame in decoder.feed(piece):
        if frame.end_stream:
            error = parse_end_stream(frame.payload)
            if error is not None:
                yield SandboxResponseError(_WATCH, kind=error.kind, status=error.status, reason=error.reason)
        elif frame.payload:
            message = parse_json_object(frame.payload, what="a stream message")
            if "filesystem" in message:
                yield watch_event(message["filesystem"])
