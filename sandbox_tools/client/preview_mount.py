"""Private previews below a path of an HTTP server, for users who are not on this machine.

A path shares its origin with the rest of the server, so a browser is told to give these pages no origin at all: scripts
run, but there are no cookies and no storage, and absolute paths of an app lead elsewhere. WebSockets are not served.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

import anyio

from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.preview_site import Previews
from sandbox_tools.client.preview_upstream import PreviewAnswer, PreviewError, PreviewRequest
from sandbox_tools.redaction import Redactor
from sandbox_tools.wire.hops import Headers

LIFETIME_S: Final = 3600.0
"""Time for which a path works after it was last asked for, in seconds."""

_PATH: Final = "/preview/"
_COOKIES: Final = frozenset({b"cookie", b"set-cookie", b"authorization", b"clear-site-data", b"service-worker-allowed"})
_NO_ORIGIN: Final[Headers] = [
    (b"content-security-policy", b"sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),  # the path is all that it takes
    (b"cache-control", b"no-store"),
]

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class PreviewMount:
    """An ASGI application for `/preview/...`. Implements `PreviewSite`.

    Args:
        base_url: Of the server, as its users know it, without a final slash.
        redactor: Knows the tokens of the sandboxes.
    """

    def __init__(self, base_url: str, redactor: Redactor) -> None:
        self._base_url = base_url
        self._previews = Previews(redactor, LIFETIME_S)

    async def publish(self, sandbox_id: str, port: int, access: Callable[[], RuntimeAccess]) -> str:
        """See `PreviewSite.publish`."""
        return f"{self._base_url}{_PATH}{self._previews.add(sandbox_id, port, access)}/"

    async def withdraw(self, sandbox_id: str) -> None:
        """See `PreviewSite.withdraw`."""
        await self._previews.remove(sandbox_id)

    def serves(self, scope: Event) -> bool:
        """Tell whether a request is for a preview of this mount."""
        return self._previews.find(_name(scope)) is not None

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Serve a request; any that is not for a preview of this mount gets 404."""
        try:
            answer = await self._ask(scope, receive)
        except PreviewError as error:
            await _send_text(send, error.status, str(error))
            return
        try:
            await _carry(answer, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await answer.aclose()

    async def _ask(self, scope: Event, receive: Receive) -> PreviewAnswer:
        name = _name(scope)
        upstream = self._previews.find(name)
        if upstream is None:
            raise PreviewError(404, "This preview has ended, or there never was one. Ask for a new preview URL.")
        prefix = f"{_PATH}{name}"
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        request = PreviewRequest(
            method=scope["method"].encode("ascii", "replace"),
            target=(bytes(scope["raw_path"]).removeprefix(prefix.encode("ascii")) or b"/") + query,
            headers=[pair for pair in scope["headers"] if pair[0] not in _COOKIES],
            content=_body(receive) if _has_body(scope["headers"]) else None,
        )
        return await upstream.ask(request, base=f"{self._base_url}{prefix}")


def _name(scope: Event) -> str:
    raw = bytes(scope.get("raw_path") or b"").decode("latin-1")
    return raw.removeprefix(_PATH).partition("/")[0] if raw.startswith(_PATH) else ""


async def _carry(answer: PreviewAnswer, receive: Receive, send: Send) -> None:
    headers = [pair for pair in answer.headers if pair[0] not in _COOKIES]
    ours = {name for name, _ in _NO_ORIGIN}
    headers = [*(pair for pair in headers if pair[0] not in ours), *_NO_ORIGIN]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch, receive, tasks.cancel_scope)
        with suppress(PreviewError):  # the server closes the connection, because the answer has no end
            async for piece in answer.chunks():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        tasks.cancel_scope.cancel()


async def _watch(receive: Receive, scope: anyio.CancelScope) -> None:
    """Give the answer up when the browser leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise PreviewError(400, "The body broke off.")
        yield event.get("body", b"")
        if not event.get("more_body", False):
            return


def _has_body(headers: Headers) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)


async def _send_text(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_NO_ORIGIN]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode(), "more_body": False})
