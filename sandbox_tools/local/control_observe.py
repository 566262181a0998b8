"""The control plane's view of what goes on: logs, metrics, limits (wire contract 2.6 to 2.8)."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.cgroups import MEMORY_BYTES, PROCESSES
from sandbox_tools.local.entry import Entry, rfc3339
from sandbox_tools.local.eventlog import LEVELS, MAX_EVENTS, event_to_json
from sandbox_tools.local.isolation import report_to_json
from sandbox_tools.local.paging import limit_of, number_of
from sandbox_tools.local.refusals import USAGE_ENDPOINT
from sandbox_tools.local.registry import Registry
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.usage import Usage, usage_of
from sandbox_tools.local.web import RequestError, json_response

MAX_SEARCH_CHARS: Final = 256
MAX_BATCH: Final = 100

_UNKNOWN: Final = [
    "cpuIOWaitRate",
    "cpuStealRate",
    "swapTotalBytes",
    "swapFreeBytes",
    "swapCachedBytes",
    "diskReadOpsPerSecond",
    "diskWriteOpsPerSecond",
    "diskReadBytesPerSecond",
    "diskWriteBytesPerSecond",
    "networkRecvBytesPerSecond",
    "networkSentBytesPerSecond",
]
"""The kernel does not count these for one sandbox, and the machine's would be somebody else's."""

_MEASURED: Final = [
    "load1",
    "load5",
    "load15",
    "cpuUserRate",
    "cpuSystemRate",
    "memoryAvailableBytes",
    "memoryUsagePercent",
    "taskCurrent",
    "taskMax",
]


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    usage: Usage


class Observation:
    """Handlers of the routes that only look."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._samples: WeakKeyDictionary[Sandbox, _Sample] = WeakKeyDictionary()

    async def logs(self, request: Request) -> Response:
        """What the service did with a sandbox. `cursor` is a time in milliseconds, as in E2B."""
        entry = find(self._registry, request)
        query = request.query_params
        direction, level, text = query.get("direction", "forward"), query.get("level", "debug"), query.get("search", "")
        if direction not in ("forward", "backward"):
            raise RequestError(400, "direction must be forward or backward")
        if level not in LEVELS:
            raise RequestError(400, f"level must be one of {', '.join(LEVELS)}")
        if len(text) > MAX_SEARCH_CHARS:
            raise RequestError(400, f"search must have at most {MAX_SEARCH_CHARS} characters")
        events = entry.log.select(
            cursor_ms=number_of(request, "cursor", default=0, minimum=0, maximum=1 << 62),
            limit=limit_of(request, minimum=0, maximum=MAX_EVENTS),
            backward=direction == "backward",
            level=next(known for known in LEVELS if known == level),
            text=text,
        )
        diagnostic = {} if events else {"reason": "no event matches the cursor, the level and the search"}
        return json_response({"logs": [event_to_json(event) for event in events], "diagnostic": diagnostic})

    async def metrics(self, request: Request) -> Response:
        return json_response(await self._snapshot(find(self._registry, request)))

    async def metrics_of_many(self, request: Request) -> Response:
        """Of `sandbox_ids`, joined by commas; of all without."""
        limit = limit_of(request, minimum=1, maximum=MAX_BATCH)
        named = [name for value in request.query_params.getlist("sandbox_ids") for name in value.split(",") if name]
        if not named and "sandbox_ids" not in request.query_params:
            named = [entry.sandbox_id for entry in self._registry.entries()]
        items = []
        for sandbox_id in dict.fromkeys(named[:limit]):
            entry = self._registry.get(sandbox_id)
            items.append(await self._snapshot(entry) if entry else _empty(sandbox_id, "sandbox not found"))
        return json_response({"items": items})

    async def limits(self, _: Request) -> Response:
        return json_response({"limits": self._limits()})

    async def summary(self, _: Request) -> Response:
        report = self._registry.report
        actions = [] if report.level != "none" else [{"action": "isolate", "message": report.remedy}]
        full = [limit for limit in self._limits() if not limit["remaining"]]
        actions += [
            {"action": "delete_sandboxes", "message": f"the limit {limit['metric']} is reached"} for limit in full
        ]
        keys = ("used", "limit", "remaining")
        usage = {str(limit["metric"]): {key: limit[key] for key in keys} for limit in self._limits()}
        return json_response(
            {
                "status": "degraded" if actions else "ok",
                "usage": {"sandboxes": usage["concurrent"], "stored": usage["total"]},
                "endpoints": {"usageLimits": USAGE_ENDPOINT, "sandboxes": "/sandboxes", "templates": "/templates"},
                "actions": actions,
                "isolation": report_to_json(report),
            }
        )

    def _limits(self) -> list[dict[str, object]]:
        return [
            {
                "scope": "machine",
                "resource": "sandbox",
                "metric": metric,
                "used": used,
                "limit": limit,
                "remaining": max(0, limit - used),
            }
            for metric, (used, limit) in self._registry.usage().items()
        ]

    async def _snapshot(self, entry: Entry) -> dict[str, object]:
        if entry.running is None or entry.running.sandbox.stopped.is_set():
            return _empty(entry.sandbox_id, f"the sandbox is {entry.state}")
        sandbox = entry.running.sandbox
        usage = await anyio.to_thread.run_sync(usage_of, sandbox.pid)
        before = self._samples.get(sandbox, _Sample(entry.activated_at, Usage()))
        now = time.time()
        self._samples[sandbox] = _Sample(now, usage)
        elapsed = max(now - before.at, 0.001)
        load = dict(zip(("load1", "load5", "load15"), os.getloadavg(), strict=True))
        return {
            **_empty(entry.sandbox_id, None),
            **load,
            "cpuUserRate": round(max(0.0, usage.user_s - before.usage.user_s) / elapsed, 4),
            "cpuSystemRate": round(max(0.0, usage.system_s - before.usage.system_s) / elapsed, 4),
            "memoryAvailableBytes": max(0, MEMORY_BYTES - usage.memory_bytes),
            "memoryUsagePercent": round(100 * usage.memory_bytes / MEMORY_BYTES, 2),
            "taskCurrent": usage.tasks,
            "taskMax": PROCESSES,
        }


def find(registry: Registry, request: Request) -> Entry:
    """Return the sandbox that a path names.

    Raises:
        RequestError: There is none (404).
    """
    entry = registry.get(request.path_params["id"])
    if entry is None:
        raise RequestError(404, "sandbox not found")
    return entry


def _empty(sandbox_id: str, error: str | None) -> dict[str, object]:
    known = {"sandboxID": sandbox_id, "collectedAt": rfc3339(time.time()), "error": error}
    return {**known, **dict.fromkeys([*_MEASURED, *_UNKNOWN])}
