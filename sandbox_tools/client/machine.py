"""The small routes of a runtime: health, ports, metrics, environment, one blocking program (wire contract 3.4, 3.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sandbox_tools.client.answers import parsed
from sandbox_tools.client.transport import Transport
from sandbox_tools.errors import SandboxRequestError, SandboxResponseError
from sandbox_tools.wire.envelope import parse_json_array
from sandbox_tools.wire.machine import (
    ListeningPort,
    RunResult,
    RuntimeMetrics,
    environment_names_from_json,
    metrics_from_json,
    ports_from_json,
    run_request_json,
    run_result_from_json,
)

_MARGIN_S: Final = 10.0
"""The server's answer may come this much after the deadline that it was given."""


class RemoteMachine:
    """What a runtime tells of itself. Every method raises `SandboxRequestError` (see errors.py)."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def is_healthy(self) -> bool:
        """Tell whether the runtime answers. Never raises a SandboxRequestError."""
        try:
            await self._transport.request("GET", "/health", operation="ask for the health", timeout_s=5)
        except SandboxRequestError:
            return False
        return True

    async def ports(self) -> tuple[ListeningPort, ...] | None:
        """Return the listening TCP ports, or None when the runtime has no `/ports` (it is not in every one, 3.4)."""
        operation = "list the ports"
        try:
            response = await self._transport.request("GET", "/ports", operation=operation)
        except SandboxResponseError as exc:
            if exc.status not in (404, 501):
                raise
            return None
        return parsed(operation, lambda: ports_from_json(parse_json_array(response.body, what="an answer")))

    async def metrics(self) -> RuntimeMetrics:
        """Return what the sandbox uses now."""
        operation = "read the metrics"
        response = await self._transport.request("GET", "/metrics", operation=operation)
        return parsed(operation, lambda: metrics_from_json(response.json_object("an answer")))

    async def environment_names(self) -> tuple[str, ...]:
        """Return the names of the variables that a new process starts with. Their values include secrets and stay in
        the sandbox; a process can read its own."""
        operation = "list the environment"
        response = await self._transport.request("GET", "/envs", operation=operation)
        return parsed(operation, lambda: environment_names_from_json(response.json_object("an answer")))

    async def add_environment(self, envs: Mapping[str, str]) -> None:
        """Add variables to the environment of processes that start from now on (`/configure`)."""
        await self._transport.request(
            "POST", "/configure", operation="add to the environment", body={"envs": dict(envs)}
        )

    async def run(
        self,
        cmd: str,
        args: Sequence[str] = (),
        *,
        cwd: str | None = None,
        envs: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout_s: float,
    ) -> RunResult:
        """Run a program, not a shell line, and return all of its output at the end.

        For short programs with little output, and for runtimes without the process RPCs. `RemoteRuntime.exec` streams
        its output, and a cancelled one ends its processes; a cancelled `/run` goes on in the sandbox until `timeout_s`.
        """
        operation = "run a program"
        body = run_request_json(
            cmd, args, cwd=cwd, envs=envs or {}, timeout_ms=max(int(timeout_s * 1000), 1), stdin=stdin
        )
        response = await self._transport.request(
            "POST", "/run", operation=operation, body=body, timeout_s=timeout_s + _MARGIN_S
        )
        return parsed(operation, lambda: run_result_from_json(response.json_object("an answer")))
