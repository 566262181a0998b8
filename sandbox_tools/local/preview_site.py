"""Which preview a request is for, and who may see it (wire contract 5).

A preview has two addresses. `/rt/{id}/proxy/{port}/` is the documented one, for programs; it shares its origin with our
own routes, so a browser that opens a page there is sent to the other: `http://{port}-{id}.localhost:PORT/`, an origin
of its own. There absolute paths and cookies work, and a page can neither script another preview nor read our routes.
Every name below `localhost` is this machine for a browser, without any name server.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from sandbox_tools.local.entry import Entry
from sandbox_tools.local.preview import NotServedError, Target
from sandbox_tools.local.registry import Registry
from sandbox_tools.local.web import RequestError, same, wire_error
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.preview import parse_port

_LABEL: Final = re.compile(r"([0-9]{1,5})-([a-z0-9-]{1,56})\.localhost:([0-9]{1,5})")
_TOKEN_HEADERS: Final = ("x-access-token", "e2b-traffic-access-token")
_SHARED_ORIGIN: Final = {
    # Browsers that do not say that they navigate: what they show gets no origin at all.
    "content-security-policy": "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads",
    "x-content-type-options": "nosniff",
}
_PAGE: Final = """<!doctype html><meta charset="utf-8"><title>Preview</title>
<style>body{font:16px system-ui;max-width:40em;margin:4em auto;padding:0 1em}</style>
<h1>Nothing to see yet</h1><p>%s.</p><p>Start a server on this port in the sandbox, then reload.</p>
"""


@dataclass(frozen=True, slots=True)
class Preview:
    """A request for a preview.

    Attributes:
        sandbox_id: As the request has it; there may be no such sandbox.
        target: The port, and what is asked of it.
    """

    sandbox_id: str
    target: Target


class PreviewSite:
    """All previews of a service.

    Args:
        port: Of the service.
        hosts: Names under which the service itself is asked (the Host header).
        secrets: Must not reach an app in any header.
    """

    def __init__(self, registry: Registry, *, port: int, hosts: Collection[str], secrets: Collection[str]) -> None:
        self._registry = registry
        self._port = port
        self._hosts = hosts
        self._secrets = tuple(secrets)

    def has_own_origin(self, scope: Scope) -> bool:
        """Whether a request came to the origin of a preview."""
        return self._label(_host(scope)) is not None

    def find(self, scope: Scope) -> Preview | None:
        """Return what a request asks of which preview, or None if it is not for one.

        Raises:
            WireError: The port is not one.
        """
        host, query = _host(scope), scope["query_string"]
        raw: bytes = scope["raw_path"]
        question = b"?" + query if query else b""
        if label := self._label(host):
            return Preview(label[2], Target(parse_port(label[1]), raw + question, host))
        parts = raw.split(b"/", 5)  # "", rt, id, proxy, port, rest
        if host not in self._hosts or len(parts) < 5 or parts[1] != b"rt" or parts[3] != b"proxy":
            return None
        prefix = b"/".join(parts[:5]).decode("latin-1")
        rest = b"/" + (parts[5] if len(parts) > 5 else b"") + question
        return Preview(parts[2].decode("latin-1"), Target(parse_port(parts[4].decode("latin-1")), rest, host, prefix))

    async def admit(self, preview: Preview, request: Request) -> Entry:
        """Return the running sandbox of a preview. Open to who knows its id, unless its previews are private.

        Raises:
            RequestError: There is none, it does not run (404), or a token is missing (403).
        """
        entry = self._registry.get(preview.sandbox_id)
        if entry is None:
            raise RequestError(404, "sandbox not found")
        if entry.new.network.public_previews is False and not _has_token(request, entry):
            message = "Token header 'e2b-traffic-access-token' is missing or wrong"
            raise RequestError(403, message, extra={"sandboxId": entry.sandbox_id})
        if entry.state != "running":  # nor does it resume it: no token is needed here, and the servers are gone
            state = "has stopped" if entry.state == "stopped" else f"is {entry.state}"
            raise RequestError(404, f"the sandbox {state}; its servers are gone")
        return entry

    def secrets_of(self, entry: Entry) -> tuple[str, ...]:
        """What no app may see, of this sandbox."""
        return (*self._secrets, entry.access_token)

    async def answer(self, request: Request) -> Response:
        """Answer an HTTP request for a preview.

        Raises:
            RequestError, WireError: It is refused, or nothing answers.
        """
        preview = self.find(request.scope)
        if preview is None:
            raise RequestError(404, "no such route")
        entry = await self.admit(preview, request)
        target = target_of(preview, request, entry)
        if target.shares_origin:
            if request.headers.get("sec-fetch-mode") == "navigate" and request.method in ("GET", "HEAD"):
                return self._to_own_origin(entry, target)
            if "service-worker" in request.headers:
                raise RequestError(403, "a service worker would see our own routes")
        try:
            response = await entry.previews.forward(request, target, hidden=self.secrets_of(entry))
        except NotServedError as error:
            return _not_served(request, entry, error)
        if target.shares_origin:
            response.headers.update(_SHARED_ORIGIN)
        return response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the origins of previews, as an ASGI application."""
        request = Request(scope, receive)
        try:
            response = await self.answer(request)
        except RequestError as error:
            response = error.response()
        except WireError as error:
            response = wire_error(request, error)
        await response(scope, receive, send)

    def _label(self, host: str) -> re.Match[str] | None:
        match = _LABEL.fullmatch(host)
        return match if match and match[3] == str(self._port) else None

    def _to_own_origin(self, entry: Entry, target: Target) -> Response:
        host = f"{target.port}-{entry.sandbox_id}.localhost:{self._port}"
        url = f"http://{host}{target.path.decode('latin-1')}"
        return RedirectResponse(url, 302, headers={"Cache-Control": "no-store"})


def target_of(preview: Preview, request: Request, entry: Entry) -> Target:
    """Return what a request that was admitted asks for: who has the token is no page, and may have its cookies."""
    return replace(preview.target, trusted=_has_token(request, entry))


def _host(scope: Scope) -> str:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers.get(b"host", b"").decode("latin-1").lower()


def _has_token(request: Request, entry: Entry) -> bool:
    return any(same(request.headers.get(name, ""), entry.access_token) for name in _TOKEN_HEADERS)


def _not_served(request: Request, entry: Entry, error: NotServedError) -> Response:
    if request.headers.get("sec-fetch-mode") == "navigate":
        return HTMLResponse(_PAGE % str(error), 502, {"Content-Security-Policy": "default-src 'unsafe-inline'"})
    extra = {"sandboxId": entry.sandbox_id, "port": error.port}
    return RequestError(502, str(error), extra=extra).response()
