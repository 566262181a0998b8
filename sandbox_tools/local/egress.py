"""What one sandbox may reach, and the proxy through which it does.

The proxy listens inside the sandbox's own network namespace, on a socket that the agent made before any code of a user
ran; the code here runs outside. So there is no route out of a sandbox: the proxy resolves the name, judges the
address, and connects to exactly that address.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from sandbox_tools.local.addresses import Address, Policy, embedded_addresses, refusal
from sandbox_tools.local.background import Background
from sandbox_tools.local.isolation import needs_namespaces
from sandbox_tools.local.outside import Link, Outside
from sandbox_tools.local.pipes import close_descriptor
from sandbox_tools.local.proxy import ProxyError, serve_request

if TYPE_CHECKING:
    from sandbox_tools.local.inject import Injector

PROXY_PORT: Final = 3128
"""Inside a sandbox that may reach something, on 127.0.0.1."""

MAX_CONNECTIONS: Final = 64
"""Of one sandbox at once."""

CONNECT_TIMEOUT_S: Final = 10.0
"""For each address of a name."""

MAX_TRIES: Final = 3

_MAIL_PORT: Final = 25
_ACCEPT_PAUSE_S: Final = 0.1
_OUT_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_URL: Final = f"http://127.0.0.1:{PROXY_PORT}"
_VARIABLES: Final = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), _URL),
    "NO_PROXY": "localhost,127.0.0.1,::1",
}


class NoNetworkError(Exception):
    """This sandbox cannot be given a network. The message says why."""


@dataclass(slots=True, eq=False)
class _Flow:
    """One connection of a program in the sandbox, and what it reached."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    address: Address | None = None


class Egress:
    """The way out of one sandbox; closed at first.

    Args:
        outside: How names are resolved and connections made.
        injector: Puts secrets into requests.
    """

    def __init__(
        self, *, background: Background, outside: Outside | None = None, injector: Injector | None = None
    ) -> None:
        self._background = background
        self._outside = outside or Outside()
        self._injector = injector
        self._policy = Policy()
        self._socket: socket.socket | None = None
        self._listens = False
        self._closed = False
        self._flows: set[_Flow] = set()

    @property
    def envs(self) -> Mapping[str, str]:
        """What programs must know of the proxy: nothing while nothing may be reached."""
        if not self._policy.is_open:
            return {}
        return {**_VARIABLES, **{name.lower(): value for name, value in _VARIABLES.items()}}

    def use(self, new: socket.socket) -> None:
        """Take over an unused socket of the sandbox's network, on which the proxy may listen."""
        if self._closed:
            new.close()
        else:
            self._socket = new

    def apply(self, policy: Policy) -> None:
        """Change what may be reached: for new connections, and existing ones that it forbids are closed.

        Raises:
            NoNetworkError: There is no network in this sandbox, or a program in it has taken the proxy's port.
        """
        if policy.is_open and not self._listens:
            self._listen()
        self._policy = policy
        for flow in self._flows:
            if flow.address is not None and refusal(flow.address, policy):
                flow.scope.cancel()

    def close(self) -> None:
        """Close every connection and the socket. Can be called again."""
        self._closed = True
        self._policy = Policy()
        for flow in self._flows:
            flow.scope.cancel()
        if self._socket is not None:
            close_descriptor(self._socket.detach())
            self._socket = None

    def _listen(self) -> None:
        if self._socket is None:
            raise NoNetworkError(needs_namespaces("network rules"))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", PROXY_PORT))
            self._socket.listen(MAX_CONNECTIONS)
        except OSError:
            raise NoNetworkError(f"a program in the sandbox uses port {PROXY_PORT}, which its proxy needs") from None
        self._listens = True
        self._background.start(partial(self._accept, self._socket))

    async def _accept(self, listener: socket.socket) -> None:
        while listener.fileno() >= 0:
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                try:
                    await anyio.wait_readable(listener)
                except anyio.ClosedResourceError:
                    return
            except OSError as error:
                if error.errno not in (*_OUT_OF_RESOURCES, errno.ECONNABORTED):
                    return
                await anyio.sleep(_ACCEPT_PAUSE_S)
            else:
                if len(self._flows) < MAX_CONNECTIONS:
                    flow = _Flow()
                    self._flows.add(flow)
                    self._background.start(partial(self._serve, flow, connection))
                else:
                    _turn_away(connection)
                await anyio.lowlevel.checkpoint()

    async def _serve(self, flow: _Flow, connection: socket.socket) -> None:
        link = Link(connection)
        try:
            with flow.scope:
                await serve_request(link, partial(self._reach, flow, link), self._injector)
        except OSError:
            return  # one of both has gone, or was silent for too long
        finally:
            self._flows.discard(flow)
            link.close()

    async def _reach(self, flow: _Flow, caller: Link, host: str, port: int) -> Link:
        """Resolve once, judge, and connect to what was judged."""
        if port == _MAIL_PORT:
            raise ProxyError(403, f"{host}: port {_MAIL_PORT} is not open to sandboxes")
        failure: ProxyError | None = None
        for address in await self._allowed_addresses(host):
            if self._refusal(address):
                continue  # the rules changed while another was tried
            flow.address = address
            try:
                with anyio.fail_after(CONNECT_TIMEOUT_S):
                    return Link(await self._outside.dial(address, port), partner=caller)
            except TimeoutError:
                failure = ProxyError(504, f"{host} does not answer")
            except OSError as error:
                failure = ProxyError(502, f"{host} cannot be reached: {error.strerror or 'no connection'}")
        raise failure or ProxyError(403, f"{host} may not be reached any more")

    async def _allowed_addresses(self, host: str) -> list[Address]:
        """Ask for the name once, and only when anything may be reached: a question is a message to the outside."""
        if not self._policy.is_open:
            raise ProxyError(403, f"{host} may not be reached: the sandbox has no internet access")
        addresses: list[Address] = []
        status = 502
        try:
            addresses = await self._outside.resolve(host)
        except TimeoutError:
            status = 504
        except OSError:
            pass
        if not addresses:
            raise ProxyError(status, f"{host} cannot be resolved")
        allowed = [address for address in addresses if not self._refusal(address)]
        if not allowed:
            raise ProxyError(403, f"{host} may not be reached: {self._refusal(addresses[0])}")
        return allowed[:MAX_TRIES]

    def _refusal(self, address: Address) -> str | None:
        forms = [address, *(embedded_addresses(address) if isinstance(address, IPv6Address) else ())]
        if any(self._outside.is_own(form) for form in forms):
            return "it is an address of this machine"
        return refusal(address, self._policy)


def _turn_away(connection: socket.socket) -> None:
    """Answer without reading: who opens more connections than allowed gets no memory of ours."""
    body = f"sandbox egress proxy: more than {MAX_CONNECTIONS} connections at once\n"
    head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    with connection, suppress(OSError):
        connection.setblocking(False)
        connection.send(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
