"""The limits of whole sandboxes: control groups where there are any, and the watchdog for what they do not bound."""

from __future__ import annotations

import dataclasses
import os
from typing import Final

import anyio
import anyio.to_thread

from sandbox_tools.local import native
from sandbox_tools.local.cgroups import Cgroups, Group
from sandbox_tools.local.isolation import IsolationReport
from sandbox_tools.local.launcher import Launched, LaunchError
from sandbox_tools.local.sandbox import Sandbox


class Limits:
    """What a service does so that no sandbox takes more than its share."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups: Final = cgroups

    def report(self, report: IsolationReport) -> IsolationReport:
        """Add what the groups bound to the hard limits of a passed self-test."""
        return strengthened(report, self._cgroups.hard_limits)

    async def confine(self, sandbox_id: str, launched: Launched) -> Group | None:
        """Put a new sandbox into its group, before it has run anything for anybody.

        Raises:
            LaunchError: It could not be. It has been ended: a limit that is reported as hard must hold.
        """
        problem = ""
        try:
            return await anyio.to_thread.run_sync(self._confine, sandbox_id, launched.pidfd)
        except OSError as error:
            problem = f"control group: {error.strerror}"
        native.pidfd_kill(launched.pidfd, 9)
        os.close(launched.pidfd)
        launched.control.close()
        raise LaunchError(problem)

    async def serve(self, sandbox: Sandbox, group: Group | None) -> None:
        """Run `Sandbox.serve`, and clean up after it."""
        try:
            await sandbox.serve()
        finally:
            if group is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(group.remove)

    def close(self) -> None:
        """Remove all groups."""
        self._cgroups.close()

    def _confine(self, sandbox_id: str, pidfd: int) -> Group | None:
        group = self._cgroups.new(sandbox_id)
        if group is not None:
            try:
                group.add(native.pid_of(pidfd))
            except BaseException:
                group.remove()
                raise
        return group


def strengthened(report: IsolationReport, hard: tuple[str, ...]) -> IsolationReport:
    """Return a report in which limits that were soft are hard; a failed one promises nothing."""
    moved = tuple(name for name in hard if name in report.soft_limits)
    soft = tuple(name for name in report.soft_limits if name not in moved)
    return dataclasses.replace(report, hard_limits=report.hard_limits + moved, soft_limits=soft)
