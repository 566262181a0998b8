"""The stdio server on a sandbox that says what the cases of the leak matrix want."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from sandbox_tools.adapters.mcp.stdio import serve_stdio
from sandbox_tools.toolset import Toolset
from tests.leaks.matrix import canaries, cross
from tests.leaks.matrix_exits import EXITS, saying_toolset


@asynccontextmanager
async def open_toolset() -> AsyncIterator[Toolset]:
    yield saying_toolset(cross(tuple(EXITS)), canaries())


if __name__ == "__main__":
    anyio.run(serve_stdio, open_toolset)
