"""The LangChain toolkit: messages, artifacts, errors and cancelling."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from typing import Any

import pytest
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool

from sandbox_tools.adapters.langchain import SandboxToolkit
from sandbox_tools.blocking import BlockingToolset
from sandbox_tools.testing import FakeRuntime
from sandbox_tools.toolset import Toolset
from tests.adapters.conftest import PNG, until


def tool(toolkit: SandboxToolkit, name: str) -> BaseTool:
    return next(tool for tool in toolkit.get_tools() if tool.name == name)


def tool_call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, args=arguments, id="call_1", type="tool_call")


def invoke(blocking: BlockingToolset, name: str, **arguments: Any) -> ToolMessage:
    message = tool(SandboxToolkit(toolset=blocking), name).invoke(tool_call(name, **arguments))
    assert isinstance(message, ToolMessage)
    return message


def test_a_result_is_a_text_and_a_small_artifact(blocking: BlockingToolset) -> None:
    message = invoke(blocking, "exec", command="echo hello")
    assert message.status == "success"
    assert message.content == blocking.call("exec", {"command": "echo hello"}).text
    assert message.artifact == {"is_error": False, "images": 0}


def test_a_small_record_is_in_the_artifact(blocking: BlockingToolset) -> None:
    message = invoke(blocking, "get_preview_url", port=8000)
    assert message.artifact["port"] == 8000
    assert json.dumps(message.artifact)


def test_images_stay_out_of_messages_unless_asked_for(blocking: BlockingToolset) -> None:
    message = invoke(blocking, "run_code", code="plot()")
    assert isinstance(message.content, str)
    assert message.artifact["images"] == 1


def test_images_are_blocks_after_the_text_when_asked_for(blocking: BlockingToolset) -> None:
    toolkit = SandboxToolkit(toolset=blocking, images=True)
    message = tool(toolkit, "run_code").invoke(tool_call("run_code", code="plot()"))
    words, image = message.content
    assert words["type"] == "text"
    assert image == {"type": "image", "base64": base64.b64encode(PNG).decode(), "mime_type": "image/png"}


def test_a_failed_tool_is_an_error_message_and_not_an_exception(blocking: BlockingToolset) -> None:
    message = invoke(blocking, "read_file", path="/nowhere")
    assert message.status == "error"
    assert message.content == blocking.call("read_file", {"path": "/nowhere"}).text


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="missing"),
        pytest.param({"command": "ls", "comand": "a secret"}, id="unknown"),
        pytest.param({"command": ["a secret"], "timeout_s": "a secret"}, id="wrong-type"),
    ],
)
def test_wrong_arguments_are_explained_in_the_same_words_as_elsewhere(
    blocking: BlockingToolset, arguments: dict[str, Any]
) -> None:
    message = invoke(blocking, "exec", **arguments)
    assert message.status == "error"
    assert message.content == blocking.call("exec", arguments).text
    assert "a secret" not in str(message)


async def test_an_async_call_gives_the_same_message(blocking: BlockingToolset) -> None:
    exec_tool = tool(SandboxToolkit(toolset=blocking), "exec")
    assert await exec_tool.ainvoke(tool_call("exec", command="ls")) == invoke(blocking, "exec", command="ls")


async def test_cancelling_an_async_call_cancels_the_work(blocking: BlockingToolset, runtime: FakeRuntime) -> None:
    runtime.hangs = True
    exec_tool = tool(SandboxToolkit(toolset=blocking), "exec")
    call = asyncio.create_task(exec_tool.ainvoke(tool_call("exec", command="sleep 1000")))
    await until(lambda: runtime.commands)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert runtime.cancelled  # it waited for the end of the work


async def test_an_async_toolset_serves_async_calls(toolset: Toolset) -> None:
    exec_tool = tool(SandboxToolkit(toolset=toolset), "exec")
    message = await exec_tool.ainvoke(tool_call("exec", command="ls"))
    assert message.content == (await toolset.call("exec", {"command": "ls"})).text


async def test_an_async_toolset_refuses_sync_calls(toolset: Toolset) -> None:
    exec_tool = tool(SandboxToolkit(toolset=toolset), "exec")
    with pytest.raises(NotImplementedError, match="does not support sync"):
        exec_tool.invoke(tool_call("exec", command="ls"))


def test_a_prefix_keeps_the_tools_of_two_toolkits_apart(blocking: BlockingToolset) -> None:
    left, right = (SandboxToolkit(toolset=blocking, prefix=prefix).get_tools() for prefix in ("left_", "right_"))
    names = [tool.name for tool in (*left, *right)]
    assert len(set(names)) == 2 * len(blocking.tools)
    assert "left_exec" in names
    assert "hello" in next(tool for tool in right if tool.name == "right_exec").invoke({"command": "ls"})


def test_closing_a_toolkit_leaves_the_toolset_of_the_caller_open(blocking: BlockingToolset) -> None:
    with SandboxToolkit(toolset=blocking):
        pass
    assert not blocking.call("exec", {"command": "ls"}).is_error


def test_a_toolkit_shows_nothing_of_itself(blocking: BlockingToolset) -> None:
    toolkit = SandboxToolkit(toolset=blocking, api_key="the-api-key-of-this-test")
    assert repr(toolkit) == "SandboxToolkit()"
    assert toolkit.model_dump() == {}
    assert "the-api-key-of-this-test" not in str(vars(toolkit)) + str(toolkit.__pydantic_private__)


def test_a_process_ends_although_its_toolkit_was_never_closed() -> None:
    code = "from sandbox_tools.adapters.langchain import SandboxToolkit; print(len(SandboxToolkit().get_tools()))"
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30)
    assert int(ended.stdout) > 0
