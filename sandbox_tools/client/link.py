"""The connection to one sandbox's runtime, which outlives a new token, a new URL and a pause.

Tokens and URLs of a runtime are short-lived (wire contract 2.2, 9). When an answer says that ours are no longer good,
or that the sandbox is paused, the control plane is asked once for access, with a time to live of 0, which leaves
the sandbox's own as it is (2.5). The request is sent again only when it surely did nothing the first time.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import anyio

from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.response import OpenStream, Response
from sandbox_tools.client.transport import Transport
from sandbox_tools.errors import SandboxRequestError, SandboxResponseError, SandboxUnreachableError

Renew = Callable[[], Awaitable[RuntimeAccess | None]]
"""Asks the control plane for access, resuming a paused sandbox; None: it could not say.

Raises:
    SandboxNotFoundError: The sandbox is gone.
"""

FRUITLESS_S: Final = 30.0
"""Time for which a plain 404 is taken at its word after asking changed nothing, in seconds: some runtimes say no more
than that about a missing file (wire contract 3.2), and a call should not cost two requests each time."""

AnswerT = TypeVar("AnswerT")


class RuntimeTransport(Transport):
    """Requests to a runtime.

    Attributes:
        access: How it is reached now.

    Args:
        renew: None: access is never renewed.
    """

    def __init__(self, access: RuntimeAccess, renew: Renew | None = None) -> None:
        super().__init__(access.envd_url, {"X-Access-Token": access.access_token})
        self.access = access
        self._renew = renew
        self._renewing = anyio.Lock()
        self._fruitless_until = 0.0

    async def request(self, method: str, path: str, **options: Any) -> Response:
        """As `Transport.request`."""
        return await self._tried(lambda: super(RuntimeTransport, self).request(method, path, **options), options)

    async def stream(self, method: str, path: str, **options: Any) -> OpenStream:
        """As `Transport.stream`."""
        return await self._tried(lambda: super(RuntimeTransport, self).stream(method, path, **options), options)

    async def _tried(self, attempt: Callable[[], Awaitable[AnswerT]], options: dict[str, Any]) -> AnswerT:
        used = self.access
        failure: SandboxRequestError
        try:
            return await attempt()
        except SandboxRequestError as exc:
            failure = exc
        can_be_sent_again = isinstance(options.get("content"), bytes | None)
        if not self._may_be_stale(failure) or not await self._renewed(used, failure):
            raise failure
        if failure.maybe_done or not can_be_sent_again:
            raise failure
        return await attempt()

    def _may_be_stale(self, failure: SandboxRequestError) -> bool:
        if isinstance(failure, SandboxUnreachableError):
            return not failure.was_sent
        if not isinstance(failure, SandboxResponseError) or failure.reason not in (None, "sandbox_not_found"):
            return False
        if failure.status == 404 and failure.reason is None:
            return time.monotonic() > self._fruitless_until
        return failure.status in (401, 404, 502)

    async def _renewed(self, used: RuntimeAccess, failure: SandboxRequestError) -> bool:
        """Ask for access, one request for all calls that failed together; return whether anything changed."""
        if self._renew is None:
            return False
        async with self._renewing:
            if self.access is not used:
                return True
            access = await self._renew()
            if access is None:
                return False
            changed = access.resumed or (access.envd_url, access.access_token) != (used.envd_url, used.access_token)
            if changed:
                self.retarget(access.envd_url, {"X-Access-Token": access.access_token})
                self.access = access
            elif isinstance(failure, SandboxResponseError) and failure.status == 404:
                self._fruitless_until = time.monotonic() + FRUITLESS_S
            return changed
