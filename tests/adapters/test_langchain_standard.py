"""LangChain's own standard tests, for every tool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from anyio.from_thread import start_blocking_portal
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from sandbox_tools.adapters.langchain import SandboxToolkit
from sandbox_tools.blocking import BlockingToolset
from sandbox_tools.testing import FakeRuntime, fake_toolset

EXAMPLES: dict[str, dict[str, Any]] = {
    "run_code": {"code": "1 + 1", "language": "python"},
    "exec": {"command": "ls"},
    "process": {"action": "list"},
    "read_file": {"path": "/tmp/note"},
    "write_file": {"path": "/tmp/new", "content": "text"},
    "edit_file": {"path": "/tmp/note", "old_text": "text", "new_text": "text!"},
    "list_files": {"path": "/tmp"},
    "get_preview_url": {"port": 8000},
}


@pytest.fixture(scope="module", autouse=True)
def opened() -> Iterator[None]:
    runtime = FakeRuntime(stdout=b"out", files={"/tmp/note": b"text"}, ports=frozenset({8000}))
    with start_blocking_portal("asyncio") as portal:
        toolkit = SandboxToolkit(toolset=BlockingToolset(portal, fake_toolset(runtime)))
        OneTool.tools = {tool.name: tool for tool in toolkit.get_tools()}
        yield


def test_every_tool_has_an_example() -> None:
    assert set(EXAMPLES) == set(OneTool.tools)


class OneTool:
    """What the suites ask of a tool under test."""

    tools: ClassVar[dict[str, BaseTool]]
    name: str

    @property
    def tool_constructor(self) -> BaseTool:
        return self.tools[self.name]

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return EXAMPLES[self.name]


for _name in EXAMPLES:
    for _suite in (ToolsUnitTests, ToolsIntegrationTests):
        _title = f"Test_{_name}_{_suite.__name__}"
        globals()[_title] = type(_title, (OneTool, _suite), {"name": _name})
