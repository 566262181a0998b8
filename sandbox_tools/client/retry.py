"""When a request may be sent again, and how long to wait before that.

A request is only repeated when that cannot do its work twice:

* no connection was made for it, whatever it asks: nothing left this process;
* it is safe (it reads, or doing it twice is the same as once) and the connection was lost, or the server said that it
  could not answer just now (429 without a usage limit, 502, 503, 504).

What cannot be proved: a kept connection that the server closed while the request was on its way looks like a server
that took the request and died. httpcore looks at a kept socket before it uses it, so this happens only when the close
itself is still on the way. A safe request is then repeated; any other fails with `maybe_done`.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from sandbox_tools.errors import SandboxRequestError, SandboxResponseError, SandboxUnreachableError

MAX_TRIES: Final = 3

FIRST_PAUSE_S: Final = 0.1
"""Pause before the second try, in seconds; each further one is twice as long. Up to half of it is left to chance."""

_BUSY: Final = (429, 502, 503, 504)

AnswerT = TypeVar("AnswerT")


async def with_retries(attempt: Callable[[], Awaitable[AnswerT]], *, safe: bool) -> AnswerT:
    """Return what `attempt` returns, trying again where that is safe.

    The deadline is the caller's cancel scope, one for all tries: a pause that would outlast it is not begun.

    Args:
        safe: Doing it twice is the same as doing it once.

    Raises:
        SandboxRequestError: The failure of the last try.
    """
    for number in range(MAX_TRIES):
        failure: SandboxRequestError
        try:
            return await attempt()
        except SandboxRequestError as exc:
            failure = exc
        pause_s = _pause_s(failure, number)
        if number + 1 == MAX_TRIES or not _may_repeat(failure, safe=safe) or pause_s > _remaining_s():
            break
        await anyio.sleep(pause_s)
    raise failure


def _may_repeat(failure: SandboxRequestError, *, safe: bool) -> bool:
    if isinstance(failure, SandboxUnreachableError):
        return safe or not failure.was_sent
    return safe and isinstance(failure, SandboxResponseError) and failure.retryable and failure.status in _BUSY


def _pause_s(failure: SandboxRequestError, number: int) -> float:
    pause_s = FIRST_PAUSE_S * (1 << number) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
    asked_s = failure.retry_after_s if isinstance(failure, SandboxResponseError) else None
    return max(pause_s, asked_s or 0.0)


def _remaining_s() -> float:
    left: float = anyio.current_effective_deadline() - anyio.current_time()
    return left
