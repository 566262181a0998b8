"""The control plane: the life of sandboxes (wire contract 2.1 to 2.5); the rest of it hangs below."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import anyio

from sandbox_tools.client.answers import ask_about, parsed, traceless
from sandbox_tools.client.builds import Builds
from sandbox_tools.client.events import Events
from sandbox_tools.client.observe import Observation
from sandbox_tools.client.response import Response
from sandbox_tools.client.teams import Teams
from sandbox_tools.client.templates import Templates
from sandbox_tools.client.transport import Transport
from sandbox_tools.client.volumes import Volumes
from sandbox_tools.client.webhooks import Webhooks
from sandbox_tools.errors import (
    SandboxNotFoundError,
    SandboxProtocolError,
    SandboxResponseError,
    SandboxTimeoutError,
)
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.wire.control import NewSandbox, create_request_json
from sandbox_tools.wire.envelope import parse_json_array
from sandbox_tools.wire.listing import MAX_PAGE, MetadataForm, SandboxPage, list_query, next_token_of
from sandbox_tools.wire.network import NetworkRules, network_rules_to_json
from sandbox_tools.wire.records import SandboxInfo, credentials_from_json, sandbox_from_json, sandboxes_from_json

CREATE_TIMEOUT_S: Final = 180.0
"""`waitReady` may take longer than an ordinary request (wire contract 2.2, 10)."""

MAX_LISTED: Final = 10_000
"""Sandboxes that `list_all` gives at most: a service that always names a next page must not keep a caller forever."""

_READY_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeAccess:
    """How to reach a runtime. The token is registered for redaction already.

    Attributes:
        traffic_token: What private previews ask for, where the service has a token of its own for them.
        resumed: The sandbox was paused, and was resumed for this (201 of connect).
    """

    envd_url: str
    access_token: Secret
    traffic_token: Secret | None = None
    resumed: bool = False


class ControlPlane:
    """Client of the control plane.

    Every method raises `SandboxRequestError`; a sandbox that is not there raises `SandboxNotFoundError`. What is not
    safe to do twice is sent once (wire contract 1.3).

    Args:
        base_url: API root (`wire.control.normalize_base_url`).
        registry: Where runtime tokens are registered before anything else sees them.

    Attributes:
        observe: Logs, metrics, quotas.
        templates: What sandboxes are made from.
        builds: How templates are made.
        volumes: Directories that outlive sandboxes.
        events: What happened to sandboxes.
        webhooks: Whom the service tells of events.
        teams: Teams of the caller, and how much they use.
    """

    def __init__(self, base_url: str, api_key: Secret, registry: Registry) -> None:
        self._transport = Transport(base_url, {"X-API-Key": api_key})
        self._loopback = urlsplit(base_url).scheme == "http"
        self._registry = registry
        self.observe: Final = Observation(self._transport)
        self.templates: Final = Templates(self._transport)
        self.builds: Final = Builds(self._transport, registry, loopback=self._loopback)
        self.volumes: Final = Volumes(self._transport)
        self.events: Final = Events(self._transport)
        self.webhooks: Final = Webhooks(self._transport, registry)
        self.teams: Final = Teams(self._transport, registry)

    async def create(self, new: NewSandbox) -> tuple[SandboxInfo, RuntimeAccess]:
        """Create a sandbox and wait until it runs. Not retried: it may have happened (wire contract 1.3)."""
        return await traceless(lambda: self._create(new))

    async def _create(self, new: NewSandbox) -> tuple[SandboxInfo, RuntimeAccess]:
        operation = "create a sandbox"
        response = await self._transport.request(
            "POST", "/sandboxes", operation=operation, body=create_request_json(new), timeout_s=CREATE_TIMEOUT_S
        )
        info, access = self._record(response, operation)
        return (info, access) if access else await self._wait_ready(info.sandbox_id)

    async def get(self, sandbox_id: str) -> SandboxInfo:
        """Return what the control plane knows about a sandbox (wire contract 2.4)."""
        return await traceless(lambda: self._get(sandbox_id))

    async def _get(self, sandbox_id: str) -> SandboxInfo:
        operation = "look a sandbox up"
        response = await ask_about(self._transport, "GET", sandbox_id, operation=operation)
        return self._record(response, operation)[0]

    async def list(
        self,
        *,
        states: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
        limit: int = MAX_PAGE,
        next_token: str | None = None,
        metadata_form: MetadataForm = "brackets",
    ) -> SandboxPage:
        """Return one page of the visible sandboxes (wire contract 1.4, 2.3).

        Args:
            states: Lower case, such as "running"; none: all.
            metadata: Labels that a sandbox must have, all of them.
            limit: Sandboxes of the page, 1..100.
            next_token: Of the page before.
            metadata_form: How to send the labels.
        """
        labels = metadata or {}
        page = await self._page(list_query(states, labels, limit, next_token, metadata_form), limit, next_token)
        return replace(page, items=tuple(_with_labels(page.items, labels)))

    async def list_all(
        self,
        *,
        states: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
        limit: int = MAX_PAGE,
        metadata_form: MetadataForm = "brackets",
        max_items: int = MAX_LISTED,
    ) -> AsyncIterator[SandboxInfo]:
        """Yield the visible sandboxes of all pages, each one once, among `max_items`; the rest as for `list`."""
        labels = metadata or {}
        seen: set[str] = set()
        token: str | None = None
        while len(seen) < max_items:
            page = await self._page(list_query(states, labels, limit, token, metadata_form), limit, token)
            new = [info for info in page.items if info.sandbox_id not in seen][: max_items - len(seen)]
            seen |= {info.sandbox_id for info in new}
            for info in _with_labels(new, labels):
                yield info
            token = page.next_token
            if token is None or not new:
                return

    async def connect(self, sandbox_id: str, *, ttl_s: int = 0) -> tuple[SandboxInfo, RuntimeAccess]:
        """Return access to a sandbox, resuming it if it is paused, waiting for it if it is starting.

        Args:
            ttl_s: 0 keeps its time to live; more resets it from now, in seconds (wire contract 2.5).
        """
        return await traceless(lambda: self._connect(sandbox_id, ttl_s))

    async def _connect(self, sandbox_id: str, ttl_s: int) -> tuple[SandboxInfo, RuntimeAccess]:
        operation = "connect to a sandbox"
        response: Response | None = None
        try:
            response = await ask_about(
                self._transport,
                "POST",
                sandbox_id,
                "connect",
                operation=operation,
                body={"timeout": ttl_s},
                timeout_s=CREATE_TIMEOUT_S,
                safe=True,
            )
        except SandboxResponseError as exc:
            if exc.status != 409:  # it is still starting (wire contract 2.5)
                raise
        info, access = self._record(response, operation) if response else (None, None)
        if info is None or access is None:
            info, access = await self._wait_ready(sandbox_id)
        return info, replace(access, resumed=response is not None and response.status == 201)

    async def pause(self, sandbox_id: str) -> None:
        """Pause a sandbox; `connect` resumes it. One that does not run is a conflict (409)."""
        await ask_about(self._transport, "POST", sandbox_id, "pause", operation="pause a sandbox")

    async def set_timeout(self, sandbox_id: str, ttl_s: int) -> None:
        """Set the time to live, in seconds from now, 0..86400 (wire contract 2.5)."""
        operation = "extend a sandbox"
        body = {"timeout": ttl_s}
        await ask_about(self._transport, "POST", sandbox_id, "timeout", operation=operation, body=body, safe=True)

    async def refresh(self, sandbox_id: str, duration_s: int | None = None) -> None:
        """Set the time to live to `duration_s` seconds from now, 0..3600; None: the service's default (2.5)."""
        body = None if duration_s is None else {"duration": duration_s}
        await ask_about(self._transport, "POST", sandbox_id, "refreshes", operation="refresh a sandbox", body=body)

    async def set_network(self, sandbox_id: str, rules: NetworkRules) -> None:
        """Replace what a running sandbox may reach (wire contract 2.1). What is not said is the service's default."""
        await ask_about(
            self._transport,
            "PUT",
            sandbox_id,
            "network",
            operation="change the network of a sandbox",
            body=network_rules_to_json(rules),
            safe=True,
        )

    async def delete(self, sandbox_id: str) -> bool:
        """Delete a sandbox; False when it was not there."""
        try:
            await ask_about(self._transport, "DELETE", sandbox_id, operation="delete a sandbox")
        except SandboxNotFoundError:
            return False
        return True

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _page(self, query: Mapping[str, str], limit: int, token: str | None) -> SandboxPage:
        operation = "list the sandboxes"
        response = await self._transport.request("GET", "/sandboxes", operation=operation, params=query)
        found = parsed(operation, lambda: sandboxes_from_json(parse_json_array(response.body, what="the list")))
        next_token = next_token_of(response.headers, count=len(found), limit=limit, after=token)
        return SandboxPage(items=tuple(found), next_token=next_token)

    async def _wait_ready(self, sandbox_id: str) -> tuple[SandboxInfo, RuntimeAccess]:
        """Poll until the runtime can be reached (wire contract 10, minimal client)."""
        operation = "wait for a sandbox"
        with anyio.move_on_after(CREATE_TIMEOUT_S):
            while True:
                response = await ask_about(self._transport, "GET", sandbox_id, operation=operation)
                info, access = self._record(response, operation)
                if access and info.state == "running":
                    return info, access
                if info.state in ("stopped", "deleted"):
                    raise SandboxNotFoundError(operation)
                await anyio.sleep(_READY_POLL_S)
        raise SandboxTimeoutError(operation, CREATE_TIMEOUT_S)

    def _record(self, response: Response, operation: str) -> tuple[SandboxInfo, RuntimeAccess | None]:
        message = parsed(operation, lambda: response.json_object("a sandbox record"))
        credentials = credentials_from_json(message)
        tokens = (credentials.access_token, credentials.traffic_token)
        secrets = [self._registry.register("SANDBOX_TOKEN", token) if token else None for token in tokens]
        info = parsed(operation, lambda: sandbox_from_json(message))
        if not credentials.envd_url or secrets[0] is None:
            return info, None
        self._check_envd_url(credentials.envd_url, operation)
        access = RuntimeAccess(envd_url=credentials.envd_url, access_token=secrets[0], traffic_token=secrets[1])
        return info, access

    def _check_envd_url(self, url: str, operation: str) -> None:
        """The runtime of a cloud sandbox is reached over https; only a local service may name http on loopback."""
        if not _is_acceptable(url, "http" if self._loopback else "https"):
            raise SandboxProtocolError(operation, "its runtime URL is not acceptable")


def _with_labels(found: Iterable[SandboxInfo], labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
    """A service that does not know a form of the labels lists all: who deletes what is listed must not get those."""
    return (info for info in found if labels.items() <= info.metadata.items())


def _is_acceptable(url: str, scheme: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == scheme and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        return False
