"""MCP over Streamable HTTP: several callers, each with a token, a toolset and sandboxes of its own."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import anyio
import uvicorn
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox_tools.adapters.mcp.http_guard import RedactedResponse
from sandbox_tools.adapters.mcp.server import create_server
from sandbox_tools.errors import ConfigurationError
from sandbox_tools.redaction import Redactor, Registry, default_registry
from sandbox_tools.sandboxes import PreviewMount, PreviewSite
from sandbox_tools.toolset import Toolset

PATH: Final = "/mcp"

MIN_TOKEN_CHARS: Final = 24
"""A token is the only thing between a caller and the sandboxes of another."""

MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
"""A whole file may be in the arguments of write_file; the SDK's default of 4 MiB is too small for that."""

_PUBLIC_URL: Final = re.compile(r"https?://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?/?")
_BEARER: Final = re.compile(r"[Bb]earer +([\x21-\x7e]{1,512}) *")

_logger = logging.getLogger("sandbox_tools.mcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who may call: a name for the log, and the digest of the token that proves it."""

    name: str
    token_sha256: bytes


def read_callers(text: str, registry: Registry) -> tuple[Caller, ...]:
    """Read the callers, one `name token` a line; lines that begin with `#` are comments.

    The tokens are registered with the redactor, and only their digests are kept here.

    Raises:
        ConfigurationError: A line is something else, a name or a token occurs twice, a token is too short, or there
            is no caller. The message names the line and shows no token.
    """
    callers: list[Caller] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, token = line.strip().partition(" ")
        token = token.strip()
        if not _BEARER.fullmatch(f"Bearer {token}") or len(token) < MIN_TOKEN_CHARS:
            raise ConfigurationError(
                f"Line {number} of the tokens is not `name token` with a token of at least {MIN_TOKEN_CHARS} "
                "ASCII characters without spaces."
            )
        registry.register("MCP_TOKEN", token)
        callers.append(Caller(name=name, token_sha256=hashlib.sha256(token.encode()).digest()))
    if not callers:
        raise ConfigurationError("There is no token, so nobody could call. Add one line: `name token`.")
    if len({c.name for c in callers}) < len(callers) or len({c.token_sha256 for c in callers}) < len(callers):
        raise ConfigurationError("A name or a token occurs twice in the tokens.")
    return tuple(callers)


async def serve_http(
    open_toolset: Callable[[PreviewSite], AbstractAsyncContextManager[Toolset]],
    callers: tuple[Caller, ...],
    *,
    port: int,
    host: str = "127.0.0.1",
    public_url: str | None = None,
    on_ready: Callable[[str], None],
    stop: anyio.Event,
) -> None:
    """Serve MCP on `http://host:port/mcp` until `stop` is set; then the sandboxes of all callers are deleted.

    Every caller has a toolset of its own, so no caller can see, use or end a sandbox of another. The answers are
    streams of events: only so does the end of a connection cancel the call (the JSON mode of the SDK does not).

    Args:
        open_toolset: Called once for each caller, with where its private previews are served.
        port: 0 takes a free one.
        host: Address to listen on. Tokens travel in clear, so anything but loopback belongs behind a TLS proxy.
        public_url: How users reach the server when that is not loopback: the URL of that proxy.
        on_ready: Told the URL when it serves.

    Raises:
        ConfigurationError: `public_url` cannot be used.
        OSError: The port is taken.
    """
    if public_url is not None and not _PUBLIC_URL.fullmatch(public_url):
        raise ConfigurationError("The public URL is not like https://sandbox.example.com, without a path.")
    with _listen(host, port) as listener:
        port = listener.getsockname()[1]
        base_url = (public_url or f"http://{host}:{port}").rstrip("/")
        hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")} | {urlsplit(base_url).netloc}
        security = TransportSecuritySettings(
            allowed_hosts=sorted(hosts),
            allowed_origins=[f"{scheme}://{name}" for name in sorted(hosts) for scheme in ("http", "https")],
        )
        previews = PreviewMount(base_url, Redactor(default_registry()))
        async with AsyncExitStack() as stack:
            endpoints: dict[bytes, ASGIApp] = {}
            for caller in callers:
                toolset = await stack.enter_async_context(open_toolset(previews))
                manager = StreamableHTTPSessionManager(
                    create_server(toolset), security_settings=security, max_request_body_size=MAX_REQUEST_BYTES
                )
                await stack.enter_async_context(manager.run())
                endpoints[caller.token_sha256] = _redacted(manager, toolset)
                _logger.info("caller %s: the tools run in %s", caller.name, toolset.where)
            server = _Server(_app(endpoints, previews, hosts), lambda: on_ready(f"{base_url}{PATH}"))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_stop_when_set, server, stop)
                await server.serve(sockets=[listener])
                tasks.cancel_scope.cancel()


async def _stop_when_set(server: uvicorn.Server, stop: anyio.Event) -> None:
    await stop.wait()
    server.should_exit = True


def _app(endpoints: Mapping[bytes, ASGIApp], previews: PreviewMount, hosts: Collection[str]) -> ASGIApp:
    """Route a request for MCP by its token; without a valid one nothing of it is read."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if HTTPConnection(scope).headers.get("host") not in hosts:
            await PlainTextResponse("This server has another name.", 421)(scope, receive, send)
            return
        if previews.serves(scope):
            await previews(scope, receive, send)
            return
        if scope["path"] != PATH:
            await PlainTextResponse(f"There is nothing here; MCP is at {PATH}.", 404)(scope, receive, send)
            return
        endpoint = _endpoint(endpoints, HTTPConnection(scope).headers.getlist("authorization"))
        if endpoint is None:
            refusal = PlainTextResponse("A bearer token is needed.", 401, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
            return
        # The SDK has no use for it, and what is not there cannot leak.
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"authorization"]
        await endpoint({**scope, "headers": headers}, receive, send)

    return app


def _endpoint(endpoints: Mapping[bytes, ASGIApp], authorization: list[str]) -> ASGIApp | None:
    match = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
    if match is None:
        return None
    digest = hashlib.sha256(match[1].encode()).digest()
    found = None
    for known, endpoint in endpoints.items():
        if hmac.compare_digest(known, digest):
            found = endpoint
    return found


def _redacted(manager: StreamableHTTPSessionManager, toolset: Toolset) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await manager.handle_request(scope, receive, RedactedResponse(send, toolset.redactor))

    return app


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


class _Server(uvicorn.Server):
    def __init__(self, app: ASGIApp, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn raises them again when it has stopped, before the sandboxes are deleted."""
        yield
