"""Routes of the control plane that only SeaCloud has (wire contract 2.10, 2.11). Who calls one is told so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.web import RequestError

_BUILD: Final = "/templates/{ref}/builds/{build}"

ROUTES: Final = {
    "building and changing templates": [
        ("POST", "/templates"),
        ("POST", "/templates/tags"),
        ("DELETE", "/templates/tags"),
        ("PATCH", "/templates/{ref}"),
        ("DELETE", "/templates/{ref}"),
        ("POST", "/templates/{ref}/rollback"),
        ("GET", "/templates/{ref}/tags"),
        ("GET", "/templates/{ref}/files/{hash}"),
        ("GET", "/templates/{ref}/builds"),
        ("POST", "/templates/{ref}/builds"),  # of older clients (quirk 22)
        ("POST", _BUILD),
        ("GET", _BUILD),
        ("GET", f"{_BUILD}/status"),
        ("GET", f"{_BUILD}/logs"),
    ],
    "events and webhooks": [(method, "/events/{rest:path}") for method in ("GET", "POST", "PATCH", "DELETE")],
    "teams": [("GET", "/teams"), ("GET", "/teams/{rest:path}")],
}
"""By what they are for."""


def refusing(what: str) -> Callable[[Request], Awaitable[Response]]:
    """Return a handler that says that there is no such thing here."""

    async def refuse(_: Request) -> Response:
        raise RequestError(404, f"not supported locally: {what} (SeaCloud only)")

    return refuse
