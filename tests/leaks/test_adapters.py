"""A registered secret goes in through every door of an adapter; it comes out of none."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from langchain_core.load import dumps
from langchain_core.messages import ToolCall
from mcp import Client
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCError, JSONRPCNotification, JSONRPCResponse, jsonrpc_message_adapter

from sandbox_tools.adapters.langchain import SandboxToolkit
from sandbox_tools.adapters.mcp import create_server
from sandbox_tools.adapters.mcp.guard import RedactedWriteStream
from sandbox_tools.adapters.openai import arun_tool_calls
from sandbox_tools.errors import SandboxProtocolError
from sandbox_tools.runtime import CodeError, CodeResult, RichResult
from sandbox_tools.testing import FakeRuntime, fake_toolset
from sandbox_tools.toolset import Toolset
from tests.adapters.stdio_client import ERAS, Era, stdio_client

SECRET = "Zq7mWc2RtY9xLp4VbN8sKd3F"
"""It is also a valid Python name, because names are echoed where values are not."""

SPELLINGS = {
    "plain": SECRET,
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "hex": SECRET.encode().hex(),
}


def assert_no_secret(*outputs: object) -> None:
    for output in outputs:
        seen = output.decode(errors="replace") if isinstance(output, bytes) else str(output)
        for name, spelling in SPELLINGS.items():
            assert spelling not in seen, name


async def mcp(toolset: Toolset, name: str, arguments: dict[str, Any]) -> list[object]:
    seen: list[object] = []
    for mode in ("auto", "legacy"):
        async with Client(create_server(toolset), mode=mode) as client:
            result = await client.call_tool(name, arguments)
            seen += [result.model_dump_json(), repr(result)]
    return seen


async def langchain(toolset: Toolset, name: str, arguments: dict[str, Any]) -> list[object]:
    tools = {tool.name: tool for tool in SandboxToolkit(toolset=toolset, images=True).get_tools()}
    message = await tools[name].ainvoke(ToolCall(name=name, args=arguments, id="1", type="tool_call"))
    return [repr(message), dumps(message), json.dumps(message.artifact)]


async def openai(toolset: Toolset, name: str, arguments: dict[str, Any]) -> list[object]:
    chat = {"id": "1", "function": {"name": name, "arguments": json.dumps(arguments)}}
    responses = {"type": "function_call", "call_id": "1", "name": name, "arguments": json.dumps(arguments)}
    return [
        json.dumps(await arun_tool_calls(toolset, {"tool_calls": [chat]})),
        json.dumps(await arun_tool_calls(toolset, {"output": [responses]})),
        json.dumps(await arun_tool_calls(toolset, {"tool_calls": [{"id": "1", "function": {"name": SECRET}}]})),
        json.dumps(
            await arun_tool_calls(toolset, {"tool_calls": [{**chat, "function": {"arguments": f'{{"{SECRET}'}}]})
        ),
    ]


def image_with(text: str) -> CodeResult:
    return CodeResult(results=(RichResult(images={"image/png": b"\x89PNG\r\n\x1a\n" + text.encode()}),))


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("adapter", [mcp, langchain, openai])
async def test_what_a_sandbox_prints_is_redacted(adapter: Any, spelling: str) -> None:
    """stdout, stderr, files, values, tracebacks and images of a sandbox that knows the secret."""
    text = f"token={spelling}\n"
    runtime = FakeRuntime(stdout=text.encode(), stderr=text.encode(), files={"/tmp/f": text.encode()})
    toolset = fake_toolset(runtime, secrets={"CANARY": SECRET})
    assert_no_secret(*await adapter(toolset, "exec", {"command": "env"}))
    assert_no_secret(*await adapter(toolset, "read_file", {"path": "/tmp/f"}))
    runtime.code_result = CodeResult(
        results=(RichResult(text={"text/plain": text}),), error=CodeError(name=spelling, message=text, traceback=text)
    )
    assert_no_secret(*await adapter(toolset, "run_code", {"code": "secret"}))
    runtime.code_result = image_with(spelling)
    assert_no_secret(*await adapter(toolset, "run_code", {"code": "plot()"}))


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(SandboxProtocolError("run a command", f"token {SECRET}"), id="our-error"),
        pytest.param(RuntimeError(f"token {SECRET}"), id="foreign-exception"),
        pytest.param(KeyError(SECRET), id="key-error"),
    ],
)
@pytest.mark.parametrize("adapter", [mcp, langchain, openai])
async def test_what_a_failure_says_is_redacted(
    adapter: Any, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    toolset = fake_toolset(FakeRuntime(fails_with=failure), secrets={"CANARY": SECRET})
    assert_no_secret(*await adapter(toolset, "exec", {"command": "ls"}), caplog.text)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("exec", {SECRET: SECRET}, id="argument-name"),
        pytest.param("exec", {"command": "ls", "timeout_s": SECRET}, id="argument-value"),
        pytest.param("exec", {"command": [SECRET]}, id="nested-value"),
        pytest.param("run_code", {"code": "1", "language": SECRET}, id="choice"),
        pytest.param("read_file", {"path": f"/{SECRET}"}, id="echoed-path"),
    ],
)
@pytest.mark.parametrize("adapter", [mcp, langchain, openai])
async def test_what_a_model_sends_is_not_sent_back(
    adapter: Any, name: str, arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A model that somehow saw the secret does not get it confirmed."""
    toolset = fake_toolset(secrets={"CANARY": SECRET})
    assert_no_secret(*await adapter(toolset, name, arguments), caplog.text)


@pytest.mark.parametrize("adapter", [mcp, openai])
async def test_the_name_of_a_tool_that_is_not_there_is_not_sent_back(adapter: Any) -> None:
    assert_no_secret(*await adapter(fake_toolset(secrets={"CANARY": SECRET}), SECRET, {}))


@pytest.mark.parametrize("era", ERAS)
async def test_no_byte_on_stdout_or_stderr_of_the_stdio_server_holds_it(tmp_path: Path, era: Era) -> None:
    async with stdio_client(tmp_path / "journal", era=era, secret=SECRET) as client:
        for command in ("print", "crash", "log", "pollute"):
            await client.call(command)
        await client.request("tools/call", {"name": SECRET, "arguments": {SECRET: SECRET}})
        await client.request("tools/call", {"name": "exec", "arguments": {SECRET: SECRET}})
        await client.request("tools/call", {"name": 1, "arguments": SECRET})
        await client.request("tools/list", {"cursor": SECRET})
        await client.request(f"no/{SECRET}", {SECRET: SECRET})
        handshake = {"protocolVersion": SECRET, "capabilities": {}, "clientInfo": {"name": SECRET, "version": SECRET}}
        await client.request("initialize", handshake)
        assert client.process.stdin is not None
        await client.process.stdin.send(f'{{"jsonrpc": "2.0", "method": "{SECRET}"\n'.encode())
        await client.process.stdin.aclose()
        await client.read_to_end()
    assert client.stdout.count(b"[REDACTED") > 3
    assert b"a log line with [REDACTED" in client.stderr
    assert b"blocked:" not in client.stderr
    assert_no_secret(client.stdout, client.stderr)


@pytest.mark.parametrize(
    "message",
    [
        JSONRPCResponse(jsonrpc="2.0", id=1, result={"text": SECRET, SECRET: [SECRET, {"deep": f"x{SECRET}y"}]}),
        JSONRPCError.model_validate(
            {"jsonrpc": "2.0", "id": 1, "error": {"code": 0, "message": SECRET, "data": {"url": SECRET}}}
        ),
        JSONRPCNotification(jsonrpc="2.0", method="notifications/message", params={"data": SECRET}),
    ],
    ids=["result", "error", "notification"],
)
async def test_the_outbound_guard_redacts_whatever_is_sent(message: Any) -> None:
    """The guard does not trust what is above it."""
    send, receive = anyio.create_memory_object_stream[SessionMessage](1)
    redactor = fake_toolset(secrets={"CANARY": SECRET}).redactor
    async with RedactedWriteStream(send, redactor) as guarded, receive:
        await guarded.send(SessionMessage(message))
        sent = (await receive.receive()).message.model_dump_json(by_alias=True, exclude_unset=True)
    assert "[REDACTED" in sent
    assert_no_secret(sent)
    jsonrpc_message_adapter.validate_json(sent)


async def test_the_outbound_guard_leaves_other_messages_alone() -> None:
    send, receive = anyio.create_memory_object_stream[SessionMessage](1)
    message = SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=1, result={"text": "nothing to hide"}))
    async with RedactedWriteStream(send, fake_toolset(secrets={"CANARY": SECRET}).redactor) as guarded, receive:
        await guarded.send(message)
        assert await receive.receive() is message
