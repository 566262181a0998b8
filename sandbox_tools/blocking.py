"""The same tools for code that blocks: a toolset on one background event loop (anyio's blocking portal)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

from anyio.from_thread import BlockingPortal, start_blocking_portal

from sandbox_tools.environment import Given, GivenSecrets
from sandbox_tools.output import DEFAULT_MAX_CHARS
from sandbox_tools.redaction import Redactor
from sandbox_tools.redaction.secret import Opaque
from sandbox_tools.sandboxes import DEFAULT_TTL_S
from sandbox_tools.tools.base import Tool
from sandbox_tools.toolset import ToolResult, Toolset

_CANCEL_WAIT_S: Final = 5.0
"""Time that a cancelled call has to end its work in the sandbox, in seconds."""


class BlockingToolset(Opaque):
    """A toolset for any thread and any event loop. Open it with `BlockingToolset.open`."""

    def __init__(self, portal: BlockingPortal, toolset: Toolset) -> None:
        self._portal = portal
        self._toolset = toolset

    @classmethod
    @contextmanager
    def open(
        cls,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        template: str | None = None,
        ttl_s: int = DEFAULT_TTL_S,
        internet: bool = False,
        max_output_chars: int = DEFAULT_MAX_CHARS,
        min_isolation: str | None = None,
        adopt: bool = True,
        private_previews: bool = False,
        redact_unknown_tokens: bool = True,
        secrets: GivenSecrets | None = None,
        envs: Given | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> Iterator[BlockingToolset]:
        """Open a toolset; leaving it deletes the sandboxes that it created. See `Toolset.open`."""
        opened = Toolset.open(
            base_url=base_url,
            api_key=api_key,
            template=template,
            ttl_s=ttl_s,
            internet=internet,
            max_output_chars=max_output_chars,
            min_isolation=min_isolation,
            adopt=adopt,
            private_previews=private_previews,
            redact_unknown_tokens=redact_unknown_tokens,
            secrets=secrets,
            envs=envs,
            on_notice=on_notice,
        )
        del api_key, secrets, envs  # a traceback shows the variables of a generator
        with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(opened) as toolset:
            yield cls(portal, toolset)

    @property
    def tools(self) -> tuple[Tool[Any], ...]:
        """As `Toolset.tools`."""
        return self._toolset.tools

    @property
    def instructions(self) -> str:
        """As `Toolset.instructions`."""
        return self._toolset.instructions

    @property
    def where(self) -> str:
        """As `Toolset.where`."""
        return self._toolset.where

    @property
    def redactor(self) -> Redactor:
        """As `Toolset.redactor`."""
        return self._toolset.redactor

    def call(self, name: str, arguments: Mapping[str, object]) -> ToolResult:
        """Run one tool and wait for it; from any thread. See `Toolset.call`."""
        future, ended = self._start(name, arguments)
        try:
            return future.result()
        except BaseException:  # Ctrl-C: the work in the sandbox ends as well
            future.cancel()
            ended.wait(_CANCEL_WAIT_S)
            raise

    async def acall(self, name: str, arguments: Mapping[str, object]) -> ToolResult:
        """Run one tool; from any asyncio loop. Cancelling it ends its work in the sandbox, and waits for that."""
        future, ended = self._start(name, arguments)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.cancel()
            await _wait_uncancelled(ended)
            raise

    def _start(self, name: str, arguments: Mapping[str, object]) -> tuple[Future[ToolResult], threading.Event]:
        """Start a call; the event says that it has ended, which a cancelled future does not."""
        ended = threading.Event()

        async def run() -> ToolResult:
            try:
                return await self._toolset.call(name, arguments)
            finally:
                ended.set()

        return self._portal.start_task_soon(run), ended


async def _wait_uncancelled(ended: threading.Event) -> None:
    """Wait for the end of a cancelled call, bounded, though frameworks may cancel the waiting again and again."""
    waiting = asyncio.ensure_future(asyncio.to_thread(ended.wait, _CANCEL_WAIT_S))
    while not waiting.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(waiting)
