"""get_preview_url: a web server in the sandbox, seen from outside."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import anyio
from pydantic import Field

from sandbox_tools.errors import ToolError
from sandbox_tools.runtime import Runtime
from sandbox_tools.tools.base import Output, SandboxArguments, Tool, ToolContext, ToolHints

_MAX_PORT: Final = 65535

_PAUSES_S: Final = (0.1, 0.2, 0.4, 0.8, 1.5)
"""A server that was just started needs a moment until it listens."""


class PreviewArguments(SandboxArguments):
    port: int = Field(description="TCP port that a server in the sandbox listens on.")


async def run_get_preview_url(context: ToolContext, args: PreviewArguments) -> Output:
    if not 1 <= args.port <= _MAX_PORT:
        raise ToolError(f"{args.port} is not a port. Give a whole number from 1 to {_MAX_PORT}.")
    ports = await _wait_for_port(context.runtime, args.port)
    if ports is not None and args.port not in ports:
        found = ", ".join(map(str, sorted(ports)[:20])) or "none"
        raise ToolError(
            f"Nothing listens on port {args.port} (listening ports: {found}). Start the server with exec, "
            "background=true, bind it to 0.0.0.0, read its log if it does not come up, then call again."
        )
    url = await context.runtime.preview_url(args.port)
    return Output(
        text=f"Preview of port {args.port}: {url}\nThe URL works {_where(url)}while the sandbox runs.",
        structured={"url": url, "port": args.port, "sandbox_id": context.runtime.sandbox_id},
    )


def _where(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return "on this machine, " if host == "127.0.0.1" or host.endswith(".localhost") else ""


async def _wait_for_port(runtime: Runtime, port: int) -> frozenset[int] | None:
    ports = await runtime.listening_ports()
    for pause_s in _PAUSES_S:
        if ports is None or port in ports:
            break
        await anyio.sleep(pause_s)
        ports = await runtime.listening_ports()
    return ports


GET_PREVIEW_URL: Final = Tool(
    name="get_preview_url",
    title="Get a preview URL",
    description=(
        "Return a URL at which the user can open a web server that runs in the sandbox. Start the server first "
        "(exec, background=true), bound to 0.0.0.0."
    ),
    arguments=PreviewArguments,
    hints=ToolHints(read_only=True, destructive=False, idempotent=True, open_world=False),
    run=run_get_preview_url,
)
