"""The same call says the same, whichever way it comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import ToolCall
from mcp import Client

from sandbox_tools.adapters.langchain import SandboxToolkit
from sandbox_tools.adapters.mcp import create_server
from sandbox_tools.adapters.openai import arun_tool_calls
from sandbox_tools.errors import SandboxUnreachableError
from sandbox_tools.testing import FakeRuntime
from sandbox_tools.toolset import Toolset


async def through_mcp(toolset: Toolset, name: str, arguments: dict[str, Any]) -> str:
    async with Client(create_server(toolset)) as client:
        result: Any = await client.call_tool(name, arguments)
    return str(result.content[0].text)


async def through_langchain(toolset: Toolset, name: str, arguments: dict[str, Any]) -> str:
    tools = {tool.name: tool for tool in SandboxToolkit(toolset=toolset).get_tools()}
    message = await tools[name].ainvoke(ToolCall(name=name, args=arguments, id="1", type="tool_call"))
    return str(message.content)


async def through_chat(toolset: Toolset, name: str, arguments: dict[str, Any]) -> str:
    call = {"id": "1", "function": {"name": name, "arguments": json.dumps(arguments)}}
    (answer,) = await arun_tool_calls(toolset, {"tool_calls": [call]})
    return str(answer["content"])


async def through_responses(toolset: Toolset, name: str, arguments: dict[str, Any]) -> str:
    call = {"type": "function_call", "call_id": "1", "name": name, "arguments": json.dumps(arguments)}
    (answer,) = await arun_tool_calls(toolset, {"output": [call]})
    output = answer["output"]
    return str(output if isinstance(output, str) else output[0]["text"])


@pytest.mark.parametrize("fails", [False, True], ids=["sandbox-works", "sandbox-is-gone"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("exec", {"command": "ls"}, id="exec"),
        pytest.param("exec", {"command": "ls", "timeout_s": None}, id="null-means-default"),
        pytest.param("exec", {"command": "ls", "timeout_s": "7"}, id="number-as-text"),
        pytest.param("exec", {"command": "ls", "timeout_s": 10**9}, id="out-of-range"),
        pytest.param("exec", {"command": 7, "wrong": 1, "what is this?": 2}, id="wrong-arguments"),
        pytest.param("process", {"action": "list"}, id="no-process"),
        pytest.param("process", {"action": "wait", "pid": 1}, id="no-such-process"),
        pytest.param("run_code", {"code": "plot()"}, id="image"),
        pytest.param("run_code", {"code": "1", "language": "cobol"}, id="wrong-choice"),
        pytest.param("read_file", {"path": "/tmp/note"}, id="read"),
        pytest.param("read_file", {"path": "/nowhere"}, id="tool-failure"),
        pytest.param("write_file", {"path": "/tmp/new", "content": "\ud800"}, id="half-a-surrogate-pair"),
        pytest.param("edit_file", {"path": "/tmp/note", "old_text": "missing", "new_text": "x"}, id="edit-refused"),
        pytest.param("list_files", {"path": "/tmp"}, id="list"),
        pytest.param("get_preview_url", {"port": 8000}, id="record"),
    ],
)
async def test_every_adapter_gives_the_same_text(
    toolset: Toolset, runtime: FakeRuntime, name: str, arguments: dict[str, Any], fails: bool
) -> None:
    if fails:
        runtime.fails_with = SandboxUnreachableError("reach the sandbox")
    expected = (await toolset.call(name, arguments)).text
    for way in (through_mcp, through_langchain, through_chat, through_responses):
        assert await way(toolset, name, arguments) == expected, way.__name__
