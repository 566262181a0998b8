"""Connections for many requests at once.

When a request begins or ends, httpcore looks at every idle connection of its pool once for each of them: 64 calls at
once in one pool spend most of their time there. Here a pool is small, and the next one is used when it is full.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Final

import httpx

MAX_LANES: Final = 16
LANE_CONNECTIONS: Final = 16

KEEPALIVE_S: Final = 45.0
"""Age at which an idle connection is not used again, in seconds: less than the 60 s after which load balancers close
them, because a request that meets that close fails and may not be repeated (client/retry.py)."""


class Lanes(httpx.AsyncBaseTransport):
    """Up to 256 connections to one host; more requests wait. Requests one after the other share a connection."""

    def __init__(self, tls: ssl.SSLContext | bool) -> None:
        self._tls = tls
        self._lanes = [_Lane(tls)]

    @property
    def busy(self) -> int:
        """Requests whose answers were not closed yet."""
        return sum(lane.busy for lane in self._lanes)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._lane().handle_async_request(request)

    async def aclose(self) -> None:
        for lane in self._lanes:
            await lane.aclose()

    def _lane(self) -> _Lane:
        free = next((lane for lane in self._lanes if lane.busy < LANE_CONNECTIONS), None)
        if free is None and len(self._lanes) < MAX_LANES:
            free = _Lane(self._tls)
            self._lanes.append(free)
        return free or min(self._lanes, key=lambda lane: lane.busy)


class _Lane(httpx.AsyncHTTPTransport):
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
        response.stream = _Body(response.stream, self)
        return response


class _Body(httpx.AsyncByteStream):
    """The body of an answer, which leaves its lane when it is closed."""

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
