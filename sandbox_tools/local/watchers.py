"""The watchers of one sandbox. Each is a task inside (guest/watch.py), and its pipe is the queue.

A queue that nobody empties is bounded by the pipe; then the kernel inside drops events, and says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from sandbox_tools.local.channel import Channel
from sandbox_tools.local.tasks import Answer, start_task

MAX_WATCHERS: Final = 32
"""At once, streams and polled ones. Each costs a process inside and a descriptor here."""


class TooManyWatchersError(Exception):
    """The sandbox has as many watchers as allowed."""


class Watchers:
    """Starts watchers, and keeps those that clients poll."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._count = 0
        self._last_id = 0
        self._polled: dict[str, tuple[AsyncExitStack, Answer]] = {}

    @asynccontextmanager
    async def watch(self, path: str, *, recursive: bool) -> AsyncIterator[Answer]:
        """Watch a directory: every change from now on is a line of the answer. Leaving ends it.

        Raises:
            TooManyWatchersError: There are as many as allowed.
            AgentError: The directory cannot be watched.
            ChannelError: The sandbox is gone.
        """
        if self._count >= MAX_WATCHERS:
            raise TooManyWatchersError
        self._count += 1
        try:
            fields = {"path": path, "recursive": recursive}
            async with start_task(self._channel, "watch", fields, endless=True) as answer:
                await answer.header()
                yield answer
        finally:
            self._count -= 1

    async def create(self, path: str, *, recursive: bool) -> str:
        """Start a watcher that a client polls, and return its id. Raises what `watch` raises."""
        stack = AsyncExitStack()
        answer = await stack.enter_async_context(self.watch(path, recursive=recursive))
        self._last_id += 1
        watcher_id = f"watch-{self._last_id}"
        self._polled[watcher_id] = stack, answer
        return watcher_id

    def find(self, watcher_id: str) -> Answer | None:
        """Return where the events of a polled watcher are."""
        return self._polled[watcher_id][1] if watcher_id in self._polled else None

    async def remove(self, watcher_id: str) -> bool:
        """End a polled watcher; return whether there was one."""
        if (found := self._polled.pop(watcher_id, None)) is None:
            return False
        await found[0].aclose()
        return True

    async def close(self) -> None:
        """End all polled watchers."""
        for watcher_id in list(self._polled):
            await self.remove(watcher_id)
