"""What all clients of the control plane do with requests and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from sandbox_tools.client.transport import REQUEST_TIMEOUT_S, Response, Transport
from sandbox_tools.errors import SandboxNotFoundError, SandboxProtocolError, SandboxResponseError
from sandbox_tools.wire.control import sandbox_path
from sandbox_tools.wire.envelope import WireError

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
