"""What all clients of the control plane do with requests and answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final, TypeVar

from sandbox_tools.client.response import Response
from sandbox_tools.client.transport import REQUEST_TIMEOUT_S, Transport
from sandbox_tools.errors import SandboxNotFoundError, SandboxProtocolError, SandboxResponseError, WeakSecretError
from sandbox_tools.redaction import Registry
from sandbox_tools.wire.control import sandbox_path
from sandbox_tools.wire.envelope import WireError, parse_json_array

MAX_ITEMS: Final = 1000
"""What is kept of one list, whatever was asked for."""

MAX_SECRETS: Final = 16
"""Of one answer that are registered; of at most `MAX_SECRET_CHARS` each. Registering takes time and memory."""

MAX_SECRET_CHARS: Final = 256

ValueT = TypeVar("ValueT")


async def ask_about(
    transport: Transport,
    method: str,
    sandbox_id: str,
    *rest: str,
    operation: str,
    body: object = None,
    params: Mapping[str, str] | None = None,
    timeout_s: float = REQUEST_TIMEOUT_S,
    safe: bool | None = None,
) -> Response:
    """Send a request about one sandbox; `safe` as in `Transport.request`.

    Raises:
        SandboxNotFoundError: It is not there.
        SandboxRequestError: Anything else that goes wrong.
    """
    failure: SandboxNotFoundError | None = None
    path = sandbox_path(sandbox_id, *rest)
    try:
        return await transport.request(
            method, path, operation=operation, body=body, params=params, timeout_s=timeout_s, safe=safe
        )
    except SandboxResponseError as exc:
        if exc.status != 404:
            raise
        failure = SandboxNotFoundError(operation, request_id=exc.request_id)
    raise failure


def parsed(operation: str, parse: Callable[[], ValueT]) -> ValueT:
    """Return what `parse` makes of an answer; what breaks the wire format is a SandboxProtocolError."""
    problem = ""
    try:
        return parse()
    except WireError as exc:
        problem = str(exc)
    raise SandboxProtocolError(operation, problem)


def listed(operation: str, response: Response, read: Callable[[object], ValueT]) -> tuple[ValueT, ...]:
    """Return what `read` makes of each item of an array, as `parsed`."""
    return parsed(operation, lambda: tuple(map(read, parse_json_array(response.body, what="the list")[:MAX_ITEMS])))


def listed_without_secrets(
    operation: str,
    response: Response,
    read: Callable[[object], ValueT],
    *,
    registry: Registry,
    name: str,
    secret_of: Callable[[object], str | None],
) -> tuple[ValueT, ...]:
    """As `listed`, for items with a secret that `read` leaves out: all are registered before the first is read."""
    items = parsed(operation, lambda: parse_json_array(response.body, what="the list"))
    register_unread(registry, name, map(secret_of, items))
    return parsed(operation, lambda: tuple(map(read, items[:MAX_ITEMS])))


async def traceless(work: Callable[[], Awaitable[ValueT]]) -> ValueT:
    """Return what `work` returns; what it raises leaves without the frames that it passed.

    For work with plain secrets, in a body to send or in an answer: the variables of those frames hold them.
    """
    try:
        return await work()
    except BaseException as exc:  # noqa: BLE001 - raised again, a cancellation too
        exc.__context__ = None  # Python 3.10: of a deadline that passed it is the cancellation, with its frames
        raise exc.with_traceback(None) from None


def register_unread(registry: Registry, name: str, secrets: Iterable[str | None]) -> None:
    """Register secrets of an answer that no value of ours has, in case something else shows them.

    One that cannot be registered is passed over: it is dropped with the answer.
    """
    for secret in islice((each for each in secrets if each and len(each) <= MAX_SECRET_CHARS), MAX_SECRETS):
        with suppress(WeakSecretError):
            registry.register(name, secret)
