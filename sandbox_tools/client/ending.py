"""Ending a process with all that it started. Bounded; raises nothing but cancellation."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import anyio

from sandbox_tools.client.process import RemoteProcess
from sandbox_tools.client.process_calls import ProcessCalls
from sandbox_tools.client.transport import Transport
from sandbox_tools.client.tree import TERM_GRACE_S, ReapOutcome, reap_outcome, reaper
from sandbox_tools.errors import SandboxRequestError
from sandbox_tools.runtime import KillOutcome
from sandbox_tools.wire.process import Ended

REAP_S: Final = 3.0
"""Time that the program which ends a tree may take in the sandbox, in seconds; it takes a tenth, and its grace."""

KILL_CONFIRM_S: Final = 2.0
"""Time for one signal, and for the end event of a process that is gone, in seconds."""


async def end_tree(transport: Transport, *, mark: str, pid: int | None, ended: anyio.Event) -> KillOutcome:
    """End a process and what it started: TERM, a grace, KILL.

    "killed" is only said when a look at the sandbox's processes found nothing of it any more.

    Args:
        mark: The value of `tree.MARK` in its environment.
        pid: None when it is not known; then there is only the mark.
        ended: Set by whoever reads the events when the process has ended.
    """
    if ended.is_set():
        return "already_finished"
    outcome = await _reap(transport, mark, pid, grace_s=TERM_GRACE_S)
    if outcome == "nothing":
        return await _not_found(pid, ended)
    if outcome != "gone" and pid is not None:
        # Too many processes to start another: a signal to the group, where the runtime sends it there, makes room.
        await _kill(transport, pid)
        outcome = await _reap(transport, mark, pid, grace_s=0)
    if outcome not in ("gone", "nothing"):
        return "kill_unconfirmed"
    with anyio.move_on_after(KILL_CONFIRM_S):
        await ended.wait()
    return "killed"


async def _not_found(pid: int | None, ended: anyio.Event) -> KillOutcome:
    """It ended by itself, and its event is on the way; or it was not there yet when its start was not confirmed."""
    if pid is None:
        return "kill_unconfirmed"
    with anyio.move_on_after(KILL_CONFIRM_S):
        await ended.wait()
    return "already_finished"


async def _kill(transport: Transport, pid: int) -> None:
    with anyio.move_on_after(KILL_CONFIRM_S), suppress(SandboxRequestError):
        await ProcessCalls(transport).send_signal(pid, "SIGNAL_SIGKILL")


async def _reap(transport: Transport, mark: str, pid: int | None, *, grace_s: float) -> ReapOutcome:
    with anyio.move_on_after(grace_s + REAP_S), suppress(SandboxRequestError):
        process = await RemoteProcess.start(transport, reaper(mark, pid, grace_s=grace_s))
        try:
            async for event in process.events():
                if isinstance(event, Ended):
                    return reap_outcome(await process.exit_code(event))
        finally:
            with anyio.CancelScope(shield=True):
                await process.aclose()
    return "unknown"
