"""Gives an LLM agent a computer of its own: a sandbox as a few well-made tools.

    async with Toolset.open() as tools:
        result = await tools.call("exec", {"command": "uname -a"})
        print(result.text)

The names below are loaded when they are first used: importing the package costs nothing, and pulls in no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox_tools.blocking import BlockingToolset
    from sandbox_tools.environment import PublicValue
    from sandbox_tools.errors import SandboxToolsError
    from sandbox_tools.injection import InjectedSecret
    from sandbox_tools.tools.base import Image, Tool
    from sandbox_tools.toolset import ToolResult, Toolset

__all__ = [
    "BlockingToolset",
    "Image",
    "InjectedSecret",
    "PublicValue",
    "SandboxToolsError",
    "Tool",
    "ToolResult",
    "Toolset",
]

_MODULES = {
    "BlockingToolset": "sandbox_tools.blocking",
    "Image": "sandbox_tools.tools.base",
    "InjectedSecret": "sandbox_tools.injection",
    "PublicValue": "sandbox_tools.environment",
    "SandboxToolsError": "sandbox_tools.errors",
    "Tool": "sandbox_tools.tools.base",
    "ToolResult": "sandbox_tools.toolset",
    "Toolset": "sandbox_tools.toolset",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
