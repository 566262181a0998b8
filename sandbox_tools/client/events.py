"""Events of sandboxes (wire contract 2.11)."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlencode

from sandbox_tools.client.answers import listed
from sandbox_tools.client.transport import Transport
from sandbox_tools.wire.events import SandboxEvent, event_from_json, events_query


class Events:
    """Reads events; `ControlPlane.events`. Every method raises `SandboxRequestError`.

    What the contract does not say: which types there are, how many one page has at most, and what an event is made of.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(
        self, *, types: Sequence[str] = (), offset: int = 0, limit: int = 100, oldest_first: bool = False
    ) -> tuple[SandboxEvent, ...]:
        """Return events of all visible sandboxes.

        Args:
            types: Such as "sandbox.lifecycle.created"; none: all.
            offset: How many to leave out at the start.
            limit: How many at most.
        """
        query = events_query(offset=offset, limit=limit, oldest_first=oldest_first, types=types)
        return await self._events("/events/sandboxes", query, "list the events")

    async def of(
        self,
        sandbox_id: str,
        *,
        types: Sequence[str] = (),
        offset: int = 0,
        limit: int = 100,
        oldest_first: bool = False,
    ) -> tuple[SandboxEvent, ...]:
        """Return events of one sandbox, which may be gone; the rest as for `list`."""
        query = events_query(offset=offset, limit=limit, oldest_first=oldest_first, types=types)
        path = f"/events/sandboxes/{quote(sandbox_id, safe='')}"
        return await self._events(path, query, "list the events of a sandbox")

    async def _events(self, path: str, query: Sequence[tuple[str, str]], operation: str) -> tuple[SandboxEvent, ...]:
        response = await self._transport.request("GET", f"{path}?{urlencode(query)}", operation=operation)
        return listed(operation, response, event_from_json)
