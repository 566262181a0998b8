"""Traces: the spans of the MCP SDK, and what LangSmith is sent about the tools of LangChain."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from langchain_core.messages import ToolCall
from langchain_core.tracers.langchain import LangChainTracer
from langsmith import Client as LangSmith
from mcp import Client, types
from mcp.shared.exceptions import MCPError
from opentelemetry.trace import NonRecordingSpan, SpanKind
from opentelemetry.trace.span import INVALID_SPAN_CONTEXT
from requests import Response, Session

from sandbox_tools.adapters.langchain import SandboxToolkit
from sandbox_tools.adapters.mcp import create_server
from sandbox_tools.runtime import CodeResult, RichResult
from sandbox_tools.testing import FakeRuntime, fake_toolset
from sandbox_tools.toolset import Toolset

VALUE = f"t{secrets.token_hex(16)}"
"""Also a valid name."""

TEXT = f"token={VALUE}\n".encode()


def toolset_that_knows_it() -> Toolset:
    image = RichResult(images={"image/png": b"PNG" + TEXT})
    runtime = FakeRuntime(stdout=TEXT, stderr=TEXT, files={"/f": TEXT}, code_result=CodeResult(results=(image,)))
    return fake_toolset(runtime, secrets={"CANARY": VALUE})


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("exec", {"command": "env"}),
    ("exec", {"command": ["not text"]}),
    ("read_file", {"path": "/f"}),
    ("read_file", {"path": "/missing"}),
    ("run_code", {"code": "plot()"}),
]


class RecordingSpan(NonRecordingSpan):
    """Keeps what is said about it."""

    def __init__(self, said: list[object]) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)
        self._said = said

    def is_recording(self) -> bool:
        return True

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self._said.append(dict(attributes))

    def set_attribute(self, key: str, value: Any) -> None:
        self._said.append((key, value))

    def set_status(self, *status: Any, **more: Any) -> None:
        self._said.append([getattr(part, "description", part) for part in status])

    def add_event(self, *event: Any, **more: Any) -> None:
        self._said += (event, more)

    def record_exception(self, exception: BaseException, *more: Any, **even_more: Any) -> None:
        self._said += (repr(exception), str(exception))


class RecordingTracer:
    """Keeps all that servers say about their spans; what clients say is not ours."""

    def __init__(self) -> None:
        self.said: list[object] = []

    @contextmanager
    def start_as_current_span(self, name: str, *, kind: SpanKind, **about: Any) -> Iterator[RecordingSpan]:
        said: list[object] = self.said if kind is SpanKind.SERVER else []
        said += (name, about["attributes"])
        yield RecordingSpan(said)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_no_span_of_the_server_holds_it(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    tracer = RecordingTracer()
    monkeypatch.setattr("mcp.shared._otel._tracer", tracer)
    async with Client(create_server(toolset_that_knows_it()), mode=mode) as client:
        for name, arguments in CALLS:
            await client.call_tool(name, arguments)
        await client.call_tool(VALUE, {VALUE: VALUE})
        with suppress(MCPError):
            await client.get_prompt(VALUE)
        with suppress(MCPError):
            await client.session.send_request(types.Request(method=f"x/{VALUE}", params=None), types.EmptyResult)
    assert "tools/call exec" in tracer.said
    assert "tools/call [REDACTED:CANARY]" in tracer.said
    assert "x/[REDACTED:CANARY]" in tracer.said
    assert VALUE not in repr(tracer.said)


class FakeSession(Session):
    """LangSmith's service, as far as a test needs it: keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def request(self, method: str | bytes, url: str | bytes, **more: Any) -> Response:
        self.sent.append(repr((method, url, more)))
        response = Response()
        response.status_code = 200
        response._content = json.dumps({}).encode()
        return response


def langsmith(session: FakeSession) -> LangSmith:
    return LangSmith(
        api_url="https://langsmith.example", api_key="none", session=session, auto_batch_tracing=False, info={}
    )


async def test_langsmith_is_sent_nothing_of_it() -> None:
    session = FakeSession()
    client = langsmith(session)
    tools = {tool.name: tool for tool in SandboxToolkit(toolset=toolset_that_knows_it(), images=True).get_tools()}
    for name, arguments in CALLS:
        call = ToolCall(name=name, args=arguments, id="1", type="tool_call")
        await tools[name].ainvoke(call, config={"callbacks": [LangChainTracer(client=client)]})
    client.flush()
    sent = "".join(session.sent)
    assert sent.count("[REDACTED:CANARY]") >= 2
    assert VALUE not in sent
