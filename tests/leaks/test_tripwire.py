"""The tripwire on the MCP wire: when redaction does not work, the message does not leave, and that is counted."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import pytest
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCError, JSONRPCNotification, JSONRPCResponse
from starlette.types import Message

from sandbox_tools.adapters.mcp.guard import STDIO, RedactedWriteStream
from sandbox_tools.adapters.mcp.http_guard import HTTP, RedactedResponse
from sandbox_tools.redaction import Redactor, Registry

PLAIN = secrets.token_urlsafe(24)
AWKWARD = f'{secrets.token_hex(8)}"\\\u00e4{secrets.token_hex(8)}'
"""JSON writes it in two other ways."""

VALUES = [PLAIN, AWKWARD]


class BrokenRedactor(Redactor):
    """Redacts nothing."""

    __slots__ = ()

    def walk(self, value: object) -> object:
        return value

    def data(self, value: bytes) -> bytes:
        return value


@pytest.fixture
def broken() -> Redactor:
    registry = Registry()
    for value in VALUES:
        registry.register("CANARY", value)
    return BrokenRedactor(registry)


async def sent_by_stdio(redactor: Redactor, message: Any) -> list[str]:
    send, receive = anyio.create_memory_object_stream[SessionMessage](1)
    async with RedactedWriteStream(send, redactor) as guarded:
        await guarded.send(SessionMessage(message))
    async with receive:
        return [item.message.model_dump_json(by_alias=True, exclude_unset=True) async for item in receive]


async def sent_by_http(redactor: Redactor, content_type: bytes, *bodies: bytes) -> tuple[Mapping[bytes, bytes], bytes]:
    """Return the headers and the body that leave."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    response = RedactedResponse(send, redactor)
    headers: Sequence[tuple[bytes, bytes]] = [(b"content-type", content_type), (b"x-echo", PLAIN.encode())]
    await response({"type": "http.response.start", "status": 200, "headers": headers})
    for number, body in enumerate(bodies, 1):
        await response({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})
    return dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


@pytest.mark.parametrize("value", VALUES, ids=["plain", "escaped"])
async def test_an_answer_that_still_has_a_value_becomes_an_error(
    broken: Redactor, blocked: list[str], value: str, caplog: pytest.LogCaptureFixture
) -> None:
    [sent] = await sent_by_stdio(broken, JSONRPCResponse(jsonrpc="2.0", id=7, result={"text": [f"x{value}y"]}))
    assert json.loads(sent) == {
        "jsonrpc": "2.0",
        "id": 7,
        "error": {"code": -32603, "message": "The answer was withheld: it held a secret."},
    }
    assert caplog.messages == ["blocked: CANARY was about to leave by MCP stdio"]
    assert broken.counts().blocked == {STDIO: 1}
    blocked.clear()


async def test_a_notification_is_dropped_and_so_is_an_error_whose_id_is_the_value(
    broken: Redactor, blocked: list[str]
) -> None:
    notification = JSONRPCNotification(jsonrpc="2.0", method="notifications/message", params={"data": PLAIN})
    error = JSONRPCError.model_validate({"jsonrpc": "2.0", "id": PLAIN, "error": {"code": 0, "message": "no"}})
    assert await sent_by_stdio(broken, notification) == []
    assert await sent_by_stdio(broken, error) == []
    assert blocked[:2] == [STDIO, STDIO]
    blocked.clear()


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("value", VALUES, ids=["plain", "escaped"])
async def test_over_http_an_answer_becomes_an_error_in_both_modes(
    broken: Redactor, blocked: list[str], value: str, ascii_only: bool
) -> None:
    message = json.dumps({"jsonrpc": "2.0", "id": 7, "result": value}, ensure_ascii=ascii_only).encode()
    note = json.dumps({"jsonrpc": "2.0", "method": "note", "params": value}, ensure_ascii=ascii_only).encode()
    headers, body = await sent_by_http(broken, b"application/json", message[:20], message[20:])
    assert int(headers[b"content-length"]) == len(body)
    assert json.loads(body)["error"]["message"].startswith("The answer was withheld")
    assert b"x-echo" not in headers
    events = b": ping\r\n\r\nevent: message\r\ndata: " + note + b"\r\n\r\ndata: " + message + b"\r\n\r\n"
    _, sent = await sent_by_http(broken, b"text/event-stream", events[:50], events[50:])
    assert sent.split(b"\r\n\r\n")[:2] == [b": ping", b"event: message\r\n:"]
    assert sent.count(b"data: ") == 1
    assert b'"id":7,"error"' in sent
    assert set(blocked) == {HTTP}
    blocked.clear()


async def test_over_http_a_line_that_is_no_data_is_dropped(broken: Redactor, blocked: list[str]) -> None:
    _, sent = await sent_by_http(broken, b"text/event-stream", f"id: {PLAIN}\r\n\r\nevent: x\r\n".encode())
    assert sent == b"\r\nevent: x\r\n"
    assert set(blocked) == {HTTP}
    blocked.clear()


async def test_a_message_without_a_value_passes_as_the_same_object(broken: Redactor) -> None:
    message = JSONRPCResponse(jsonrpc="2.0", id=1, result={"text": PLAIN[:-1]})
    send, receive = anyio.create_memory_object_stream[SessionMessage](1)
    async with RedactedWriteStream(send, broken) as guarded, receive:
        await guarded.send(SessionMessage(message))
        assert (await receive.receive()).message is message


def test_it_looks_for_live_and_retired_values_and_not_for_forgotten_ones(
    blocked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox_tools.redaction.registry.MAX_RETIRED", 2)
    registry = Registry()
    redactor = Redactor(registry)
    values = [secrets.token_hex(16) for _ in range(3)]
    for value in values:
        registry.retire(registry.register("OLD", value))
    assert [redactor.trips(value.encode(), "test") for value in (values[0], values[-1])] == [False, True]
    blocked.clear()
