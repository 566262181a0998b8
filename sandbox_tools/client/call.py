"""One request of the client, and what its failures mean (wire contract 1.3)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import anyio
import httpx

from sandbox_tools.client.pinned import PinnedTransport
from sandbox_tools.client.retry import with_retries
from sandbox_tools.errors import (
    SandboxProtocolError,
    SandboxRequestError,
    SandboxTimeoutError,
    SandboxUnreachableError,
)

AnswerT = TypeVar("AnswerT")

_CONNECT_TIMEOUT_S: Final = 10.0

_LOST: Final = (httpx.NetworkError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Call:
    """One request, all its tries: whether any of it may have left, and what a failure of it means."""

    def __init__(
        self, request: httpx.Request, pinned: PinnedTransport, operation: str, timeout_s: float, *, safe: bool
    ) -> None:
        self.request: Final = request
        self.pinned: Final = pinned
        self.operation: Final = operation
        self.safe: Final = safe
        self._timeout_s = timeout_s
        self._sent = False
        connect_s = min(_CONNECT_TIMEOUT_S, timeout_s)
        request.extensions = {
            "timeout": {"connect": connect_s, "read": timeout_s, "write": timeout_s, "pool": timeout_s},
            "trace": self._trace,
        }
        self._repeatable = isinstance(request.stream, httpx.ByteStream)
        # What comes piece by piece from the caller takes the time that it takes.
        self.head_scope: Final = anyio.CancelScope(deadline=self._deadline() if self._repeatable else math.inf)

    async def tried(self, attempt: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """Return the answer of the first try that has one."""
        return await with_retries(attempt, safe=self.safe) if self._repeatable else await attempt()

    def timed_out(self) -> SandboxTimeoutError:
        """Return the error for a deadline that passed."""
        return SandboxTimeoutError(self.operation, self._timeout_s, maybe_done=self._maybe_done)

    def failure(self, exc: Exception) -> SandboxRequestError:
        """Return our error for an exception of httpx or of a socket."""
        if isinstance(exc, SandboxRequestError):
            return exc
        if isinstance(exc, httpx.ConnectTimeout | httpx.ConnectError | httpx.PoolTimeout):
            return SandboxUnreachableError(self.operation)
        if isinstance(exc, httpx.TimeoutException):
            return self.timed_out()
        if isinstance(exc, _LOST) or (isinstance(exc, httpx.RemoteProtocolError) and _says_lost(exc)):
            return SandboxUnreachableError(self.operation, was_sent=self._sent, maybe_done=self._maybe_done)
        if isinstance(exc, httpx.RemoteProtocolError):
            return self.invalid("it is not HTTP")
        return self.invalid(f"it could not be sent or read ({type(exc).__name__})")

    def invalid(self, what: str) -> SandboxProtocolError:
        """Return the error for an answer that breaks a rule."""
        return SandboxProtocolError(self.operation, what, maybe_done=self._maybe_done)

    @property
    def _maybe_done(self) -> bool:
        return self._sent and not self.safe

    async def _trace(self, event: str, info: Mapping[str, object]) -> None:
        """Hear from httpcore how far it is. What is not about the connection counts as sent."""
        self._sent = self._sent or not event.startswith("connection.")
        if event.endswith("receive_response_headers.started"):
            self.head_scope.deadline = self._deadline()

    def _deadline(self) -> float:
        return anyio.current_time() + self._timeout_s


def _says_lost(exc: httpx.RemoteProtocolError) -> bool:
    """Tell an end in the middle from bytes that are not HTTP; only the text of h11 and httpcore differs."""
    return "disconnected" in str(exc) or "closed connection" in str(exc)
