"""The outbound guard: the last redaction, where messages leave for the client, and a tripwire below it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from mcp import types
from mcp.shared.message import SessionMessage

from sandbox_tools.redaction import Redactor

STDIO: Final = "MCP stdio"
"""What the counter of blocked messages calls this channel."""

_BLOCKED: Final = "The answer was withheld: it held a secret."


@dataclass(frozen=True, slots=True)
class RedactedWriteStream:
    """A write stream of the SDK that redacts every message: results, listings, errors and notifications.

    Tool results are redacted before they get here. This guard is for everything else that the SDK or we may ever
    send, such as an error that quotes its request. It fails closed: what cannot be redacted is not sent.
    """

    inner: Any
    redactor: Redactor

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message without secrets. One that still has some is an error, or nothing, to the client."""
        clean = _redacted(item, self.redactor)
        # What the SDK will write, byte for byte (mcp/server/stdio.py).
        written = clean.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
        if not self.redactor.trips(written, STDIO):
            await self.inner.send(clean)
        elif answer := instead_of(written, self.redactor):
            message = types.jsonrpc_message_adapter.validate_json(answer, by_name=False)
            await self.inner.send(SessionMessage(message, item.metadata))

    async def aclose(self) -> None:
        """Close the stream."""
        await self.inner.aclose()

    async def __aenter__(self) -> RedactedWriteStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def instead_of(blocked: bytes, redactor: Redactor) -> bytes:
    """Return what is sent instead of a message that must not be: an error for an answer, else nothing."""
    try:
        message = json.loads(blocked)
    except (ValueError, RecursionError):
        return b""
    if not isinstance(message, dict) or "method" in message:
        return b""
    error = {"code": types.INTERNAL_ERROR, "message": _BLOCKED}
    answer = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "error": error}, separators=(",", ":")).encode()
    return b"" if redactor.trips(answer, "the id of a blocked message") else answer


def _redacted(item: SessionMessage, redactor: Redactor) -> SessionMessage:
    message = item.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
    clean = redactor.walk(message)
    if clean == message:
        return item
    return SessionMessage(types.jsonrpc_message_adapter.validate_python(clean, by_name=False), item.metadata)
