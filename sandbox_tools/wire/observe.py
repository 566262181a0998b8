"""What the control plane tells about sandboxes at work: logs, metrics, quotas (wire contract 2.6 to 2.8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Final, Literal

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.fields import mapping, moment, number, objects, text

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)

LogLevel = Literal["debug", "info", "warn", "error"]

MAX_LOGS: Final = 1000
"""Entries of one answer (wire contract 2.6)."""

MAX_SEARCH_CHARS: Final = 256
"""Of the text that log messages are searched for (wire contract 2.6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One line of a sandbox's log. Programs can write to it: redact before use.

    Attributes:
        timestamp: RFC 3339 UTC.
        level: debug, info, warn or error.
        fields: More facts, of no fixed shape.
    """

    timestamp: str
    level: str
    message: str
    fields: Mapping[str, object] = field(default_factory=dict)

    @property
    def cursor(self) -> int | None:
        """Its place, to read on from: Unix time in milliseconds; None when its timestamp is not one."""
        at = moment(self.timestamp)
        return None if at is None else max(0, (at - _EPOCH) // timedelta(milliseconds=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """Some of the log.

    Attributes:
        diagnostic: Why there are none, in the service's words and shape; empty when it does not say.
    """

    entries: tuple[LogEntry, ...]
    diagnostic: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A snapshot of a sandbox's machine. What the service does not measure is None (wire contract 2.7).

    Attributes:
        collected_at: RFC 3339 UTC.
        error: Why there is no snapshot, in the service's words; "" when there is one.
        load1: Load average over 1 minute; `load5` and `load15` over 5 and 15.
        cpu_user_rate: Processors in use by programs: 0.5 is half of one; so are the other `cpu_` rates, for the
            kernel, waiting for disks, and taken by other machines.
        memory_available_bytes: Free for programs.
        memory_usage_percent: 0 to 100.
        task_current: Processes and threads.
        task_max: How many there may be.
    """

    sandbox_id: str
    collected_at: str = ""
    error: str = ""
    load1: float | None = None
    load5: float | None = None
    load15: float | None = None
    cpu_user_rate: float | None = None
    cpu_system_rate: float | None = None
    cpu_io_wait_rate: float | None = None
    cpu_steal_rate: float | None = None
    memory_available_bytes: float | None = None
    memory_usage_percent: float | None = None
    swap_total_bytes: float | None = None
    swap_free_bytes: float | None = None
    swap_cached_bytes: float | None = None
    disk_read_ops_per_second: float | None = None
    disk_write_ops_per_second: float | None = None
    disk_read_bytes_per_second: float | None = None
    disk_write_bytes_per_second: float | None = None
    network_recv_bytes_per_second: float | None = None
    network_sent_bytes_per_second: float | None = None
    task_current: float | None = None
    task_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much of one limit of the account is used; in the metric's unit.

    Attributes:
        scope: Whose limit ("project").
        resource: What is limited ("sandbox").
        metric: How it is counted ("concurrent").
    """

    scope: str
    resource: str
    metric: str
    used: float | None
    limit: float | None
    remaining: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The caller's own view of the service. Only the names are documented, not what is in them (wire contract 2.8).

    Attributes:
        status: In the service's words ("ok").
        usage: Of quotas.
        endpoints: Which are there.
        actions: What the service suggests to do.
    """

    status: str
    usage: Mapping[str, object] = field(default_factory=dict)
    endpoints: Mapping[str, object] = field(default_factory=dict)
    actions: tuple[Mapping[str, object], ...] = ()


def logs_from_json(message: Mapping[str, object]) -> LogPage:
    """Read the answer of `/sandboxes/{id}/logs`."""
    return LogPage(
        entries=tuple(
            LogEntry(
                timestamp=text(entry, "timestamp"),
                level=text(entry, "level"),
                message=text(entry, "message"),
                fields=mapping(entry, "fields"),
            )
            for entry in objects(message, "logs")
        ),
        diagnostic=mapping(message, "diagnostic"),
    )


_NUMBERS: Final = {
    "load1": "load1",
    "load5": "load5",
    "load15": "load15",
    "cpu_user_rate": "cpuUserRate",
    "cpu_system_rate": "cpuSystemRate",
    "cpu_io_wait_rate": "cpuIOWaitRate",
    "cpu_steal_rate": "cpuStealRate",
    "memory_available_bytes": "memoryAvailableBytes",
    "memory_usage_percent": "memoryUsagePercent",
    "swap_total_bytes": "swapTotalBytes",
    "swap_free_bytes": "swapFreeBytes",
    "swap_cached_bytes": "swapCachedBytes",
    "disk_read_ops_per_second": "diskReadOpsPerSecond",
    "disk_write_ops_per_second": "diskWriteOpsPerSecond",
    "disk_read_bytes_per_second": "diskReadBytesPerSecond",
    "disk_write_bytes_per_second": "diskWriteBytesPerSecond",
    "network_recv_bytes_per_second": "networkRecvBytesPerSecond",
    "network_sent_bytes_per_second": "networkSentBytesPerSecond",
    "task_current": "taskCurrent",
    "task_max": "taskMax",
}
"""Ours -> the wire's."""


def metrics_from_json(message: Mapping[str, object]) -> Metrics:
    """Read one snapshot.

    Raises:
        WireError: It names no sandbox.
    """
    if not text(message, "sandboxID"):
        raise WireError("a snapshot of metrics has no sandboxID")
    return Metrics(
        sandbox_id=text(message, "sandboxID"),
        collected_at=text(message, "collectedAt"),
        error=text(message, "error"),
        **{ours: number(message, theirs) for ours, theirs in _NUMBERS.items()},
    )


def quotas_from_json(message: Mapping[str, object]) -> tuple[Quota, ...]:
    """Read the answer of `/usage/limits`, as far as it has the names of the 429 answer (wire contract 2.8, 2.9)."""
    return tuple(
        Quota(
            scope=text(item, "scope"),
            resource=text(item, "resource"),
            metric=text(item, "metric"),
            used=number(item, "used"),
            limit=number(item, "limit"),
            remaining=number(item, "remaining"),
        )
        for item in objects(message, "limits")
    )


def summary_from_json(message: Mapping[str, object]) -> Summary:
    """Read the answer of `/observability/summary`."""
    return Summary(
        status=text(message, "status"),
        usage=mapping(message, "usage"),
        endpoints=mapping(message, "endpoints"),
        actions=objects(message, "actions"),
    )


def metrics_query(sandbox_ids: tuple[str, ...], limit: int) -> dict[str, str]:
    """Return the query of `/sandboxes/metrics`; without ids: of all visible ones."""
    return {"limit": str(limit), **({"sandbox_ids": ",".join(sandbox_ids)} if sandbox_ids else {})}


def logs_query(
    *, cursor: int, limit: int, backward: bool, level: LogLevel | None, search: str | None
) -> dict[str, str]:
    """Return the query of `/sandboxes/{id}/logs`. A cursor of 0 is left out: not every service takes it (2.6)."""
    query = {"limit": str(limit), "direction": "backward" if backward else "forward"}
    return (
        query
        | ({"cursor": str(cursor)} if cursor else {})
        | ({"level": level} if level else {})
        | ({"search": search} if search else {})
    )
