"""Successful answers, buffered or read piece by piece."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import httpx

from sandbox_tools.client.call import Call
from sandbox_tools.errors import SandboxRequestError
from sandbox_tools.wire.envelope import parse_json_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A buffered answer. `headers` has lower-case names; nothing of the request is kept."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json_object(self, what: str) -> dict[str, object]:
        """Return the body as a JSON object; raises WireError."""
        return parse_json_object(self.body, what=what)


class OpenStream:
    """A successful answer whose body is read piece by piece. Close it always."""

    def __init__(self, response: httpx.Response, call: Call) -> None:
        self._response = response
        self._call = call

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """Header values by lower-case name."""
        return {name.lower(): value for name, value in self._response.headers.items()}

    @property
    def content_length(self) -> int | None:
        text = self._response.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            SandboxRequestError: The connection broke or fell silent.
        """
        pieces = self._response.aiter_raw()
        while True:
            failure: SandboxRequestError | None = None
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except Exception as exc:  # noqa: BLE001 - mapped below, outside this block, so that it is not chained
                failure = self._call.failure(exc)
            if failure is not None:
                raise failure
            yield piece

    async def read(self, max_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            SandboxProtocolError: It is longer than `max_bytes`.
        """
        if (self.content_length or 0) > max_bytes:
            raise self._call.invalid(f"it announces more than {max_bytes} bytes")
        body = bytearray()
        async for piece in self.chunks():
            body += piece
            if len(body) > max_bytes:
                raise self._call.invalid(f"it is longer than {max_bytes} bytes")
        return bytes(body)

    async def first_bytes(self, count: int) -> bytes:
        """Return at most the first `count` bytes of the body; what came of them when it broke off."""
        body = bytearray()
        with contextlib.suppress(SandboxRequestError):
            async for piece in self.chunks():
                body += piece[: count - len(body)]
                if len(body) >= count:
                    break
        return bytes(body)

    async def aclose(self) -> None:
        await self._response.aclose()
