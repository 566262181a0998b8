"""One creation of a sandbox: many calls may wait for it, and it is never paid for twice."""

from __future__ import annotations

from typing import Final

import anyio

from sandbox_tools.client.control import ControlPlane, RuntimeAccess
from sandbox_tools.errors import SandboxProtocolError, SandboxRequestError, SandboxToolsError
from sandbox_tools.sandboxes import owner
from sandbox_tools.sandboxes.held import Held
from sandbox_tools.wire.control import NewSandbox
from sandbox_tools.wire.records import Isolation, SandboxInfo

_FIND_PAUSES_S: Final = (0.0, 0.5, 2.0)
"""Pauses before looking for a sandbox whose creation was not answered, in seconds."""


class Creation:
    """A sandbox that is being created; every call that needs it waits for the same one."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.held: Held | None = None
        self.failure: SandboxToolsError | None = None


async def create_or_find(control: ControlPlane, new: NewSandbox) -> tuple[SandboxInfo, RuntimeAccess]:
    """Create a sandbox; when nobody knows whether that happened, look for it by its key rather than pay for two."""
    failure: SandboxRequestError
    try:
        return await control.create(new)
    except SandboxRequestError as exc:
        failure = exc
    if failure.maybe_done or isinstance(failure, SandboxProtocolError):
        for pause_s in _FIND_PAUSES_S:
            await anyio.sleep(pause_s)
            found = await _find(control, new.metadata[owner.KEY])
            if found is not None:
                return found
    raise failure


async def _find(control: ControlPlane, key: str) -> tuple[SandboxInfo, RuntimeAccess] | None:
    try:
        for info in (await control.list(metadata={owner.KEY: key})).items:
            return await control.connect(info.sandbox_id)
    except SandboxToolsError:
        pass  # the failure of the creation is what the caller is told
    return None


def isolation_text(isolation: Isolation | None) -> str:
    """Say how a local sandbox is isolated, for people; nothing for a service that does not say."""
    if isolation is None:
        return ""
    limits = [f"{kind} limits: {', '.join(names) or 'none'}" for kind, names in _limits(isolation)]
    return f" (isolation: {isolation.level}, {isolation.launcher} launcher; {'; '.join(limits)})"


def _limits(isolation: Isolation) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("hard", isolation.hard_limits), ("soft", isolation.soft_limits)
