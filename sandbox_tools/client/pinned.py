"""Credentials, below the HTTP client: added to the copy of a request that goes to the socket, for one origin only.

So no request, exception, hook, log or pickle above ever holds a token.
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import httpx

from sandbox_tools.client.lanes import Lanes
from sandbox_tools.errors import ConfigurationError
from sandbox_tools.redaction import Secret
from sandbox_tools.redaction.secret import reveal

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
        self._inner = Lanes(_tls() if scheme == "https" else False)
        self._origin = origin
        self._closed = False
        self._credentials = {name.lower().encode("ascii"): secret for name, secret in credentials.items()}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if _origin(str(request.url)) != self._origin:
            raise httpx.UnsupportedProtocol("blocked: not the pinned origin")
        if self._closed:  # httpx would open a connection that nobody closes
            raise httpx.UnsupportedProtocol("closed")
        try:
            return await self._inner.handle_async_request(self._with_credentials(request))
        except BaseException as exc:  # noqa: BLE001 - raised again, also in a cancelled task: its frames have the copy
            raise exc.with_traceback(None) from None

    def _with_credentials(self, request: httpx.Request) -> httpx.Request:
        headers = [(name, value) for name, value in request.headers.raw if name.lower() not in self._credentials]
        headers += [(name, reveal(secret).encode("ascii")) for name, secret in self._credentials.items()]
        extensions = {**request.extensions, "trace": self._forgetting(request.extensions.get("trace"))}
        return httpx.Request(request.method, request.url, headers=headers, stream=request.stream, extensions=extensions)

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
        await self._inner.aclose()


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
