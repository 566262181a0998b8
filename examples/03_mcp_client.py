"""Talk to the MCP server the way Claude or Cursor does: a process, over its stdin and stdout."""

import sys

import anyio
from mcp import Client, StdioServerParameters


async def main() -> None:
    server = StdioServerParameters(command=sys.executable, args=["-m", "sandbox_tools", "mcp"])
    async with Client(server) as client:
        for tool in (await client.list_tools()).tools:
            print(f"{tool.name}: {tool.description}")

        result = await client.call_tool("run_code", {"code": "import platform\nplatform.system()"})
        for block in result.content:
            if block.type == "text":
                print(block.text)


if __name__ == "__main__":
    anyio.run(main)
