"""The control plane's routes (wire contract 1, 2)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox_tools.local.isolation import report_to_json
from sandbox_tools.local.registry import TEMPLATES, Entry, IsolationMissingError, Registry, SandboxLimitError
from sandbox_tools.local.web import RequestError, json_response, read_body, read_json, same
from sandbox_tools.wire.control import (
    MAX_TTL_S,
    RuntimeCredentials,
    create_request_from_json,
    credentials_to_json,
    sandbox_to_json,
    seconds_from_json,
)
from sandbox_tools.wire.envelope import WireError, parse_json_object
from sandbox_tools.wire.files import whole_number

DEFAULT_REFRESH_S: Final = 300
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

    def routes(self, prefix: str) -> list[Route]:
        """Return the routes under one of the roots that clients use."""
        table: list[tuple[str, str, Handler]] = [
            ("POST", "/sandboxes", self.create),
            ("GET", "/sandboxes", self.list),
            ("GET", "/sandboxes/{id}", self.detail),
            ("DELETE", "/sandboxes/{id}", self.delete),
            ("POST", "/sandboxes/{id}/connect", self.connect),
            ("POST", "/sandboxes/{id}/timeout", self.set_timeout),
            ("POST", "/sandboxes/{id}/refreshes", self.refresh),
            ("GET", "/templates", self.templates),
            ("GET", "/templates/resolve/{ref}", self.resolve_template),
            ("GET", "/templates/{ref}", self.template),
        ]
        return [Route(prefix + path, self._with_key(handler), methods=[method]) for method, path, handler in table]

    async def create(self, request: Request) -> Response:
        body = await read_body(request)
        new = create_request_from_json(parse_json_object(body, what="the body") if body else {})
        template_id = _template_id(new.template or "base")
        try:
            entry = await self._registry.create(new, template_id)
        except IsolationMissingError as error:
            report = error.report
            message = f"isolation is not available: {report.reason}. {report.remedy}"
            details: dict[str, object] = {"reason": report.reason, "remedy": report.remedy}
            problem = RequestError(503, message, details=details)
        except SandboxLimitError:
            limit = self._registry.max_sandboxes
            details = {"reason": "usage_limit", "scope": "machine", "resource": "sandbox", "metric": "concurrent"}
            details |= {"used": limit, "limit": limit, "remaining": 0, "usageEndpoint": "/usage/limits"}
            problem = RequestError(429, "sandbox limit reached", details=details)
        else:
            return json_response(self._record(entry), 201)
        raise problem

    async def list(self, request: Request) -> Response:
        wanted = {name for value in request.query_params.getlist("state") for name in value.lower().split(",") if name}
        labels = _metadata_filter(request)
        found = [
            entry
            for entry in self._registry.entries()
            if (not wanted or entry.info.state in wanted) and labels.items() <= dict(entry.info.metadata).items()
        ]
        offset, limit = _page(request)
        page = found[offset : offset + limit]
        headers = {"X-Has-Next": "true" if offset + limit < len(found) else "false"}
        if offset + limit < len(found):
            headers["X-Next-Token"] = base64.urlsafe_b64encode(str(offset + limit).encode()).decode().rstrip("=")
        return json_response([sandbox_to_json(entry.info) for entry in page], headers=headers)

    async def detail(self, request: Request) -> Response:
        entry = self._entry(request)
        return json_response({**self._record(entry), "lifecycle": {"onTimeout": "kill"}})

    async def delete(self, request: Request) -> Response:
        await self._registry.delete(self._entry(request))
        return Response(status_code=204)

    async def connect(self, request: Request) -> Response:
        """0 keeps the time to live, anything else resets it (wire contract 2.5)."""
        entry = self._entry(request)
        ttl_s = seconds_from_json(await read_json(request), "timeout", maximum=MAX_TTL_S)
        if entry.sandbox.stopped.is_set():
            raise RequestError(409, "the sandbox has stopped; its processes are gone and it cannot be resumed")
        if ttl_s:
            entry.set_ttl(ttl_s)
        return json_response(self._record(entry))

    async def set_timeout(self, request: Request) -> Response:
        """The contract leaves the meaning of 0 open; here, as in E2B, the sandbox ends now."""
        entry = self._entry(request)
        entry.set_ttl(seconds_from_json(await read_json(request), "timeout", maximum=MAX_TTL_S))
        return Response(status_code=204)

    async def refresh(self, request: Request) -> Response:
        entry = self._entry(request)
        body = await read_body(request)
        duration = DEFAULT_REFRESH_S
        if body.startswith(b"{"):  # clients send a form content type with an empty body
            message = parse_json_object(body, what="the body")
            if message.get("duration") is not None:
                duration = seconds_from_json(message, "duration", maximum=MAX_REFRESH_S)
        entry.set_ttl(duration)
        return Response(status_code=204)

    async def templates(self, _: Request) -> Response:
        return json_response([_template(name) for name in TEMPLATES])

    async def resolve_template(self, request: Request) -> Response:
        return json_response({"templateID": _template_id(request.path_params["ref"]), "public": True})

    async def template(self, request: Request) -> Response:
        template_id = _template_id(request.path_params["ref"])
        name = next(name for name, known in TEMPLATES.items() if known == template_id)
        return json_response({**_template(name), "builds": []})

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

    def _entry(self, request: Request) -> Entry:
        entry = self._registry.get(request.path_params["id"])
        if entry is None:
            raise RequestError(404, "sandbox not found")
        return entry

    def _record(self, entry: Entry) -> dict[str, object]:
        runs = entry.info.state == "running"
        envd_url = f"{self._base_url}/rt/{entry.sandbox_id}" if runs else None
        credentials = RuntimeCredentials(envd_url=envd_url, access_token=entry.access_token if runs else None)
        return {
            **sandbox_to_json(entry.info),
            **credentials_to_json(credentials),
            "isolation": report_to_json(self._registry.report),
        }


def _template_id(ref: str) -> str:
    template_id = TEMPLATES.get(ref, ref)
    if template_id not in TEMPLATES.values():
        raise RequestError(404, "template not found")
    return template_id


def _template(name: str) -> dict[str, object]:
    return {
        "templateID": TEMPLATES[name],
        "buildStatus": "ready",
        "type": name,
        "public": True,
        "names": [name],
        "aliases": [name],
    }


def _metadata_filter(request: Request) -> dict[str, str]:
    """Both forms: `metadata[app]=agent`, and one parameter with an encoded map (wire contract 2.3)."""
    labels: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name == "metadata":
            labels.update(parse_qsl(value, keep_blank_values=True))
        elif name.startswith("metadata[") and name.endswith("]"):
            labels[name[len("metadata[") : -1]] = value
    return labels


def _page(request: Request) -> tuple[int, int]:
    """Return offset and limit. The token is the offset in base64url: clients make it themselves (wire contract 1.4)."""
    limit = whole_number(request.query_params.get("limit"), default=MAX_PAGE)
    if not 1 <= limit <= MAX_PAGE:
        raise RequestError(400, f"limit must be from 1 to {MAX_PAGE}")
    token = request.query_params.get("nextToken", "")
    try:
        decoded = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode("ascii")
        offset = whole_number(decoded) if token else 0
    except (binascii.Error, ValueError, WireError):
        offset = -1
    if offset < 0:
        raise RequestError(400, "nextToken is not one that this service gave")
    return offset, limit
