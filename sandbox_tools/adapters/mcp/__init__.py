"""The toolset as an MCP server, for Claude, Cursor, VS Code and other MCP clients."""

from sandbox_tools.adapters.mcp.server import create_server
from sandbox_tools.adapters.mcp.stdio import serve_stdio

__all__ = ["create_server", "serve_stdio"]
