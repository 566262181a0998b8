"""The outbound guard of the HTTP transport: what `guard.py` is for stdio.

The SDK answers the newer protocol era without any write stream of its own, so the messages are redacted where they
leave: in the bodies of the HTTP responses, one JSON document or a stream of events.
"""

from __future__ import annotations

import json
import logging
from typing import Final

from starlette.types import Message, Send

from sandbox_tools.adapters.mcp.guard import instead_of
from sandbox_tools.redaction import Redactor

HTTP: Final = "MCP over HTTP"
"""What the counter of blocked messages calls this channel."""

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""The longest message that is held to be redacted, in bytes; a longer one is withheld. Results are far smaller."""

_WITHHELD: Final = b"""{"jsonrpc":"2.0","id":null,"error":\
{"code":-32603,"message":"The answer was withheld: it could not be redacted."}}"""
_END_OF_EVENT: Final = (b"\r\n\r\n", b"\n\n")

_logger = logging.getLogger("sandbox_tools.mcp")


class RedactedResponse:
    """An ASGI `send` that redacts what passes through it. It fails closed: what cannot be redacted is withheld.

    A JSON body is held until it is whole; a stream of events goes on event by event; any other body is redacted as
    the bytes that it is.
    """

    def __init__(self, send: Send, redactor: Redactor) -> None:
        self._send = send
        self._redactor = redactor
        self._start: Message = {}
        self._is_events = False
        self._held = bytearray()

    async def __call__(self, message: Message) -> None:
        """Pass an ASGI message on."""
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] == "http.response.body":
            await self._body(message.get("body", b""), more=message.get("more_body", False))
        else:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        headers = [pair for pair in message.get("headers", []) if not self._redactor.trips(pair[1], HTTP)]
        message = self._start = {**message, "headers": headers}
        self._is_events = _header(message, b"content-type").startswith(b"text/event-stream")
        if self._is_events:
            await self._send(message)

    async def _body(self, data: bytes, *, more: bool) -> None:
        self._held += data
        if len(self._held) > MAX_MESSAGE_BYTES:
            _logger.error("an answer of more than %d bytes was withheld", MAX_MESSAGE_BYTES)
            self._held[:] = b""
            raise OverflowError("an answer is too long to be redacted")  # the server closes the connection
        if self._is_events:
            await self._send({"type": "http.response.body", "body": self._whole_events(more), "more_body": more})
        elif not more:
            await self._whole_body()

    async def _whole_body(self) -> None:
        """Only now is the length known."""
        body = self._checked(redacted_json(bytes(self._held), self._redactor))
        headers = [(name, value) for name, value in self._start.get("headers", []) if name != b"content-length"]
        await self._send({**self._start, "headers": [*headers, (b"content-length", b"%d" % len(body))]})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _whole_events(self, more: bool) -> bytes:
        """Take the events that are complete out of what is held; all of it at the end."""
        end = max((self._held.rfind(mark) + len(mark) for mark in _END_OF_EVENT if mark in self._held), default=0)
        ready = bytes(self._held[: end if more else None])
        del self._held[: len(ready)]
        return b"".join(self._line(line) for line in ready.splitlines(keepends=True))

    def _line(self, line: bytes) -> bytes:
        """Redact one line of an event stream; the SDK writes a message in one `data:` line."""
        if not line.startswith(b"data:"):
            return self._checked(self._redactor.data(line))
        text = line[5:].strip(b" \r\n")
        if not text:
            return line
        message = self._checked(redacted_json(text, self._redactor))
        ending = line[len(line.rstrip(b"\r\n")) :]
        return (b"data: " + message if message else b":") + ending  # the latter is a comment

    def _checked(self, data: bytes) -> bytes:
        """Return what may be sent of data that was redacted: all of it, if nothing went wrong."""
        return instead_of(data, self._redactor) if self._redactor.trips(data, HTTP) else data


def redacted_json(body: bytes, redactor: Redactor) -> bytes:
    """Redact a JSON document string by string, so that it stays one; anything else as bytes."""
    if not body:
        return body
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return redactor.data(body)
    clean = redactor.walk(value)
    if clean == value:
        return body
    if not isinstance(clean, (dict, list)):
        return _WITHHELD
    return json.dumps(clean, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _header(message: Message, wanted: bytes) -> bytes:
    return next((bytes(value) for name, value in message.get("headers", []) if bytes(name).lower() == wanted), b"")
