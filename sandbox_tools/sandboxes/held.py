"""A sandbox that calls use, and what keeps it alive meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Final

import anyio

from sandbox_tools.client.control import ControlPlane
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.errors import SandboxNotFoundError, SandboxToolsError
from sandbox_tools.wire.fields import moment

_RETRY_SHARE: Final = 8
"""An extension that failed is tried again after this part of the time to live."""


class Held:
    """One sandbox.

    Attributes:
        runtime: Its runtime.
        owned: We created it, so we delete it. An adopted one is somebody else's.
    """

    def __init__(self, runtime: RemoteRuntime, *, owned: bool, ttl_s: int, end_at: str) -> None:
        self.runtime: Final = runtime
        self.owned: Final = owned
        self._ttl_s = ttl_s
        self._users = 0
        self._in_use = anyio.Event()
        self._scope = anyio.CancelScope()
        self._extend_at = time.monotonic() + (ttl_s / 2 if owned else self._wait_s(end_at))

    @contextmanager
    def use(self) -> Iterator[None]:
        """Say that a call uses it."""
        self._users += 1
        self._in_use.set()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._in_use = anyio.Event()

    async def keep_alive(self, control: ControlPlane) -> None:
        """Extend its time to live, beside the calls, whenever half of it is over and a call uses it."""
        with self._scope:
            while True:
                await anyio.sleep(self._extend_at - time.monotonic())
                await self._in_use.wait()
                try:
                    await self._extend(control)
                except SandboxNotFoundError:
                    return  # a call finds out, and says so
                except SandboxToolsError:
                    self._extend_at = time.monotonic() + self._ttl_s / _RETRY_SHARE

    async def aclose(self) -> None:
        """Close the connections. Does not end the sandbox."""
        self._scope.cancel()
        await self.runtime.aclose()

    async def _extend(self, control: ControlPlane) -> None:
        """Somebody else's is only ever given more time, never less; by this machine's clock."""
        wait_s = 0.0 if self.owned else self._wait_s((await control.get(self.runtime.sandbox_id)).end_at)
        if wait_s < self._ttl_s / 4:
            await control.set_timeout(self.runtime.sandbox_id, self._ttl_s)
            wait_s = self._ttl_s / 2
        self._extend_at = time.monotonic() + wait_s

    def _wait_s(self, end_at: str) -> float:
        """Return how long the time to live of somebody else's needs no thought: half of what is left, in seconds."""
        end = moment(end_at)
        left_s = (end - datetime.now(timezone.utc)).total_seconds() if end else 2.0 * self._ttl_s
        return min(max(left_s, 0.0), self._ttl_s) / 2
