"""What the service itself says about one sandbox: created, started, process ended, paused (wire contract 2.6).

No argument, path, output or environment of a program is in it, so nothing in it is secret or large.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Final, Literal

Level = Literal["debug", "info", "warn", "error"]

LEVELS: Final[tuple[Level, ...]] = ("debug", "info", "warn", "error")
"""From the least severe."""

MAX_EVENTS: Final = 1000
"""Kept of one sandbox; the oldest go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the log.

    Attributes:
        at_ms: Unix time in milliseconds; no two events of a sandbox have the same, so it is a cursor too.
    """

    at_ms: int
    level: Level
    message: str
    fields: Mapping[str, str | int] = field(default_factory=dict)


class EventLog:
    """The latest events of a sandbox."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._last_ms = 0

    def add(self, message: str, *, level: Level = "info", **fields: str | int) -> None:
        """Note that something happened now."""
        self._last_ms = max(time.time_ns() // 1_000_000, self._last_ms + 1)
        self._events.append(Event(at_ms=self._last_ms, level=level, message=message, fields=fields))

    def select(
        self,
        *,
        cursor_ms: int = 0,
        limit: int = MAX_EVENTS,
        backward: bool = False,
        level: Level = "debug",
        text: str = "",
    ) -> list[Event]:
        """Return events of at least `level` with `text` in their message (case counts).

        Args:
            cursor_ms: The first event's time at the earliest, or, when `backward`, at the latest; 0 is any.
            backward: The newest first.
        """
        severe = LEVELS[LEVELS.index(level) :]
        found = [event for event in self._events if event.level in severe and text in event.message]
        if backward:
            found = [event for event in reversed(found) if not cursor_ms or event.at_ms <= cursor_ms]
        else:
            found = [event for event in found if event.at_ms >= cursor_ms]
        return found[:limit]


def event_to_json(event: Event) -> dict[str, object]:
    """Return an item of `logs`."""
    moment = datetime.fromtimestamp(event.at_ms / 1000, timezone.utc)
    timestamp = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{event.at_ms % 1000:03d}Z"
    return {"timestamp": timestamp, "level": event.level, "message": event.message, "fields": dict(event.fields)}
