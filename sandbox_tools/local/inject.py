"""Puts secrets into requests that leave a sandbox, for one host and in one header; takes them out of the answers.

The sandbox holds a placeholder. A program in it asks the proxy for `http://HOST/...` with the placeholder in a header;
the request goes on over TLS, to that host, with the value. TLS of the program's own passes the proxy unseen, so nothing
is swapped there. Nothing is ever swapped in a path or a body, and what has a placeholder where none may be is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import replace
from ssl import SSLContext
from typing import Final

import anyio

from sandbox_tools.injection import Injection
from sandbox_tools.local.outside import Link
from sandbox_tools.local.proxy import ProxyError, Target
from sandbox_tools.local.tls import TlsLink
from sandbox_tools.redaction import Redactor, Registry, default_registry
from sandbox_tools.redaction.secret import reveal
from sandbox_tools.wire.hops import Headers, without

HANDSHAKE_TIMEOUT_S: Final = 10.0

_HTTP_PORT: Final = 80
_HTTPS_PORT: Final = 443
_BASIC: Final = b"basic "
_ENCODINGS: Final = frozenset({b"accept-encoding"})
_LENGTH: Final = frozenset({b"content-length"})


class Injector:
    """What one service swaps, for all of its sandboxes."""

    def __init__(self, injections: Sequence[Injection], registry: Registry) -> None:
        self._injections = tuple(injections)
        self._redactor = Redactor(registry)
        self._trusted = _trusted()

    @classmethod
    def from_json(cls, text: str) -> Injector:
        """Read what the parent process gives."""
        registry = default_registry()
        injections = [
            Injection(
                name=item["name"],
                placeholder=item["placeholder"],
                secret=registry.register(item["name"], item["value"]),
                hosts=frozenset(item["hosts"]),
                headers=frozenset(item["headers"]),
            )
            for item in json.loads(text)
        ]
        return cls(injections, registry)

    def secured(self, target: Target) -> Target:
        """Return where a request goes: over TLS, when its host is one for a secret."""
        host = target.host.lower()
        if target.port != _HTTP_PORT or not any(host in injection.hosts for injection in self._injections):
            return target
        return replace(target, host=host, port=_HTTPS_PORT, authority=host.encode(), is_secure=True)

    def headers(self, target: Target, headers: Headers) -> Headers:
        """Return the headers to send: with the values where this target and header may have them.

        Raises:
            ProxyError: A placeholder is anywhere else (403).
        """
        for injection in self._injections:
            if injection.placeholder.encode() in target.path:
                raise _refused(injection, "is in a URL")
        swapped = [(name, self._swapped(target, name, value)) for name, value in headers]
        if not target.is_secure:
            return swapped
        return [*without(swapped, _ENCODINGS), (b"accept-encoding", b"identity")]  # to look through the answer

    async def secure(self, link: Link, host: str) -> Link:
        """Return a connection to a host that has proved who it is.

        Raises:
            ProxyError: It has not (502, 504).
        """
        failure = ProxyError(504, f"{host} does not answer")
        secured = TlsLink(link, host, self._trusted)
        try:
            with anyio.fail_after(HANDSHAKE_TIMEOUT_S):
                await secured.handshake()
            return secured
        except TimeoutError:
            pass
        except OSError as error:
            failure = ProxyError(502, f"{host} cannot be reached over TLS ({type(error).__name__})")
        raise failure

    def scrubber(self) -> Scrubber:
        """Return what takes the values out of one answer."""
        return Scrubber(self._redactor)

    def _swapped(self, target: Target, name: bytes, value: bytes) -> bytes:
        plain, is_basic = _opened(value)
        found = [injection for injection in self._injections if injection.placeholder.encode() in plain]
        for injection in found:
            if not target.is_secure or target.host not in injection.hosts:
                raise _refused(injection, "is for another host")
            if name.decode("latin-1").lower() not in injection.headers:
                raise _refused(injection, "is in another header")
            plain = plain.replace(injection.placeholder.encode(), reveal(injection.secret).encode())
        if not found:
            return value
        return b"Basic " + base64.b64encode(plain) if is_basic else plain


class Scrubber:
    """Takes the values out of one answer."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._stream = redactor.stream()

    def headers(self, headers: Headers) -> Headers:
        """Return the headers of the answer; its length is not known any more.

        Raises:
            ProxyError: Its body is compressed, so it could not be looked through (502).
        """
        if any(name.lower() == b"content-encoding" and value.lower() != b"identity" for name, value in headers):
            raise ProxyError(502, "the answer is compressed, though that was not asked for")
        kept = without(headers, _LENGTH)
        return [(name, self._redactor.data(value)) for name, value in kept if self._redactor.data(name) is name]

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the body and return what is certain by now."""
        return self._stream.feed(data)

    def close(self) -> bytes:
        """Return the rest of the body."""
        return self._stream.close()


def _trusted() -> SSLContext:
    """Trust what the client of this package trusts: certifi, or `SSL_CERT_FILE`, `SSL_CERT_DIR`."""
    import httpx  # noqa: PLC0415 - heavy, and few services have a secret to put anywhere

    context = httpx.create_ssl_context(trust_env=True)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _refused(injection: Injection, why: str) -> ProxyError:
    return ProxyError(403, f"the placeholder of {injection.name} {why}; it may be used as {injection}")


def _opened(value: bytes) -> tuple[bytes, bool]:
    """Return the text of a header, and whether it was within Basic authentication."""
    if value[: len(_BASIC)].lower() == _BASIC:
        try:
            return base64.b64decode(value[len(_BASIC) :].strip(), validate=True), True
        except binascii.Error:
            pass
    return value, False
