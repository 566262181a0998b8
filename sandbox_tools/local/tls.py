"""TLS over a connection of the egress proxy."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TypeVar

import anyio

from sandbox_tools.local.outside import CHUNK_BYTES, Link

_T = TypeVar("_T")


class TlsLink(Link):
    """The client's end of a TLS connection, for one reader and one writer at a time."""

    def __init__(self, link: Link, host: str, context: ssl.SSLContext) -> None:
        super().__init__(link._socket, partner=link)
        self._come = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._come, self._to_send, server_hostname=host)
        self._sending = anyio.Lock()

    async def handshake(self) -> None:
        """Shake hands with a server that proves who it is.

        Raises:
            OSError: It does not, or the connection broke (`ssl.SSLError` is one).
            TimeoutError: It was silent for too long.
        """
        await self._read(self._tls.do_handshake)

    async def receive(self) -> bytes:
        """See `Link.receive`. A connection that ends without the word of TLS for it is broken."""
        try:
            return await self._read(lambda: self._tls.read(CHUNK_BYTES))
        except ssl.SSLZeroReturnError:
            return b""

    async def send(self, data: bytes) -> None:
        """See `Link.send`."""
        self._tls.write(data)
        await self._flush()

    async def _read(self, operation: Callable[[], _T]) -> _T:
        while True:
            try:
                done = operation()
            except ssl.SSLWantReadError:
                await self._flush_unless_sending()
                self._take(await super().receive())
            else:
                await self._flush_unless_sending()
                return done

    def _take(self, data: bytes) -> None:
        if data:
            self._come.write(data)
        else:
            self._come.write_eof()

    async def _flush_unless_sending(self) -> None:
        """A reader must not wait for a writer, who may wait for the server to be read."""
        if not self._sending.locked():
            await self._flush()

    async def _flush(self) -> None:
        async with self._sending:
            while data := self._to_send.read():
                await super().send(data)
