"""The MCP server: the names and shapes of MCP for a toolset. One server speaks both protocol eras."""

from __future__ import annotations

import base64
import logging
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Final

from mcp import types
from mcp.server import Server, ServerRequestContext
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware

from sandbox_tools.redaction import Redactor
from sandbox_tools.tools.base import Image, Tool
from sandbox_tools.toolset import ToolResult, Toolset

NAME: Final = "sandbox-tools"

_logger = logging.getLogger(__name__)


def create_server(toolset: Toolset) -> Server[dict[str, Any]]:
    """Return a server that offers the tools of an open toolset.

    It is the SDK's low-level server: `tools/list` shows our schemas as they are, and `tools/call` gets the raw
    arguments, so that validation and its error texts are the toolset's in every framework. It offers tools only
    and sends no notifications. Whoever opened the toolset closes it.
    """
    listing = types.ListToolsResult(tools=[_tool(tool) for tool in toolset.tools])

    async def list_tools(_: ServerRequestContext, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return listing

    async def call_tool(_: ServerRequestContext, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            return _result(await toolset.call(params.name, params.arguments or {}))
        except Exception:
            # The SDK would send the text of the exception to a client of the older era.
            _logger.exception("A tool call failed unexpectedly")
        return _result(
            ToolResult(text="The tool failed unexpectedly. The server's log has the details.", is_error=True)
        )

    server: Server[dict[str, Any]] = Server(
        NAME,
        version=version(NAME),
        title="Sandbox tools",
        instructions=toolset.instructions,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    server.middleware.insert(0, _RedactedNames(toolset.redactor))
    return server


@dataclass(frozen=True, slots=True)
class _RedactedNames(ServerMiddleware[Any]):
    """Redacts the names of the method and the tool that a client asks for, before the SDK names a span after them.

    Spans of the SDK hold nothing else that a model wrote or a tool returned. A name with a secret is none of ours.
    """

    redactor: Redactor

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        redact = self.redactor.text
        params = ctx.params
        if params and isinstance(params.get("name"), str):
            params = {**params, "name": redact(params["name"])}
        return await call_next(replace(ctx, method=redact(ctx.method), params=params))


def _tool(tool: Tool[Any]) -> types.Tool:
    hints = tool.hints
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=hints.read_only,
            destructive_hint=hints.destructive,
            idempotent_hint=hints.idempotent,
            open_world_hint=hints.open_world,
        ),
    )


def _result(result: ToolResult) -> types.CallToolResult:
    # Clients show the model only `structured_content` when it is there, so it is for complete small records.
    return types.CallToolResult(
        content=[types.TextContent(text=result.text), *map(_image, result.images)],
        structured_content=None if result.structured is None else dict(result.structured),
        is_error=result.is_error,
    )


def _image(image: Image) -> types.ImageContent:
    return types.ImageContent(data=base64.b64encode(image.data).decode(), mime_type=image.mime_type)
