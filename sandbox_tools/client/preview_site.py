"""Which private previews there are, wherever they are served: on loopback (preview_proxy.py), or by an HTTP server."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from typing import Protocol

from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.preview_upstream import PreviewUpstream
from sandbox_tools.redaction import Redactor


class PreviewSite(Protocol):
    """Where private previews can be opened."""

    async def publish(self, sandbox_id: str, port: int, access: Callable[[], RuntimeAccess]) -> str:
        """Return the URL of a preview; the same one each time. `access` says how the sandbox is reached now."""
        ...

    async def withdraw(self, sandbox_id: str) -> None:
        """End the previews of a sandbox."""
        ...


class Previews:
    """The previews that were given out, by names that cannot be guessed.

    Args:
        redactor: Knows the tokens of the sandboxes.
        lifetime_s: Time after which a name that was not asked for again is forgotten, in seconds.
    """

    def __init__(self, redactor: Redactor, lifetime_s: float = math.inf) -> None:
        self._redactor = redactor
        self._lifetime_s = lifetime_s
        self._ends: dict[str, float] = {}
        self._names: dict[tuple[str, int], str] = {}
        self._upstreams: dict[str, PreviewUpstream] = {}

    def add(self, sandbox_id: str, port: int, access: Callable[[], RuntimeAccess]) -> str:
        """Return the name of a preview: 24 hex digits."""
        name = self._names.get((sandbox_id, port))
        if name is None:
            name = self._names[sandbox_id, port] = secrets.token_hex(12)
            self._upstreams[name] = PreviewUpstream(access, port, self._redactor)
        self._ends[name] = time.monotonic() + self._lifetime_s
        return name

    def find(self, name: str) -> PreviewUpstream | None:
        """Return the preview of a name; None: there is none, or not any more."""
        return self._upstreams.get(name) if time.monotonic() < self._ends.get(name, 0.0) else None

    async def remove(self, sandbox_id: str) -> None:
        """Forget the previews of a sandbox, and close their connections."""
        for key in [key for key in self._names if key[0] == sandbox_id]:
            name = self._names.pop(key)
            del self._ends[name]
            await self._upstreams.pop(name).aclose()
