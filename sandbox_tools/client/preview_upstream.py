"""A private preview, seen from this side of the wire: one port of a sandbox, asked for with its token.

The token is added below the HTTP client (client/pinned.py), so nothing here ever holds it. What a page asks for is
written anew, and what an app answers is hostile: headers are filtered, and the body passes the redactor, because an
app may see the token (wire contract 5.2) and show it, as a debug page does that prints the request.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

import anyio
import httpx

from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.pinned import PinnedTransport
from sandbox_tools.redaction import Redactor
from sandbox_tools.wire.hops import HOP_BY_HOP, Headers, host_only, without
from sandbox_tools.wire.preview import preview_url

SILENCE_S: Final = 600.0
"""Silence of an app after which a request is given up, in seconds."""

_CONNECT_S: Final = 10.0
_PIECE_BYTES: Final = 65_536

_NOT_FORWARDED: Final = HOP_BY_HOP | {
    b"host",
    b"expect",
    b"accept-encoding",  # what is compressed cannot be searched for the token
    b"x-api-key",
    b"x-access-token",
    b"e2b-traffic-access-token",
    # These name the origin on this machine, which the app does not know: it would refuse its own pages as foreign.
    b"origin",
    b"referer",
    b"sec-fetch-dest",
    b"sec-fetch-mode",
    b"sec-fetch-site",
    b"sec-fetch-user",
}
_TEXT: Final = re.compile(
    rb"text/|application/(?:json|javascript|xml|[a-z0-9.+-]*\+(?:json|xml)|x-www-form-urlencoded)"
)
_EVENTS: Final = b"text/event-stream"
_LOCAL: Final = ("127.0.0.1", "localhost", "0.0.0.0")  # noqa: S104 - what apps call themselves


class PreviewError(Exception):
    """A request that is not forwarded, or that nothing answers. The message is ours."""

    def __init__(self, status: int, message: str) -> None:
        self.status: Final = status
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewRequest:
    """What a page asks for.

    Attributes:
        target: Path and query, exactly as sent.
        content: The body, as it comes; None: there is none.
        upgrade: Ask for a WebSocket.
    """

    method: bytes
    target: bytes
    headers: Headers
    content: AsyncIterator[bytes] | None = None
    upgrade: bool = False


class PreviewAnswer:
    """What an app answers. Close it always.

    Attributes:
        status: Of HTTP; 101 when it speaks WebSocket from here on, with `received` and `send`.
        headers: For the page. The length is left out where the body may change.
    """

    def __init__(self, response: httpx.Response, headers: Headers, redactor: Redactor) -> None:
        self.status: Final = response.status_code
        self.headers: Final = headers
        self._response = response
        self._redactor = redactor

    async def received(self) -> AsyncIterator[bytes]:
        """Yield what the app sends over a WebSocket, after a 101; raises PreviewError as `chunks`."""
        async for piece in checked(self._received(), self._redactor):
            yield piece

    async def send(self, data: bytes) -> None:
        """Send to the app over a WebSocket.

        Raises:
            PreviewError: The app is gone.
        """
        with _broken_off():
            await self._response.extensions["network_stream"].write(data)

    async def _received(self) -> AsyncIterator[bytes]:
        stream = self._response.extensions["network_stream"]
        with _broken_off():
            while piece := await stream.read(_PIECE_BYTES):
                yield piece

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body without secrets.

        Raises:
            PreviewError: The app broke off, or its answer holds a secret where none can be replaced.
        """
        without_secrets = _redacted if _may_change(self._response.headers.raw) else checked
        with _broken_off():
            async for piece in without_secrets(self._response.aiter_raw(), self._redactor):
                yield piece

    async def aclose(self) -> None:
        await self._response.aclose()


class PreviewUpstream:
    """One port of a sandbox with private previews.

    Args:
        access: How the sandbox is reached now; asked before each request.
        redactor: Knows the tokens.
    """

    def __init__(self, access: Callable[[], RuntimeAccess], port: int, redactor: Redactor) -> None:
        self._access = access
        self._used = access()
        self._port = port
        self._redactor = redactor
        self._connect()

    async def ask(self, request: PreviewRequest, *, base: str) -> PreviewAnswer:
        """Forward a request.

        Args:
            base: Where the browser has the preview, such as `http://3000-x.localhost:4711`, without a final slash.

        Raises:
            PreviewError: It is not forwarded, or nothing answers.
        """
        if self._access() is not self._used:
            self._used = self._access()
            await self._transport.aclose()
            self._connect()
        outgoing = httpx.Request(
            request.method.decode("ascii", "replace"),
            self._url.copy_with(raw_path=self._url.raw_path + _below(request.target)),
            headers=[*_request_headers(request.headers, base), *(_UPGRADE if request.upgrade else [])],
            content=request.content,
            extensions={"timeout": {"connect": _CONNECT_S, "read": SILENCE_S, "write": SILENCE_S, "pool": _CONNECT_S}},
        )
        problem = "it does not answer with HTTP"
        try:
            response = await self._transport.handle_async_request(outgoing)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            problem = "there is no connection to the sandbox"
        except httpx.HTTPError:
            pass
        else:
            if response.status_code < 200 and not request.upgrade:
                await response.aclose()
                raise PreviewError(502, "The app switches protocols, though nobody asked for that.")
            return PreviewAnswer(response, self._response_headers(response.headers.raw, base), self._redactor)
        raise PreviewError(502, f"Port {self._port} of the sandbox cannot be shown: {problem}.")

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _connect(self) -> None:
        """The token is the one for previews, else the runtime's, in both headers (wire contract 5.2)."""
        token = self._used.traffic_token or self._used.access_token
        self._url = httpx.URL(preview_url(self._used.envd_url, self._port))
        self._transport = PinnedTransport(str(self._url), {"X-Access-Token": token, "e2b-traffic-access-token": token})

    def _response_headers(self, given: Headers, base: str) -> Headers:
        dropped = HOP_BY_HOP | ({b"content-length"} if _may_change(given) else set())
        return [
            (name, self._redactor.data(self._for_page(name, value, base))) for name, value in without(given, dropped)
        ]

    def _for_page(self, name: bytes, value: bytes, base: str) -> bytes:
        if name == b"set-cookie":
            return host_only(value)
        return self._moved(value, base) if name in (b"location", b"content-location") else value

    def _moved(self, location: bytes, base: str) -> bytes:
        """Map an address of the app itself, as the app or the router knows it, to where the browser has it."""
        text = location.decode("latin-1")
        prefix = self._url.raw_path.decode("ascii").rstrip("/")
        parts = urlsplit(text)
        is_upstream = not parts.netloc or parts.netloc == self._url.netloc.decode("ascii")
        if is_upstream and f"{parts.path}/".startswith(f"{prefix}/"):
            path = parts.path[len(prefix) :] or "/"
        elif parts.scheme == "http" and parts.netloc in [f"{name}:{self._port}" for name in _LOCAL]:
            path = parts.path or "/"
        elif not parts.scheme and not parts.netloc and parts.path.startswith("/"):
            path = parts.path
        else:
            return location
        query = f"?{parts.query}" if parts.query else ""
        return f"{base}{path}{query}{f'#{parts.fragment}' if parts.fragment else ''}".encode("latin-1")


@contextmanager
def _broken_off() -> Iterator[None]:
    """Say in words of our own that a connection broke, without what broke it."""
    broken = False
    try:
        yield
    except (httpx.HTTPError, httpx.StreamError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        broken = True
    except Exception as error:  # httpcore's own errors come from the connection of a WebSocket
        if not type(error).__module__.startswith("httpcore"):
            raise
        broken = True
    if broken:
        raise PreviewError(502, "The app broke off.")


_UPGRADE: Final[Headers] = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]


def _below(target: bytes) -> bytes:
    """Return a target without its first slash; raises PreviewError for one that would leave the preview."""
    path = target.partition(b"?")[0]
    segments = unquote_to_bytes(path).replace(b"\\", b"/").split(b"/")
    if not target.startswith(b"/") or b".." in segments or b"." in segments:
        raise PreviewError(400, "The path of a preview begins with / and has no . or .. in it.")
    return target[1:]


def _request_headers(given: Headers, base: str) -> Headers:
    is_chunked = any(name == b"transfer-encoding" for name, _ in given)  # then a length counts for nothing
    parts = urlsplit(base)
    return [
        *without(given, _NOT_FORWARDED | ({b"content-length"} if is_chunked else set())),
        (b"accept-encoding", b"identity"),
        (b"x-forwarded-host", parts.netloc.encode("ascii")),
        (b"x-forwarded-proto", parts.scheme.encode("ascii")),
        *([(b"x-forwarded-prefix", parts.path.encode("ascii"))] if parts.path else []),
    ]


def _may_change(headers: Headers) -> bool:
    """Whether secrets in a body are replaced: in text. A stream of events is not held back for it."""
    kind = next((value.strip().lower() for name, value in headers if name.lower() == b"content-type"), b"")
    return bool(_TEXT.match(kind)) and not kind.startswith(_EVENTS)


async def _redacted(pieces: AsyncIterator[bytes], redactor: Redactor) -> AsyncIterator[bytes]:
    stream = redactor.stream()
    async for piece in pieces:
        yield stream.feed(piece)
    yield stream.close()


_WINDOW: Final = 4096
"""Bytes that are looked at again with the next piece; a token in any listed form is shorter."""


async def checked(pieces: AsyncIterator[bytes], redactor: Redactor) -> AsyncIterator[bytes]:
    """Break off where a secret shows: bytes that are not text cannot be replaced, and events must not wait."""
    before = b""
    async for piece in pieces:
        seen = before + piece
        if redactor.data(seen) is not seen:
            raise PreviewError(502, "The answer holds a secret.")
        before = seen[-_WINDOW:]
        yield piece
