"""Sandboxes launched ahead of their request, so that a create need not wait for a launch."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread

from sandbox_tools.local.background import Background
from sandbox_tools.local.launcher import LaunchError
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.state import Home

POOL_SIZE: Final = 2
"""Each costs the memory of an idle sandbox, about 2 MB. More only helps a burst of creates."""

_PAUSE_S: Final = 0.1
"""Before the next launch: the first command of the sandbox that was just taken goes first."""

FIRST_RETRY_S: Final = 1.0
"""After a launch that failed; twice as long after each further one, up to the last."""

_LAST_RETRY_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A sandbox that runs and belongs to nobody yet."""

    sandbox_id: str
    home: Home
    sandbox: Sandbox

    async def discard(self) -> None:
        """End it and delete its files."""
        with anyio.CancelScope(shield=True):
            await self.sandbox.close()
            await anyio.to_thread.run_sync(self.home.remove)


class Pool:
    """Keeps `size` sandboxes ready.

    Args:
        launch: Starts one; raises LaunchError.
    """

    def __init__(
        self, launch: Callable[[], Awaitable[Ready]], *, background: Background, size: int = POOL_SIZE
    ) -> None:
        self._launch = launch
        self._background = background
        self._size = size
        self._ready: deque[Ready] = deque()
        self._filling = False
        self._closed = False

    def take(self) -> Ready | None:
        """Return one that still runs, or None; another is launched in its place."""
        self.fill()
        while self._ready:
            ready = self._ready.popleft()
            if not ready.sandbox.stopped.is_set():
                return ready
            self._background.start(ready.discard)
        return None

    def fill(self) -> None:
        """Start launching what is missing, beside everything else."""
        if not self._filling and not self._closed and self._size:
            self._filling = True
            self._background.start(self._fill)

    async def close(self) -> None:
        """End all that nobody took."""
        self._closed = True
        async with anyio.create_task_group() as tasks:
            while self._ready:
                tasks.start_soon(self._ready.popleft().discard)

    async def _fill(self) -> None:
        retry_s = FIRST_RETRY_S
        try:
            await anyio.sleep(_PAUSE_S)
            while len(self._ready) < self._size and not self._closed:
                try:
                    self._ready.append(await self._launch())
                except LaunchError:  # a create meanwhile meets the same, and says it
                    await anyio.sleep(retry_s)
                    retry_s = min(2 * retry_s, _LAST_RETRY_S)
        finally:
            self._filling = False
            if self._closed:
                await self.close()
