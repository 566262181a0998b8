"""A server in the foreground: it ends in order when it is asked to."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import anyio


async def serve_until_signal(serve: Callable[[anyio.Event], Awaitable[None]]) -> None:
    """Run `serve`, and set the event that it is given on SIGTERM or SIGINT. What it raises is raised as it is."""
    stop = anyio.Event()
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, stop)
        try:
            await serve(stop)
        except Exception as error:  # noqa: BLE001 - raised below: a task group would wrap it in a group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _stop_on_signal(stop: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop.set()
