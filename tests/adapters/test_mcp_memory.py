"""The MCP server, through the SDK's own client, in both protocol eras."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.metadata import version

import anyio
import pytest
from mcp import Client
from mcp.types import CallToolResult, ImageContent, TextContent

from sandbox_tools.adapters.mcp import create_server
from sandbox_tools.testing import FakeRuntime
from sandbox_tools.toolset import ToolResult, Toolset
from tests.adapters.conftest import PNG, until

pytestmark = pytest.mark.parametrize("mode", ["auto", "legacy"])


def text(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def test_the_list_shows_every_tool_as_the_catalogue_has_it(toolset: Toolset, mode: str) -> None:
    async with Client(create_server(toolset), mode=mode) as client:
        listed = (await client.list_tools()).tools
    assert [tool.name for tool in listed] == [tool.name for tool in toolset.tools]
    for seen, tool in zip(listed, toolset.tools, strict=True):
        assert (seen.title, seen.description, seen.input_schema) == (tool.title, tool.description, tool.input_schema)
        assert seen.annotations is not None
        assert seen.annotations.model_dump() == {
            "title": tool.title,
            "read_only_hint": tool.hints.read_only,
            "destructive_hint": tool.hints.destructive,
            "idempotent_hint": tool.hints.idempotent,
            "open_world_hint": tool.hints.open_world,
        }


async def test_the_server_says_what_it_is_and_offers_tools_only(toolset: Toolset, mode: str) -> None:
    async with Client(create_server(toolset), mode=mode) as client:
        assert client.instructions == toolset.instructions
        assert client.server_info is not None
        assert (client.server_info.name, client.server_info.version) == ("sandbox-tools", version("sandbox-tools"))
        offered = client.server_capabilities.model_dump(exclude_none=True)
    assert set(offered) == {"tools"}


async def test_output_is_plain_text_without_structured_content(toolset: Toolset, mode: str) -> None:
    async with Client(create_server(toolset), mode=mode) as client:
        result = await client.call_tool("exec", {"command": "echo hello"})
    assert not result.is_error
    assert result.structured_content is None
    assert "hello" in text(result)


async def test_a_figure_comes_as_an_image_after_the_text(toolset: Toolset, mode: str) -> None:
    async with Client(create_server(toolset), mode=mode) as client:
        result = await client.call_tool("run_code", {"code": "plot()"})
    words, image = result.content
    assert isinstance(words, TextContent)
    assert isinstance(image, ImageContent)
    assert (base64.b64decode(image.data), image.mime_type) == (PNG, "image/png")


async def test_a_small_record_comes_as_text_and_as_structured_content(toolset: Toolset, mode: str) -> None:
    async with Client(create_server(toolset), mode=mode) as client:
        result = await client.call_tool("get_preview_url", {"port": 8000})
    assert result.structured_content is not None
    assert result.structured_content["port"] == 8000
    assert str(result.structured_content["url"]) in text(result)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        pytest.param("exec", {"comand": "ls"}, "command is required; unknown argument comand", id="wrong-arguments"),
        pytest.param("exec", {"command": 1}, "command: input should be a valid string", id="wrong-type"),
        pytest.param("exce", {}, "There is no such tool", id="unknown-tool"),
        pytest.param("read_file", {"path": "/nowhere"}, "/nowhere does not exist", id="tool-failure"),
    ],
)
async def test_a_failed_call_says_why_in_our_words(
    toolset: Toolset, mode: str, name: str, arguments: Mapping[str, object], expected: str
) -> None:
    async with Client(create_server(toolset), mode=mode) as client:
        result = await client.call_tool(name, dict(arguments))
    assert result.is_error
    assert expected in text(result)
    assert text(result) == (await toolset.call(name, arguments)).text


class BrokenToolset(Toolset):
    """Breaks its promise not to raise."""

    async def call(self, name: str, arguments: Mapping[str, object]) -> ToolResult:
        raise RuntimeError("the text of an exception")


async def test_the_text_of_an_unexpected_exception_stays_here(
    toolset: Toolset, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = BrokenToolset(toolset._sandboxes, toolset.redactor)
    async with Client(create_server(broken), mode=mode) as client:
        result = await client.call_tool("exec", {"command": "ls"})
    assert result.is_error
    assert "the text of an exception" not in result.model_dump_json()
    assert "the text of an exception" in caplog.text


async def test_cancelling_a_call_cancels_the_work(toolset: Toolset, runtime: FakeRuntime, mode: str) -> None:
    runtime.hangs = True
    async with Client(create_server(toolset), mode=mode) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.call_tool, "exec", {"command": "sleep 1000"})
        await until(lambda: runtime.commands)
        tasks.cancel_scope.cancel()
    await until(lambda: runtime.cancelled)
