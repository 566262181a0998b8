"""The network beyond this machine, as the egress proxy uses it: names, connections, byte streams."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from time import monotonic
from typing import Final

import anyio
import anyio.from_thread
import anyio.lowlevel

from sandbox_tools.local.addresses import Address

RESOLVE_TIMEOUT_S: Final = 10.0
MAX_LOOKUPS: Final = 8
"""Of one sandbox at once. Each holds a thread for as long as the system's resolver takes, whoever still waits."""

MAX_ANSWERS: Final = 8
"""Addresses of one name that are looked at."""

IDLE_TIMEOUT_S: Final = 300.0
"""Silence of both directions after which a connection is given up."""

CHUNK_BYTES: Final = 65_536


class Outside:
    """What this machine can reach. Tests put a table in its place."""

    def __init__(self) -> None:
        self._free = anyio.Semaphore(MAX_LOOKUPS)

    async def resolve(self, host: str) -> list[Address]:
        """Return the addresses of a name, or of an address in any of its spellings.

        Raises:
            OSError: It has none.
            TimeoutError: The resolver did not answer in time.
        """
        with anyio.fail_after(RESOLVE_TIMEOUT_S):
            await self._free.acquire()
            lookup = _Lookup(host, self._free.release)
            lookup.start()
            await lookup.done.wait()
        if lookup.failure is not None:
            raise lookup.failure
        return lookup.addresses

    def is_own(self, address: Address) -> bool:
        """Whether an address is one of this machine: the kernel lets only those be bound.

        True for every address where `net.ipv4.ip_nonlocal_bind` is set: then nothing is reached.
        """
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((str(address), 0))
        except OSError as error:
            return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
        return True

    async def dial(self, address: Address, port: int) -> socket.socket:
        """Return a connection to exactly this address; non-blocking, the caller's to close.

        Raises:
            OSError: It cannot be reached.
        """
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        connection = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = connection.connect_ex((str(address), port))
            if code == errno.EINPROGRESS:
                await anyio.wait_writable(connection)
                code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
        except BaseException:
            connection.close()
            raise
        return connection


class _Lookup:
    """One question to the system's resolver, in a thread that can be neither ended nor waited for at the end."""

    def __init__(self, host: str, release: Callable[[], None]) -> None:
        self._host = host
        self._release = release
        self._loop = anyio.lowlevel.current_token()
        self.done: Final = anyio.Event()
        self.addresses: list[Address] = []
        self.failure: OSError | None = None

    def start(self) -> None:
        try:
            threading.Thread(target=self._run, name="egress-lookup", daemon=True).start()
        except RuntimeError:  # this machine has no thread left
            self.failure = OSError(errno.EAGAIN, "no thread")
            self._finish()

    def _run(self) -> None:
        try:
            self.addresses = _look_up(self._host)
        except OSError as error:
            self.failure = error
        finally:
            with suppress(RuntimeError):  # the service has ended
                anyio.from_thread.run_sync(self._finish, token=self._loop)

    def _finish(self) -> None:
        self._release()
        self.done.set()


def _look_up(host: str) -> list[Address]:
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label that is too long
        raise OSError(errno.EINVAL, "not a name") from None
    texts = dict.fromkeys(str(answer[4][0]) for answer in answers[:MAX_ANSWERS])
    return [ip_address(text) for text in texts if "%" not in text]


class Link:
    """One connection of a pair that carries the bytes of one caller; silence of both ends it."""

    def __init__(self, connection: socket.socket, *, partner: Link | None = None) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._last: list[float] = partner._last if partner is not None else [monotonic()]

    async def receive(self) -> bytes:
        """Return what has come, or b"" at the end.

        Raises:
            OSError: The connection broke.
            TimeoutError: Both directions were silent for too long.
        """
        await anyio.lowlevel.checkpoint()  # a fast pair must not keep the event loop to itself
        while True:
            try:
                data = self._socket.recv(CHUNK_BYTES)
            except BlockingIOError:
                await self._wait(anyio.wait_readable)
            else:
                self._last[0] = monotonic()
                return data

    async def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            OSError: The connection broke.
            TimeoutError: Both directions were silent for too long.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await self._wait(anyio.wait_writable)
            else:
                self._last[0] = monotonic()

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    async def _wait(self, until_able: Callable[[socket.socket], Awaitable[None]]) -> None:
        while (left := self._last[0] + IDLE_TIMEOUT_S - monotonic()) > 0:
            with anyio.move_on_after(left):
                await until_able(self._socket)
                return
        raise TimeoutError("idle")


async def relay(one: Link, other: Link) -> None:
    """Carry bytes both ways until both directions have ended, one breaks, or both are silent for too long."""
    async with anyio.create_task_group() as tasks:

        async def carry(source: Link, sink: Link) -> None:
            try:
                while data := await source.receive():
                    await sink.send(data)
                sink.end()
            except (OSError, TimeoutError):
                tasks.cancel_scope.cancel()

        tasks.start_soon(carry, one, other)
        await carry(other, one)
