"""A sandbox that says what a case of the matrix wants, and every way out of the package, with all that comes out."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.messages import ToolCall
from langchain_core.tracers.langchain import LangChainTracer
from mcp import Client

from sandbox_tools.adapters.langchain import SandboxToolkit
from sandbox_tools.adapters.mcp import create_server
from sandbox_tools.adapters.openai import arun_tool_calls
from sandbox_tools.blocking import BlockingToolset
from sandbox_tools.errors import SandboxProtocolError
from sandbox_tools.runtime import CodeError, CodeResult, ListedEntry, OutputSink, RichResult
from sandbox_tools.testing import FakeProcess, FakeRuntime, fake_toolset
from sandbox_tools.toolset import Toolset
from tests.adapters.stdio_client import Era, stdio_client
from tests.adapters.test_mcp_http import ALICE, connected, served
from tests.leaks.matrix import SEED, Canary, Case
from tests.leaks.test_traces import FakeSession, RecordingTracer, langsmith


class SayingRuntime(FakeRuntime):
    """A sandbox that knows every secret and says the one of the case that a call names."""

    def __init__(self, cases: Sequence[Case], canaries: Mapping[str, Canary]) -> None:
        super().__init__()
        self._cases = {f"case-{case.number}": case for case in cases}
        self._canaries = canaries

    async def start_command(self, command: str, *, on_output: OutputSink, **more: Any) -> FakeProcess:
        case = self._cases[command]
        if case.source == "our error":
            raise SandboxProtocolError("run a command", self._text(case))
        self._print_case(case, on_output)
        return FakeProcess(runtime=self, pid=1, command=command, on_output=on_output)

    async def attach(self, pid: int, *, on_output: OutputSink) -> FakeProcess | None:
        self._print_case(self._cases[f"case-{pid - 1}"], on_output)
        return FakeProcess(runtime=self, pid=pid, command="", on_output=on_output)

    async def run_code(self, code: str, *, on_output: OutputSink, **more: Any) -> CodeResult:
        case = self._cases[code]
        text = self._text(case)
        match case.source:
            case "code output":
                self._print_case(case, on_output)
            case "code value":
                return CodeResult(results=(RichResult(text={"text/plain": text}),))
            case "code exception":
                return CodeResult(error=CodeError(name=text, message=text, traceback=""))
            case "traceback":
                return CodeResult(error=CodeError(name="ValueError", message="no", traceback=text))
            case "image":
                data = b"\x89PNG\r\n\x1a\n" + case.payload(self._canaries[case.kind]) + b"IEND"
                return CodeResult(results=(RichResult(images={"image/png": data}),))
        return CodeResult()

    @asynccontextmanager
    async def open_file(self, path: str) -> AsyncIterator[Any]:
        case = self._cases[path[1:]]
        if case.source == "foreign error":
            raise RuntimeError(self._text(case))
        yield _File(case.pieces(self._canaries[case.kind]))

    async def list_directory(self, path: str, *, depth: int) -> list[ListedEntry]:
        case = self._cases[path[1:]]
        if case.source == "link":
            return [ListedEntry(path=f"{path}/link", type="symlink", symlink_target=self._text(case))]
        return [ListedEntry(path=f"{path}/{self._text(case).replace('/', '_')}", type="file")]

    def _text(self, case: Case) -> str:
        return case.payload(self._canaries[case.kind]).decode("utf-8", "replace")

    def _print_case(self, case: Case, on_output: OutputSink) -> None:
        for piece in case.pieces(self._canaries[case.kind]):
            on_output("stderr" if case.source == "stderr" else "stdout", piece)
            if case.source == "stdout beside stderr":
                on_output("stderr", b"working ... ")


class _File:
    size = None

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def saying_toolset(cases: Sequence[Case], canaries: Mapping[str, Canary]) -> Toolset:
    """Return a toolset on such a sandbox; its redactor knows all the secrets."""
    secrets = {name: canary.value for name, canary in canaries.items()}
    return fake_toolset(SayingRuntime(cases, canaries), secrets=secrets)


class Way:
    """One way out: calls tools, and keeps what comes out beside their answers."""

    def __init__(self, call: Callable[[str, dict[str, Any]], Awaitable[list[bytes]]]) -> None:
        self.call = call
        self.beside: list[bytes] = []


@asynccontextmanager
async def _by_toolset(toolset: Toolset) -> AsyncIterator[Way]:
    async def call(name: str, arguments: dict[str, Any]) -> list[bytes]:
        result = await toolset.call(name, arguments)
        return [repr(result).encode(), *(image.data for image in result.images)]

    yield Way(call)


@asynccontextmanager
async def _by_mcp_in_memory(toolset: Toolset, *, mode: str) -> AsyncIterator[Way]:
    """With the spans of OpenTelemetry that the server makes."""
    tracer = RecordingTracer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcp.shared._otel._tracer", tracer)
        async with Client(create_server(toolset), mode=mode) as client:

            async def call(name: str, arguments: dict[str, Any]) -> list[bytes]:
                tracer.said.clear()
                answer = await client.call_tool(name, arguments)
                assert f"tools/call {name}" in tracer.said
                return [answer.model_dump_json().encode(), repr(tracer.said).encode()]

            yield Way(call)


@asynccontextmanager
async def _by_mcp_stdio(_: Toolset, *, era: Era) -> AsyncIterator[Way]:
    """Every byte of stdout and stderr of a server process, which makes the same cases."""
    command = [sys.executable, str(Path(__file__).with_name("matrix_server.py"))]
    with tempfile.NamedTemporaryFile() as journal:
        env = {"LEAKS_SEED": str(SEED)}
        async with stdio_client(Path(journal.name), era=era, command=command, **env) as client:

            async def call(name: str, arguments: dict[str, Any]) -> list[bytes]:
                client.stdout = b""
                await client.request("tools/call", {"name": name, "arguments": arguments})
                return [client.stdout]

            way = Way(call)
            yield way
            assert client.process.stdin is not None
            await client.process.stdin.aclose()
            await client.read_to_end()
            way.beside.append(client.stderr)


@asynccontextmanager
async def _by_mcp_http(toolset: Toolset, *, mode: str) -> AsyncIterator[Way]:
    async with served(toolset) as url, connected(url, ALICE, mode) as client:

        async def call(name: str, arguments: dict[str, Any]) -> list[bytes]:
            return [(await client.call_tool(name, arguments)).model_dump_json().encode()]

        yield Way(call)


class _Watching(BaseCallbackHandler):
    """What a tracer is told."""

    def __init__(self) -> None:
        self.told: list[bytes] = []

    def on_tool_start(self, serialized: Any, input_str: str, **more: Any) -> None:
        self.told.append(repr((serialized, input_str, more)).encode())

    def on_tool_end(self, output: Any, **more: Any) -> None:
        self.told.append(repr((output, more)).encode())

    def on_tool_error(self, error: BaseException, **more: Any) -> None:
        self.told.append(repr((error, vars(error), error.__context__, error.__cause__, more)).encode())


@asynccontextmanager
async def _by_langchain(toolset: Toolset) -> AsyncIterator[Way]:
    """With what LangSmith is sent."""
    session = FakeSession()
    tracer = LangChainTracer(client=langsmith(session))
    tools = {tool.name: tool for tool in SandboxToolkit(toolset=toolset, images=True).get_tools()}

    async def call(name: str, arguments: dict[str, Any]) -> list[bytes]:
        watching = _Watching()
        session.sent.clear()
        message = await tools[name].ainvoke(
            ToolCall(name=name, args=arguments, id="1", type="tool_call"), {"callbacks": [watching, tracer]}
        )
        assert session.sent
        sent = [part.encode() for part in session.sent]
        return [dumps(message).encode(), repr(message.artifact).encode(), *watching.told, *sent]

    yield Way(call)


@asynccontextmanager
async def _by_blocking_langchain(toolset: Toolset) -> AsyncIterator[Way]:
    with start_blocking_portal("asyncio") as portal:
        tools = {tool.name: tool for tool in SandboxToolkit(toolset=BlockingToolset(portal, toolset)).get_tools()}

        async def call(name: str, arguments: dict[str, Any]) -> list[bytes]:
            watching = _Watching()
            request = ToolCall(name=name, args=arguments, id="1", type="tool_call")
            run = partial(tools[name].invoke, request, {"callbacks": [watching]})
            return [dumps(await anyio.to_thread.run_sync(run)).encode(), *watching.told]

        yield Way(call)


@asynccontextmanager
async def _by_openai(toolset: Toolset) -> AsyncIterator[Way]:
    async def call(name: str, arguments: dict[str, Any]) -> list[bytes]:
        function = {"name": name, "arguments": json.dumps(arguments)}
        chat = await arun_tool_calls(toolset, {"tool_calls": [{"id": "1", "function": function}]})
        item = {"type": "function_call", "call_id": "1", **function}
        return [json.dumps(answer).encode() for answer in (chat, await arun_tool_calls(toolset, {"output": [item]}))]

    yield Way(call)


EXITS: dict[str, Callable[[Toolset], AbstractAsyncContextManager[Way]]] = {
    "toolset": _by_toolset,
    "MCP in memory": partial(_by_mcp_in_memory, mode="auto"),
    "MCP in memory, older era": partial(_by_mcp_in_memory, mode="legacy"),
    "MCP stdio": partial(_by_mcp_stdio, era="2026-07-28"),
    "MCP stdio, older era": partial(_by_mcp_stdio, era="2025-11-25"),
    "MCP HTTP": partial(_by_mcp_http, mode="auto"),
    "MCP HTTP, older era": partial(_by_mcp_http, mode="legacy"),
    "LangChain": _by_langchain,
    "LangChain, blocking": _by_blocking_langchain,
    "OpenAI": _by_openai,
}
