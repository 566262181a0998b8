"""The service's routes: the control plane under every root that clients use, and the runtimes."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from sandbox_tools.local.control import ControlPlane
from sandbox_tools.local.egress import NoNetworkError
from sandbox_tools.local.errors import RegistryError
from sandbox_tools.local.preview_site import PreviewSite
from sandbox_tools.local.refusals import refusal
from sandbox_tools.local.registry import Registry
from sandbox_tools.local.runtime_api import RuntimeApi
from sandbox_tools.local.web import Guard, RequestError, http_error, machine_error, request_error, wire_error
from sandbox_tools.local.websocket import WebSockets
from sandbox_tools.wire.envelope import WireError

ROOTS: Final = ("", "/api/v1", "/api/v1/sandbox", "/api/sandbox/v1")
"""Clients append their routes to different roots (wire contract 1.1)."""


def build_app(registry: Registry, *, api_key: str, address: str) -> tuple[ASGIApp, WebSockets]:
    """Return the application, and what answers connections that ask for a WebSocket.

    Args:
        address: `127.0.0.1:PORT`, where it is reached.
    """
    port = int(address.rpartition(":")[2])
    hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    previews = PreviewSite(registry, port=port, hosts=hosts, secrets=[api_key])
    control = ControlPlane(registry, api_key=api_key, base_url=f"http://{address}")
    app = Starlette(
        routes=[*RuntimeApi(registry, previews).routes(), *(route for root in ROOTS for route in control.routes(root))],
        exception_handlers={
            RequestError: request_error,
            WireError: wire_error,
            HTTPException: http_error,
            RegistryError: refusal,
            NoNetworkError: refusal,
            OSError: machine_error,
        },
    )
    return Guard(app, hosts=hosts, previews=previews), WebSockets(previews)
