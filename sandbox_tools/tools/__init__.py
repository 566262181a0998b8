"""The catalogue of tools, one module a family."""

from __future__ import annotations

from typing import Any, Final

from sandbox_tools.tools.base import Tool
from sandbox_tools.tools.code import RUN_CODE
from sandbox_tools.tools.command import EXEC
from sandbox_tools.tools.edit import EDIT_FILE
from sandbox_tools.tools.files import READ_FILE, WRITE_FILE
from sandbox_tools.tools.listing import LIST_FILES
from sandbox_tools.tools.preview import GET_PREVIEW_URL
from sandbox_tools.tools.processes import PROCESS
from sandbox_tools.tools.secrets import exec_with_secrets

CATALOGUE: Final[tuple[Tool[Any], ...]] = (
    RUN_CODE,
    EXEC,
    PROCESS,
    READ_FILE,
    WRITE_FILE,
    EDIT_FILE,
    LIST_FILES,
    GET_PREVIEW_URL,
)
"""Every tool, in the order in which clients list them."""


def catalogue(secrets: str) -> tuple[Tool[Any], ...]:
    """Return the tools of a toolset whose commands may use these secrets; without any, nothing is listed of it."""
    with_secrets = exec_with_secrets(secrets) if secrets else EXEC
    return tuple(with_secrets if tool is EXEC else tool for tool in CATALOGUE)


__all__ = ["CATALOGUE", "catalogue"]
