"""What goes on in sandboxes and in the account: logs, metrics, quotas (wire contract 2.6 to 2.8)."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox_tools.client.answers import ask_about, parsed
from sandbox_tools.client.transport import Transport
from sandbox_tools.wire.fields import objects
from sandbox_tools.wire.observe import (
    MAX_LOGS,
    LogLevel,
    LogPage,
    Metrics,
    Quota,
    Summary,
    logs_from_json,
    logs_query,
    metrics_from_json,
    metrics_query,
    quotas_from_json,
    summary_from_json,
)


class Observation:
    """Reads what sandboxes and the account do; `ControlPlane.observe`. Every method raises `SandboxRequestError`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def logs(
        self,
        sandbox_id: str,
        *,
        cursor: int = 0,
        limit: int = 100,
        backward: bool = False,
        level: LogLevel | None = None,
        search: str | None = None,
    ) -> LogPage:
        """Return some of a sandbox's log (wire contract 2.6).

        Args:
            cursor: Where to begin (`LogEntry.cursor`); 0: at the start, or, backward, at the end.
            limit: Entries, 0..1000.
            backward: The newest first.
            level: The least severity.
            search: Text that a message must contain, at most 256 characters.
        """
        operation = "read the log of a sandbox"
        query = logs_query(cursor=cursor, limit=min(limit, MAX_LOGS), backward=backward, level=level, search=search)
        response = await ask_about(self._transport, "GET", sandbox_id, "logs", operation=operation, params=query)
        return parsed(operation, lambda: logs_from_json(response.json_object("the log")))

    async def metrics(self, sandbox_id: str) -> Metrics:
        """Return the latest snapshot of a sandbox (wire contract 2.7)."""
        operation = "read the metrics of a sandbox"
        response = await ask_about(self._transport, "GET", sandbox_id, "metrics", operation=operation)
        return parsed(operation, lambda: metrics_from_json(response.json_object("the metrics")))

    async def metrics_of(self, sandbox_ids: Sequence[str] = (), *, limit: int = 100) -> tuple[Metrics, ...]:
        """Return the latest snapshots of several sandboxes; without ids of all visible ones (wire contract 2.7)."""
        operation = "read the metrics of the sandboxes"
        response = await self._transport.request(
            "GET", "/sandboxes/metrics", operation=operation, params=metrics_query(tuple(sandbox_ids), limit)
        )
        return parsed(
            operation,
            lambda: tuple(metrics_from_json(item) for item in objects(response.json_object("the metrics"), "items")),
        )

    async def usage_limits(self) -> tuple[Quota, ...]:
        """Return how much of the account's limits is used (wire contract 2.8)."""
        operation = "read the usage limits"
        response = await self._transport.request("GET", "/usage/limits", operation=operation)
        return parsed(operation, lambda: quotas_from_json(response.json_object("the usage limits")))

    async def summary(self) -> Summary:
        """Return the caller's usage, the endpoints that are there, and suggested actions (wire contract 2.8)."""
        operation = "read the summary"
        response = await self._transport.request("GET", "/observability/summary", operation=operation)
        return parsed(operation, lambda: summary_from_json(response.json_object("the summary")))
