"""The runtime's small routes: /ports, /metrics, /envs, /configure (wire contract 3.4)."""

from __future__ import annotations

import os
import time
from typing import Final

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.cgroups import MEMORY_BYTES
from sandbox_tools.local.runtime_files import run_task
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.tasks import bounded
from sandbox_tools.local.usage import usage_of
from sandbox_tools.local.web import RequestError, json_response, read_json
from sandbox_tools.wire.control import environment_from_json
from sandbox_tools.wire.files import DEFAULT_WORKSPACE

MAX_PORTS: Final = 10_000
MAX_ENVS_BYTES: Final = 131_072
"""Of all variables that `/configure` and `create` gave: every process gets a copy."""

_MIB: Final = 1 << 20
_MEMORY_FILES: Final = ["/tmp", "/dev/shm"]  # noqa: S108 - paths of the sandbox
_INSIDE: Final = ("tmpfs", "disk_used", "disk", "received", "sent")


async def ports(_: Request, sandbox: Sandbox) -> Response:
    """What listens inside."""
    found: list[dict[str, object]] = []
    async with sandbox.task("ports", {}) as answer:
        await answer.header()
        while (line := await answer.line()) and len(found) < MAX_PORTS:
            address = "0.0.0.0" if line.get("address") in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104 - told, not bound
            found.append({"port": bounded(line, "port", 65_535), "protocol": "tcp", "address": address})
    return json_response(found)


async def metrics(_: Request, sandbox: Sandbox) -> Response:
    """What the sandbox uses now.

    CPU (of all CPUs, since the last call) and memory are the host's count; file systems and network what it sees
    itself. `mem_cache` are its files in memory, and part of `mem_used`. The disk is that of the workspace, as `df`
    shows it inside.
    """
    inside = await run_task(sandbox, "usage", {"home": DEFAULT_WORKSPACE, "memory": _MEMORY_FILES})
    tmpfs, disk_used, disk, received, sent = (bounded(inside, name, 1 << 62) for name in _INSIDE)
    usage = await anyio.to_thread.run_sync(usage_of, sandbox.pid)
    return json_response(
        {
            "ts": int(time.time()),
            "cpu_count": os.cpu_count() or 1,
            "cpu_used_pct": sandbox.cpu.percent(usage.user_s + usage.system_s),
            "mem_total": MEMORY_BYTES,
            "mem_used": usage.memory_bytes + tmpfs,
            "mem_total_mib": MEMORY_BYTES // _MIB,
            "mem_used_mib": (usage.memory_bytes + tmpfs) // _MIB,
            "mem_cache": tmpfs,
            "disk_used": disk_used,
            "disk_total": disk,
            "net_rx_bytes": received,
            "net_tx_bytes": sent,
        }
    )


async def envs(_: Request, sandbox: Sandbox) -> Response:
    """The environment that a new process starts from. Secret-bearing, and the contract wants it so."""
    return json_response(sandbox.envs)


async def configure(request: Request, sandbox: Sandbox) -> Response:
    """Add to the environment of processes that start from now on."""
    added = environment_from_json(await read_json(request), "envs")
    size = sum(len(name) + len(value) for name, value in {**sandbox.envs, **added}.items())
    if size > MAX_ENVS_BYTES:
        raise RequestError(413, f"the environment is larger than {MAX_ENVS_BYTES} characters")
    sandbox.add_envs(added)
    return Response(status_code=204)
