"""The control plane's templates, read-only (wire contract 2.10).

All are the same here, this machine's programs and Python, under the names that clients ask for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.cgroups import MEMORY_BYTES
from sandbox_tools.local.entry import rfc3339
from sandbox_tools.local.layout import environment
from sandbox_tools.local.paging import limit_of, offset_of
from sandbox_tools.local.web import RequestError, json_response

MAX_PAGE: Final = 100
BUILD_ID: Final = "build-local"
_TAG: Final = "latest"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a sandbox has of this machine, in the units of the contract."""

    cpu_count: int
    memory_mb: int
    disk_mb: int


def this_machine(state: Path) -> Machine:
    """Return the sizes of a sandbox. It has no share of its own of the disk: that is the whole disk's."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cpu_count=len(os.sched_getaffinity(0)),
        memory_mb=min(MEMORY_BYTES, memory) >> 20,
        disk_mb=shutil.disk_usage(state).total >> 20,
    )


def machine_to_json(machine: Machine) -> dict[str, int]:
    """Return the fields that records and templates have."""
    return {"cpuCount": machine.cpu_count, "memoryMB": machine.memory_mb, "diskSizeMB": machine.disk_mb}


def official_types() -> tuple[str, ...]:
    """Return the names of the templates; `node` where sandboxes have one."""
    node = shutil.which("node", path=environment()["PATH"])
    has_node = node is not None and PurePosixPath(os.path.realpath(node)).is_relative_to("/usr")
    return ("base", "code-interpreter", *(("node",) if has_node else ()))


class Templates:
    """Handlers of the template routes.

    Args:
        spawned: Gives how many sandboxes of a template there were, and when the last began (Unix time in seconds).
        since: When the service started.
    """

    def __init__(self, machine: Machine, *, spawned: Callable[[str], tuple[int, float]], since: float) -> None:
        self._ids = {name: f"tpl-{name}-local" for name in official_types()}
        self._machine = machine
        self._spawned = spawned
        self._since = rfc3339(since)

    def resolve(self, ref: str) -> str:
        """Return the id of a template: by id, type, `name:latest` or `name:build`.

        Raises:
            RequestError: There is none (404).
        """
        name, _, tag = ref.partition(":")
        template_id = self._ids.get(name, name)
        if template_id not in self._ids.values() or (tag or _TAG) not in (_TAG, BUILD_ID) or ref.endswith(":"):
            raise RequestError(404, "template not found")
        return template_id

    async def list(self, request: Request) -> Response:
        """Every template here is official."""
        visibility = request.query_params.get("visibility", "official")
        if visibility not in ("personal", "team", "official"):
            raise RequestError(400, "visibility must be personal, team or official")
        limit = limit_of(request, minimum=0, maximum=MAX_PAGE)
        offset = offset_of(request)
        found = [self._item(name) for name in self._ids] if visibility == "official" else []
        return json_response(found[offset : offset + limit])

    async def resolved(self, request: Request) -> Response:
        return json_response({"templateID": self.resolve(request.path_params["ref"]), "public": True})

    async def by_alias(self, request: Request) -> Response:
        """A name only, not an id or a tag."""
        alias = request.path_params["ref"]
        if alias not in self._ids:
            raise RequestError(404, "template alias not found")
        return json_response({"templateID": self._ids[alias], "public": True})

    async def detail(self, request: Request) -> Response:
        limit_of(request, minimum=0, maximum=MAX_PAGE)
        template_id = self.resolve(request.path_params["ref"])
        name = next(name for name, known in self._ids.items() if known == template_id)
        return json_response(
            {**self._item(name), "builds": [self._build()], "visibility": "official", "extensions": {}}
        )

    def _item(self, name: str) -> dict[str, object]:
        count, last = self._spawned(self._ids[name])
        return {
            "templateID": self._ids[name],
            "buildID": BUILD_ID,
            "buildStatus": "ready",
            "type": name,
            "version": "local",
            "public": True,
            "names": [name],
            "aliases": [name],
            **machine_to_json(self._machine),
            "createdBy": None,
            "createdAt": self._since,
            "updatedAt": self._since,
            "lastSpawnedAt": rfc3339(last) if count else None,
            "spawnCount": count,
            "buildCount": 1,
        }

    def _build(self) -> dict[str, object]:
        times = dict.fromkeys(("createdAt", "updatedAt", "finishedAt"), self._since)
        return {"buildID": BUILD_ID, "status": "ready", **times, **machine_to_json(self._machine)}
