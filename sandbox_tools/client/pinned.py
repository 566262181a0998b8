"""Credentials, below the HTTP client: added to the copy of a request that goes to the socket, for one origin only.

So no request, exception, hook, log or pickle above ever holds a token.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import httpx

from sandbox_tools.errors import ConfigurationError
from sandbox_tools.redaction import Secret
from sandbox_tools.redaction.secret import reveal

LANES: Final = 16
LANE_CONNECTIONS: Final = 16
"""How many connections one pool has. When a request begins or ends, httpcore looks at every idle connection once for
each of them, so that 64 calls at once in one pool would spend most of their time there."""

KEEPALIVE_S: Final = 45.0
"""Age at which an idle connection is not used again, in seconds: less than the 60 s after which load balancers close
them, because a request that meets that close fails and may not be repeated (client/retry.py)."""

Trace: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[None]]
"""Hears from httpcore how far a request is."""

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class PinnedTransport(httpx.AsyncBaseTransport):
    """Adds credentials at the last moment, for one origin only.

    TLS trusts the authorities that come with certifi, or instead those of `SSL_CERT_FILE` or `SSL_CERT_DIR` when one
    is set, which is what people behind a company's proxy need. No other variable of the environment is looked at.

    Raises:
        ConfigurationError: The base is not https, nor http on loopback; or the authorities cannot be read.
    """

    def __init__(self, base_url: str, credentials: Mapping[str, Secret]) -> None:
        try:
            origin = _origin(base_url)
        except ValueError:
            origin = ("", "", 0)
        scheme, host, _ = origin
        if scheme != "https" and not (scheme == "http" and host in _LOOPBACK):
            raise ConfigurationError("Credentials are only sent over https, or over http to this machine.")
        self._tls = _tls() if scheme == "https" else False
        self._lanes = [_Lane(self._tls)]
        self._origin = origin
        self._closed = False
        self._credentials = {name.lower().encode("ascii"): secret for name, secret in credentials.items()}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if _origin(str(request.url)) != self._origin:
            raise httpx.UnsupportedProtocol("blocked: not the pinned origin")
        if self._closed:  # httpx would open a connection that nobody closes
            raise httpx.UnsupportedProtocol("closed")
        headers = [(name, value) for name, value in request.headers.raw if name.lower() not in self._credentials]
        headers += [(name, reveal(secret).encode("ascii")) for name, secret in self._credentials.items()]
        extensions = {**request.extensions, "trace": self._forgetting(request.extensions.get("trace"))}
        return await self._lane().handle_async_request(
            httpx.Request(request.method, request.url, headers=headers, stream=request.stream, extensions=extensions)
        )

    def _lane(self) -> _Lane:
        """Return the first lane with room, so that calls one after the other share a connection."""
        free = next((lane for lane in self._lanes if lane.busy < LANE_CONNECTIONS), None)
        if free is None and len(self._lanes) < LANES:
            free = _Lane(self._tls)
            self._lanes.append(free)
        return free or min(self._lanes, key=lambda lane: lane.busy)

    def _forgetting(self, trace: Trace | None) -> Trace:
        """Return a trace function of httpcore that takes the credentials out of a request that was sent.

        httpcore keeps the request as long as its response, where a crash report with variables would find it.
        """

        async def forget(event: str, info: Mapping[str, Any]) -> None:
            if event.endswith("receive_response_headers.started"):
                sent = info["request"]
                sent.headers = [(name, value) for name, value in sent.headers if name.lower() not in self._credentials]
            if trace is not None:
                await trace(event, info)

        return forget

    def is_in(self, text: str) -> bool:
        """Tell whether a credential is part of a text."""
        return any(reveal(secret) in text for secret in self._credentials.values())

    async def aclose(self) -> None:
        self._closed = True
        for lane in self._lanes:
            await lane.aclose()


class _Lane(httpx.AsyncHTTPTransport):
    """A pool of a few connections.

    Attributes:
        busy: Requests whose answers were not closed yet.
    """

    def __init__(self, tls: ssl.SSLContext | bool) -> None:
        limits = httpx.Limits(
            max_connections=LANE_CONNECTIONS, max_keepalive_connections=LANE_CONNECTIONS, keepalive_expiry=KEEPALIVE_S
        )
        super().__init__(verify=tls, limits=limits)
        self.busy = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.busy += 1
        try:
            response = await super().handle_async_request(request)
        except BaseException:
            self.busy -= 1
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Leaving(response.stream, self)
        return response


class _Leaving(httpx.AsyncByteStream):
    """The body of an answer, which leaves its lane once it is closed."""

    def __init__(self, body: httpx.AsyncByteStream, lane: _Lane) -> None:
        self._body = body
        self._lane: _Lane | None = lane

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body.__aiter__()

    async def aclose(self) -> None:
        if self._lane is not None:
            self._lane.busy -= 1
            self._lane = None
        await self._body.aclose()


def _tls() -> ssl.SSLContext:
    return _trusting(os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", ""))


@functools.cache
def _trusting(cert_file: str, cert_dir: str) -> ssl.SSLContext:
    """Return the one context for all: loading the authorities takes longer than starting a sandbox."""
    problem = ""
    try:
        return httpx.create_ssl_context(trust_env=True)  # which looks at these two variables and no other
    except (OSError, ssl.SSLError) as exc:
        problem = type(exc).__name__
    name, value = ("SSL_CERT_FILE", cert_file) if cert_file else ("SSL_CERT_DIR", cert_dir)
    raise ConfigurationError(f"{name} is {value!r}, which cannot be read as certificate authorities ({problem}).")


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443}.get(parts.scheme, 80)
