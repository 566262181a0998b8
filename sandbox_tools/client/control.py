"""The control plane: create, get, list, connect, set the time to live, delete (wire contract 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlsplit

import anyio

from sandbox_tools.client.transport import Response, Transport
from sandbox_tools.errors import (
    SandboxNotFoundError,
    SandboxProtocolError,
    SandboxResponseError,
    SandboxTimeoutError,
)
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.wire.control import NewSandbox, create_request_json, sandbox_path
from sandbox_tools.wire.envelope import WireError, parse_json_array
from sandbox_tools.wire.records import SandboxInfo, credentials_from_json, sandbox_from_json, sandboxes_from_json

CREATE_TIMEOUT_S: Final = 180.0
"""`waitReady` may take longer than an ordinary request (wire contract 2.2, 10)."""

_READY_POLL_S: Final = 0.5

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeAccess:
    """How to reach a runtime. The token is registered for redaction already."""

    envd_url: str
    access_token: Secret


class ControlPlane:
    """Client of the control plane.

    Every method raises `SandboxRequestError`; a sandbox that is not there raises `SandboxNotFoundError`.

    Args:
        base_url: API root (`wire.control.normalize_base_url`).
        registry: Where runtime tokens are registered before anything else sees them.
    """

    def __init__(self, base_url: str, api_key: Secret, registry: Registry) -> None:
        self._transport = Transport(base_url, {"X-API-Key": api_key})
        self._loopback = urlsplit(base_url).scheme == "http"
        self._registry = registry

    async def create(self, new: NewSandbox) -> tuple[SandboxInfo, RuntimeAccess]:
        """Create a sandbox and wait until it runs. Not retried: it may have happened (wire contract 1.3)."""
        operation = "create a sandbox"
        response = await self._transport.request(
            "POST", "/sandboxes", operation=operation, body=create_request_json(new), timeout_s=CREATE_TIMEOUT_S
        )
        info, access = self._record(response, operation)
        return (info, access) if access else await self._wait_ready(info.sandbox_id)

    async def get(self, sandbox_id: str) -> SandboxInfo:
        """Return what the control plane knows about a sandbox."""
        operation = "look a sandbox up"
        response = await self._sandbox_request("GET", sandbox_path(sandbox_id), operation)
        return self._record(response, operation)[0]

    async def list(self, *, state: str | None = None, metadata: Mapping[str, str] | None = None) -> list[SandboxInfo]:
        """Return the visible sandboxes, the first page (at most 100; wire contract 1.4, 2.3)."""
        operation = "list the sandboxes"
        params = {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
        if state:
            params["state"] = state
        response = await self._transport.request("GET", "/sandboxes", operation=operation, params=params)
        return _parsed(operation, lambda: sandboxes_from_json(parse_json_array(response.body, what="the list")))

    async def connect(self, sandbox_id: str, *, ttl_s: int = 0) -> tuple[SandboxInfo, RuntimeAccess]:
        """Return access to a sandbox, resuming it if it is paused.

        Args:
            ttl_s: 0 keeps its time to live; more resets it from now, in seconds (wire contract 2.5).
        """
        operation = "connect to a sandbox"
        response = await self._sandbox_request(
            "POST", sandbox_path(sandbox_id, "connect"), operation, body={"timeout": ttl_s}, timeout_s=CREATE_TIMEOUT_S
        )
        info, access = self._record(response, operation)
        return (info, access) if access else await self._wait_ready(sandbox_id)

    async def set_timeout(self, sandbox_id: str, ttl_s: int) -> None:
        """Set the time to live, in seconds from now, 0..86400 (wire contract 2.5)."""
        await self._sandbox_request(
            "POST", sandbox_path(sandbox_id, "timeout"), "extend a sandbox", body={"timeout": ttl_s}
        )

    async def delete(self, sandbox_id: str) -> bool:
        """Delete a sandbox; False when it was not there."""
        try:
            await self._sandbox_request("DELETE", sandbox_path(sandbox_id), "delete a sandbox")
        except SandboxNotFoundError:
            return False
        return True

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _sandbox_request(
        self, method: str, path: str, operation: str, *, body: object = None, timeout_s: float = 30.0
    ) -> Response:
        failure: SandboxNotFoundError | None = None
        try:
            return await self._transport.request(method, path, operation=operation, body=body, timeout_s=timeout_s)
        except SandboxResponseError as exc:
            if exc.status != 404:
                raise
            failure = SandboxNotFoundError(operation, request_id=exc.request_id)
        raise failure

    async def _wait_ready(self, sandbox_id: str) -> tuple[SandboxInfo, RuntimeAccess]:
        """Poll until the runtime can be reached (wire contract 10, minimal client)."""
        operation = "wait for a sandbox"
        with anyio.move_on_after(CREATE_TIMEOUT_S):
            while True:
                response = await self._sandbox_request("GET", sandbox_path(sandbox_id), operation)
                info, access = self._record(response, operation)
                if access and info.state == "running":
                    return info, access
                if info.state in ("stopped", "deleted"):
                    raise SandboxNotFoundError(operation)
                await anyio.sleep(_READY_POLL_S)
        raise SandboxTimeoutError(operation, CREATE_TIMEOUT_S)

    def _record(self, response: Response, operation: str) -> tuple[SandboxInfo, RuntimeAccess | None]:
        message = _parsed(operation, lambda: response.json_object("a sandbox record"))
        credentials = credentials_from_json(message)
        tokens = (credentials.access_token, credentials.traffic_token)
        secrets = [self._registry.register("SANDBOX_TOKEN", token) if token else None for token in tokens]
        info = _parsed(operation, lambda: sandbox_from_json(message))
        if not credentials.envd_url or secrets[0] is None:
            return info, None
        self._check_envd_url(credentials.envd_url, operation)
        return info, RuntimeAccess(envd_url=credentials.envd_url, access_token=secrets[0])

    def _check_envd_url(self, url: str, operation: str) -> None:
        """The runtime of a cloud sandbox is reached over https; only a local service may name http on loopback."""
        parts = urlsplit(url)
        if parts.scheme != ("http" if self._loopback else "https") or not parts.hostname or "@" in parts.netloc:
            raise SandboxProtocolError(operation, "its runtime URL is not acceptable")


def _parsed(operation: str, parse: Callable[[], ValueT]) -> ValueT:
    problem = ""
    try:
        return parse()
    except WireError as exc:
        problem = str(exc)
    raise SandboxProtocolError(operation, problem)
