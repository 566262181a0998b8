"""Work that outlives a request. What fails there ends neither the service nor another sandbox."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Final

from anyio.abc import TaskGroup

_log: Final = logging.getLogger(__name__)


class Background:
    """Starts tasks that live at most as long as `tasks`."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks

    def start(self, work: Callable[[], Awaitable[object]]) -> None:
        """Run `work` until it ends. An exception of it is logged by its place."""
        self._tasks.start_soon(_contain, work)


def place(error: BaseException) -> str:
    """Return the type and the place of an exception, without its text: that may quote a path or a body."""
    while inner := getattr(error, "exceptions", None):
        error = inner[0]
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return f"{type(error).__name__} at {' '.join(f'{frame.name}:{frame.lineno}' for frame in last)}"


async def _contain(work: Callable[[], Awaitable[object]]) -> None:
    try:
        await work()
    except Exception as error:  # noqa: BLE001 - a failure here is one sandbox's, and its text is not for a log
        _log.error("background work failed: %s", place(error))
