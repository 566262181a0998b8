"""The control plane's routes (wire contract 1, 2)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox_tools.local.control_observe import Observation, find
from sandbox_tools.local.control_templates import Templates, machine_to_json, this_machine
from sandbox_tools.local.control_volumes import Volumes
from sandbox_tools.local.entry import DEFAULT_TTL_S, Entry, rfc3339
from sandbox_tools.local.isolation import report_to_json
from sandbox_tools.local.paging import token_page
from sandbox_tools.local.registry import Registry
from sandbox_tools.local.unsupported import ROUTES, refusing
from sandbox_tools.local.web import RequestError, json_response, read_body, read_json, same
from sandbox_tools.wire.control import MAX_TTL_S, create_request_from_json, seconds_from_json, volume_mounts_to_json
from sandbox_tools.wire.envelope import parse_json_object
from sandbox_tools.wire.network import network_rules_from_json, network_rules_to_json
from sandbox_tools.wire.records import RuntimeCredentials, credentials_to_json, sandbox_to_json

MAX_REFRESH_S: Final = 3600
MAX_PAGE: Final = 100

Handler = Callable[[Request], Awaitable[Response]]


class ControlPlane:
    """Handlers of the control plane.

    Args:
        base_url: Of this service, without a path.
    """

    def __init__(self, registry: Registry, *, api_key: str, base_url: str) -> None:
        self._registry = registry
        self._api_key = api_key
        self._base_url = base_url
        self._machine = this_machine(registry.state.directory)
        self._templates = Templates(self._machine, spawned=registry.spawned, since=time.time())
        self._observation = Observation(registry)
        self._volumes = Volumes(registry)

    def routes(self, prefix: str) -> list[Route]:
        """Return the routes under one of the roots that clients use."""
        templates, observation, volumes = self._templates, self._observation, self._volumes
        table: list[tuple[str, str, Handler]] = [
            ("POST", "/sandboxes", self.create),
            ("GET", "/sandboxes", self.list),
            ("GET", "/sandboxes/metrics", observation.metrics_of_many),
            ("GET", "/sandboxes/{id}", self.detail),
            ("DELETE", "/sandboxes/{id}", self.delete),
            ("POST", "/sandboxes/{id}/connect", self.connect),
            ("POST", "/sandboxes/{id}/pause", self.pause),
            ("POST", "/sandboxes/{id}/timeout", self.set_timeout),
            ("POST", "/sandboxes/{id}/refreshes", self.refresh),
            ("PUT", "/sandboxes/{id}/network", self.set_network),
            ("POST", "/sandboxes/{id}/heartbeat", self.heartbeat),
            ("GET", "/sandboxes/{id}/logs", observation.logs),
            ("GET", "/sandboxes/{id}/metrics", observation.metrics),
            ("GET", "/usage/limits", observation.limits),
            ("GET", "/observability/summary", observation.summary),
            ("GET", "/templates", templates.list),
            ("GET", "/templates/resolve/{ref}", templates.resolved),
            ("GET", "/templates/aliases/{ref}", templates.by_alias),
            ("GET", "/templates/{ref}", templates.detail),
            ("GET", "/volumes", volumes.list),
            ("POST", "/volumes", volumes.create),
            ("GET", "/volumes/{name}", volumes.detail),
            ("DELETE", "/volumes/{name}", volumes.delete),
            *((method, path, refusing(what)) for what, routes in ROUTES.items() for method, path in routes),
        ]
        return [Route(prefix + path, self._with_key(handler), methods=[method]) for method, path, handler in table]

    async def create(self, request: Request) -> Response:
        """`waitReady` makes no difference: the answer always comes when the sandbox runs."""
        body = await read_body(request)
        new = create_request_from_json(parse_json_object(body, what="the body") if body else {})
        entry = await self._registry.create(new, self._templates.resolve(new.template or "base"))
        return json_response(self._record(entry), 201)

    async def list(self, request: Request) -> Response:
        wanted = {name for value in request.query_params.getlist("state") for name in value.lower().split(",") if name}
        labels = _metadata_filter(request)
        found = [
            entry
            for entry in self._registry.entries()
            if (not wanted or entry.state in wanted) and labels.items() <= dict(entry.new.metadata).items()
        ]
        page, headers = token_page(request, found, maximum=MAX_PAGE)
        return json_response([self._facts(entry) for entry in page], headers=headers)

    async def detail(self, request: Request) -> Response:
        return json_response(self._record(find(self._registry, request)))

    async def delete(self, request: Request) -> Response:
        await self._registry.delete(find(self._registry, request))
        return Response(status_code=204)

    async def connect(self, request: Request) -> Response:
        """0 keeps the time to live, anything else resets it (wire contract 2.5). 201 when it was paused."""
        entry = find(self._registry, request)
        ttl_s = seconds_from_json(await read_json(request), "timeout", maximum=MAX_TTL_S)
        resumed = await self._registry.resume(entry)
        if entry.state == "stopped":
            raise RequestError(409, "the sandbox has stopped; its processes are gone and it cannot be resumed")
        if ttl_s:
            entry.set_ttl(ttl_s)
        return json_response(self._record(entry), 201 if resumed else 200)

    async def pause(self, request: Request) -> Response:
        await self._registry.pause(find(self._registry, request))
        return Response(status_code=204)

    async def set_timeout(self, request: Request) -> Response:
        """The contract leaves the meaning of 0 open; here, as in E2B, the sandbox ends now."""
        entry = find(self._registry, request)
        ttl_s = seconds_from_json(await read_json(request), "timeout", maximum=MAX_TTL_S)
        _not_paused(entry).set_ttl(ttl_s)
        return Response(status_code=204)

    async def refresh(self, request: Request) -> Response:
        entry = find(self._registry, request)
        body = await read_body(request)
        duration = DEFAULT_TTL_S
        if body:  # clients send a form content type with an empty one
            message = parse_json_object(body, what="the body")
            if message.get("duration") is not None:
                duration = seconds_from_json(message, "duration", maximum=MAX_REFRESH_S)
        _not_paused(entry).set_ttl(duration)
        return Response(status_code=204)

    async def set_network(self, request: Request) -> Response:
        """What is left out is closed, as it is on create; `allowPublicTraffic` stays as it is."""
        entry = find(self._registry, request)
        rules = network_rules_from_json(await read_json(request))
        if entry.state != "running":
            raise RequestError(409, f"the sandbox is not running: it is {entry.state}")
        self._registry.set_network(entry, rules)
        return Response(status_code=204)

    async def heartbeat(self, request: Request) -> Response:
        """In the legacy wrapper (wire contract 1.3). It is noted, and changes nothing."""
        entry = find(self._registry, request)
        status = (await read_json(request)).get("status")
        if status not in ("starting", "healthy", "error"):
            raise RequestError(400, "status must be starting, healthy or error")
        entry.log.add("heartbeat", level="warn" if status == "error" else "debug", status=str(status))
        data = {"received": True, "status": status}
        return json_response({"code": 0, "message": "success", "data": data, "request_id": secrets.token_hex(8)})

    def _with_key(self, handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            given = request.headers.get("x-api-key")
            if given is None:
                scheme, _, value = request.headers.get("authorization", "").partition(" ")
                given = value.strip() if scheme.lower() == "bearer" else ""
            if not same(given, self._api_key):
                raise RequestError(401, "a valid API key is required")
            return await handler(request)

        return checked

    def _record(self, entry: Entry) -> dict[str, object]:
        runs = entry.state == "running"
        envd_url = f"{self._base_url}/rt/{entry.sandbox_id}" if runs else None
        credentials = RuntimeCredentials(envd_url=envd_url, access_token=entry.access_token if runs else None)
        return {
            **self._facts(entry),
            **credentials_to_json(credentials),
            "lifecycle": {
                "onTimeout": "pause" if entry.new.auto_pause else "kill",
                "autoResume": entry.new.auto_resume,
            },
            "network": network_rules_to_json(entry.new.network),
            "diagnostic": _diagnostic(entry),
            "isolation": report_to_json(self._registry.report),
        }

    def _facts(self, entry: Entry) -> dict[str, object]:
        """What a list may show: no credentials."""
        return {
            **sandbox_to_json(entry.info),
            **machine_to_json(self._machine),
            "activatedAt": rfc3339(entry.activated_at),
            "volumeMounts": volume_mounts_to_json(entry.new.volume_mounts),
        }


def _not_paused(entry: Entry) -> Entry:
    """A paused sandbox keeps its files for days; who extends a running one must not shorten that unknowingly."""
    if entry.running is None:
        raise RequestError(409, "the sandbox is paused; a connect resumes it")
    return entry


def _diagnostic(entry: Entry) -> dict[str, object]:
    if entry.end_reason:
        return {"message": f"the sandbox was ended: {entry.end_reason}"}
    if not entry.lost_envs:
        return {}
    message = "the service was restarted while the sandbox was paused: the values of its envVars are gone"
    return {"message": message, "envVars": [*entry.lost_envs]}


def _metadata_filter(request: Request) -> dict[str, str]:
    """Both forms: `metadata[app]=agent`, and one parameter with an encoded map (wire contract 2.3)."""
    labels: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name == "metadata":
            labels.update(parse_qsl(value, keep_blank_values=True))
        elif name.startswith("metadata[") and name.endswith("]"):
            labels[name[len("metadata[") : -1]] = value
    return labels
