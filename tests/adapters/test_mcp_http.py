"""The MCP server over Streamable HTTP, through the SDK's own client, in both protocol eras."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from sandbox_tools.adapters.mcp.http import PATH, Caller, _app, read_callers, serve_http
from sandbox_tools.adapters.mcp.http_guard import RedactedResponse, redacted_json
from sandbox_tools.errors import ConfigurationError
from sandbox_tools.redaction import Redactor, Registry
from sandbox_tools.sandboxes import PreviewMount, PreviewSite
from sandbox_tools.testing import FakeRuntime, fake_toolset
from sandbox_tools.toolset import Toolset
from tests.adapters.conftest import until

ALICE = "alice-0f3c9a7e5b1d2846af09"
BOB = "bob-c4d81e6a97f3025b6ec1d0"


def callers() -> tuple[Caller, ...]:
    return read_callers(f"# who may call\nalice {ALICE}\nbob {BOB}\n", Registry())


@asynccontextmanager
async def served(*toolsets: Toolset) -> AsyncIterator[str]:
    """Serve one toolset a caller, in the order of the callers."""
    waiting = iter(toolsets)

    @asynccontextmanager
    async def open_toolset(_: PreviewSite) -> AsyncIterator[Toolset]:
        yield next(waiting)

    urls: list[str] = []
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def serve() -> None:
            await serve_http(open_toolset, callers()[: len(toolsets)], port=0, on_ready=urls.append, stop=stop)

        tasks.start_soon(serve)
        await until(lambda: urls)
        yield urls[0]
        stop.set()


@asynccontextmanager
async def connected(url: str, token: str, mode: str) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


def text(result: CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, TextContent)
    return block.text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_every_caller_has_sandboxes_of_its_own(mode: str) -> None:
    alices, bobs = FakeRuntime(stdout=b"of alice\n"), FakeRuntime(stdout=b"of bob\n")
    async with served(fake_toolset(alices), fake_toolset(bobs)) as url:
        async with connected(url, ALICE, mode) as client:
            assert len((await client.list_tools()).tools) == len(fake_toolset(alices).tools)
            assert "of alice" in text(await client.call_tool("exec", {"command": "whoami"}))
        async with connected(url, BOB, mode) as client:
            assert "of bob" in text(await client.call_tool("exec", {"command": "id"}))
    assert (alices.commands, bobs.commands) == (["whoami"], ["id"])


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_end_of_a_connection_or_a_cancellation_ends_the_work(mode: str) -> None:
    runtime = FakeRuntime(hangs=True)
    async with (
        served(fake_toolset(runtime)) as url,
        connected(url, ALICE, mode) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(client.call_tool, "exec", {"command": "sleep 1000"})
        await until(lambda: runtime.commands)
        tasks.cancel_scope.cancel()
    await until(lambda: runtime.cancelled)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_what_slips_past_the_toolset_is_redacted_on_the_wire(mode: str) -> None:
    class Careless(Toolset):
        @property
        def instructions(self) -> str:
            return "a note with c4n4ry-3f9d0a17b2e84c65 in it"

    toolset = fake_toolset(secrets={"CANARY": "c4n4ry-3f9d0a17b2e84c65"})
    careless = Careless(toolset._sandboxes, toolset.redactor)
    async with served(careless) as url, connected(url, ALICE, mode) as client:
        assert client.instructions == "a note with [REDACTED:CANARY] in it"


REFUSED: dict[str, tuple[dict[str, str], int]] = {
    "no token": ({"Authorization": ""}, 401),
    "a wrong token": ({"Authorization": "Bearer wrong-0f3c9a7e5b1d2846af09"}, 401),
    "part of a token": ({"Authorization": f"Bearer {ALICE[:-1]}"}, 401),
    "another scheme": ({"Authorization": f"Basic {ALICE}"}, 401),
    "the host of somebody else": ({"Host": "evil.example"}, 421),
    "the page of somebody else": ({"Origin": "https://evil.example"}, 403),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_who_may_not_call_learns_nothing(case: str) -> None:
    changes, status = REFUSED[case]
    runtime = FakeRuntime()
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "exec", "arguments": {"command": "x"}},
    }
    headers = {
        "Authorization": f"Bearer {ALICE}",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        **changes,
    }
    async with served(fake_toolset(runtime)) as url, httpx2.AsyncClient() as http:
        answer = await http.post(url, json=call, headers=headers)
        elsewhere = await http.get(url.replace("/mcp", "/"), headers={"Authorization": f"Bearer {ALICE}"})
    assert (answer.status_code, elsewhere.status_code) == (status, 404)
    assert ALICE not in answer.text + str(answer.headers)
    assert runtime.commands == []


BAD_TOKENS = {
    "nothing": "# only a comment\n",
    "no token": "alice\n",
    "short": "alice abc123\n",
    "twice": f"alice {ALICE}\nbob {ALICE}\n",
    "two for one": f"alice {ALICE}\nalice {BOB}\n",
    "more words": f"alice {ALICE} extra\n",
}


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_tokens_that_would_not_protect_are_refused_without_being_shown(case: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_callers(BAD_TOKENS[case], Registry())
    assert ALICE not in str(caught.value)


async def sent(redactor: Redactor, content_type: str, *pieces: bytes) -> tuple[dict[str, str], list[bytes]]:
    """Send an answer through the guard; return its headers and bodies."""
    messages: list[dict[str, object]] = []

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        messages.append(message)

    guard = RedactedResponse(send, redactor)
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"7")]
    await guard({"type": "http.response.start", "status": 200, "headers": headers})
    for number, piece in enumerate(pieces, 1):
        await guard({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})
    seen = {name.decode(): value.decode() for name, value in messages[0]["headers"]}  # type: ignore[attr-defined]
    return seen, [message["body"] for message in messages[1:]]  # type: ignore[misc]


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.fixture
def redactor() -> Redactor:
    registry = Registry()
    registry.register("CANARY", 'c4n4ry"3f9d0a17b2e84c65')
    return Redactor(registry)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
async def test_the_guard_redacts_however_an_answer_is_cut(redactor: Redactor, size: int) -> None:
    document = json.dumps({"result": {"text": 'x c4n4ry"3f9d0a17b2e84c65 y', 'c4n4ry"3f9d0a17b2e84c65': [1, "é"]}})
    expected = {"result": {"text": "x [REDACTED:CANARY] y", "[REDACTED:CANARY]": [1, "é"]}}

    headers, bodies = await sent(redactor, "application/json", *cut(document.encode(), size))
    assert json.loads(b"".join(bodies)) == expected
    assert int(headers["content-length"]) == len(b"".join(bodies))

    events = f": ping\r\n\r\nevent: message\r\ndata: {document}\r\n\r\nid: 2\ndata:\n\ndata: {document}"
    headers, bodies = await sent(redactor, "text/event-stream", *cut(events.encode(), size))
    lines = b"".join(bodies).splitlines()
    assert lines[:3] == [b": ping", b"", b"event: message"]
    assert json.loads(lines[3].removeprefix(b"data: ")) == expected
    assert lines[4:7] == [b"", b"id: 2", b"data:"]
    assert json.loads(lines[8].removeprefix(b"data: ")) == expected


def test_the_tokens_of_callers_are_redacted() -> None:
    registry = Registry()
    read_callers(f"alice {ALICE}", registry)
    assert Redactor(registry).text(f"<{ALICE}>") == "<[REDACTED:MCP_TOKEN]>"


async def test_what_serves_a_call_is_given_no_token_and_who_asks_oddly_is_refused() -> None:
    token, seen = secrets.token_urlsafe(24), list[Scope]()

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await PlainTextResponse("served")(scope, receive, send)

    previews = PreviewMount("http://127.0.0.1:1", Redactor(Registry()))
    app = _app({hashlib.sha256(token.encode()).digest(): endpoint}, previews, {"127.0.0.1:1"})
    headers = {"Authorization": f"Bearer {token}", "X-Other": "kept"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1", headers=headers) as client:
        assert (await client.post(PATH)).text == "served"
        assert (await client.post(PATH, headers={"Host": "evil.example"})).status_code == 421
        twice = [("Host", "127.0.0.1:1"), *[("Authorization", f"Bearer {token}")] * 2]
        assert (await client.send(httpx.Request("POST", f"http://127.0.0.1:1{PATH}", headers=twice))).status_code == 401
    assert token not in repr(seen)
    assert "kept" in repr(seen)


def test_what_is_clean_passes_byte_for_byte(redactor: Redactor) -> None:
    body = b'{ "b" : 1.0, "a": "\\u00e9" }'
    assert redacted_json(body, redactor) is body


def test_what_is_not_json_is_redacted_as_bytes(redactor: Redactor) -> None:
    assert redacted_json(b'oops c4n4ry"3f9d0a17b2e84c65', redactor) == b"oops [REDACTED:CANARY]"


def test_a_document_that_is_no_message_is_withheld_when_it_holds_a_value(redactor: Redactor) -> None:
    withheld = json.loads(redacted_json(json.dumps('c4n4ry"3f9d0a17b2e84c65').encode(), redactor))
    assert withheld["error"]["message"] == "The answer was withheld: it could not be redacted."


async def test_a_line_of_a_stream_that_is_no_data_is_redacted(redactor: Redactor) -> None:
    _, bodies = await sent(redactor, "text/event-stream", b'event: c4n4ry"3f9d0a17b2e84c65\r\ndata: {}\r\n\r\n')
    assert b"".join(bodies) == b"event: [REDACTED:CANARY]\r\ndata: {}\r\n\r\n"


async def test_an_answer_without_end_is_not_buffered_without_end(
    redactor: Redactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox_tools.adapters.mcp.http_guard.MAX_MESSAGE_BYTES", 1000)
    with pytest.raises(OverflowError):
        await sent(redactor, "application/json", *[b"x" * 600] * 3)


@pytest.mark.parametrize(
    "public_url", ["", "sandbox.example.com", "https://", "https://a.example/mcp", "https://u:p@a.b"]
)
async def test_a_public_url_that_names_no_host_is_refused(public_url: str) -> None:
    with pytest.raises(ConfigurationError, match="public URL"):
        await serve_http(fake_toolset, callers(), port=0, public_url=public_url, on_ready=print, stop=anyio.Event())  # type: ignore[arg-type]
