"""HTTP connections: how long a client may take to ask for something, and how many connections there may be.

uvicorn has no such limits: a client that sends its header a byte a minute would keep its connection for ever. And it
sends head and body of an answer apart, which costs client and service a system call and a wake-up for each.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_TIMEOUT_S: Final = 15.0
"""From the connection, or from the end of the answer before, to the end of the next header."""

FLUSH_TIMEOUT_S: Final = 30.0
"""For a client to take the rest of an answer, after which its connection would be closed anyway."""

MAX_CONNECTIONS: Final = 512
"""With one more, the one that has been idle for longest is closed. If all are busy, the new one is refused."""

_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
)


_GATHERED_BYTES: Final = 65_536


class _Gathering:
    """A transport that sends together what is written before the event loop goes on: head and body of an answer."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._gathered = bytearray()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered += data
        if len(self._gathered) >= _GATHERED_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._gathered:
            self._transport.write(bytes(self._gathered))
            self._gathered.clear()


class Connection(H11Protocol):
    """One connection. It is busy from the end of a request's header to the end of the answer, and else idle."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(cast(asyncio.Transport, _Gathering(transport, self.loop)))
        self._mind()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._mind()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._mind()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._stop_timer()
        super().handle_websocket_upgrade(event)

    @property
    def ends_at(self) -> float | None:
        """When its time to ask for something is over, on the loop's clock; None when it is busy."""
        return None if self._timer is None else self._timer.when()

    def hang_up(self) -> None:
        """Close it: now, if the client takes what is left of an answer, else soon."""
        self._stop_timer()
        self.transport.close()
        self.loop.call_later(FLUSH_TIMEOUT_S, self.transport.abort)

    def _mind(self) -> None:
        """The clock runs while it is idle. It is not set back by a byte here and there."""
        gone = self.transport.is_closing() or self.transport.get_protocol() is not self
        if gone or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(REQUEST_TIMEOUT_S, self.hang_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self) -> None:
        others = [other for other in self.connections if isinstance(other, Connection) and other is not self]
        idle = [(ends_at, id(other), other) for other in others if (ends_at := other.ends_at) is not None]
        if idle:
            min(idle)[2].hang_up()
        else:
            self.transport.write(_REFUSAL)
            self.hang_up()
