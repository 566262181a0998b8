"""LangChain's own standard tests, for every tool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    "read_file": {"path": "/tmp/note"},
    "write_file": {"path": "/tmp/new", "content": "text"},
    "get_preview_url": {"port": 8000},
}


@pytest.fixture(scope="module", autouse=True)
def opened() -> Iterator[None]:
    runtime = FakeRuntime(stdout=b"out", files={"/tmp/note": b"text"}, ports=frozenset({8000}))
    with start_blocking_portal("asyncio") as portal:
        toolkit = SandboxToolkit(toolset=BlockingToolset(portal, fake_toolset(runtime)))
        StandardTests.tools = {tool.name: tool for tool in toolkit.get_tools()}
        yield


def test_every_tool_has_an_example() -> None:
    assert set(EXAMPLES) == set(StandardTests.tools)


class StandardTests(ToolsUnitTests, ToolsIntegrationTests):
    """Both suites for one tool."""

    tools: dict[str, BaseTool]
    name: str

    @property
    def tool_constructor(self) -> BaseTool:
        return self.tools[self.name]

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return EXAMPLES[self.name]


class TestRunCode(StandardTests):
    name = "run_code"


class TestExec(StandardTests):
    name = "exec"


class TestReadFile(StandardTests):
    name = "read_file"


class TestWriteFile(StandardTests):
    name = "write_file"


class TestGetPreviewUrl(StandardTests):
    name = "get_preview_url"
