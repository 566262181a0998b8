"""The outbound guard: the last redaction, where messages leave for the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcp import types
from mcp.shared.message import SessionMessage

from sandbox_tools.redaction import Redactor


@dataclass(frozen=True, slots=True)
class RedactedWriteStream:
    """A write stream of the SDK that redacts every message: results, listings, errors and notifications.

    Tool results are redacted before they get here. This guard is for everything else that the SDK or we may ever
    send, such as an error that quotes its request. It fails closed: what cannot be redacted is not sent.
    """

    inner: Any
    redactor: Redactor

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message without secrets."""
        await self.inner.send(_redacted(item, self.redactor))

    async def aclose(self) -> None:
        """Close the stream."""
        await self.inner.aclose()

    async def __aenter__(self) -> RedactedWriteStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _redacted(item: SessionMessage, redactor: Redactor) -> SessionMessage:
    message = item.message.model_dump(by_alias=True, mode="json", exclude_unset=True)
    clean = redactor.walk(message)
    if clean == message:
        return item
    return SessionMessage(types.jsonrpc_message_adapter.validate_python(clean, by_name=False), item.metadata)
