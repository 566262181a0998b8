"""The limits of whole sandboxes: control groups where there are any, and the watchdog for what they do not bound."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from sandbox_tools.local import native
from sandbox_tools.local.cgroups import Cgroups, Group
from sandbox_tools.local.isolation import IsolationReport
from sandbox_tools.local.launcher import Launched, LaunchError
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.state import remove_tree
from sandbox_tools.local.watchdog import Bounds, Watchdog, Watched

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Confined:
    """The host's process id of PID 1 of a sandbox, and the group that it is in."""

    pid: int
    group: Group | None


class Limits:
    """What a service does so that no sandbox takes more than its share."""

    def __init__(self, cgroups: Cgroups, bounds: Bounds | None = None) -> None:
        bounds = bounds or Bounds()
        if "memory" in cgroups.hard_limits:
            bounds = dataclasses.replace(bounds, memory=None)
        self._cgroups: Final = cgroups
        self._watchdog: Final = Watchdog(bounds)

    async def run(self) -> None:
        """Watch the sandboxes until cancelled."""
        await self._watchdog.run()

    def report(self, report: IsolationReport) -> IsolationReport:
        """Add what the groups bound to the hard limits of a passed self-test."""
        return strengthened(report, self._cgroups.hard_limits)

    async def confine(self, name: str, launched: Launched) -> Confined:
        """Put a new sandbox into its group, before it has run anything for anybody.

        Raises:
            LaunchError: It could not be. It has been ended: a limit that is reported as hard must hold.
        """
        problem = ""
        try:
            return await anyio.to_thread.run_sync(self._confine, name, launched.pidfd)
        except OSError as error:
            problem = f"control group: {error.strerror}"
        launched.kill()
        launched.close()
        launched.control.close()
        raise LaunchError(problem)

    async def serve(self, sandbox: Sandbox, workspace: Path, volumes: tuple[Path, ...], confined: Confined) -> None:
        """Run `Sandbox.serve` and watch it; clean up after it."""
        watched = Watched(confined.pid, workspace, sandbox.end, volumes)
        try:
            with self._watchdog.watching(watched):
                await sandbox.serve()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_clean_up, sandbox, workspace, confined)

    def close(self) -> None:
        """Remove all groups."""
        self._cgroups.close()

    def _confine(self, name: str, pidfd: int) -> Confined:
        confined = Confined(native.pid_of(pidfd), self._cgroups.new(name))
        if confined.group is not None:
            try:
                confined.group.add(confined.pid)
            except BaseException:
                confined.group.remove()
                raise
        return confined


def _clean_up(sandbox: Sandbox, workspace: Path, confined: Confined) -> None:
    if confined.group is not None:
        confined.group.remove()
    if sandbox.end_reason:
        _make_room(workspace)


def _make_room(workspace: Path) -> None:
    """A sandbox that was ended for what it took gives it back: nobody can reach its files any more."""
    try:
        remove_tree(workspace)
    except OSError as error:
        _log.warning("the files of sandbox %s could not be deleted: %s", workspace.parent.name, error.strerror)


def strengthened(report: IsolationReport, hard: tuple[str, ...]) -> IsolationReport:
    """Return a report in which limits that were soft are hard; a failed one promises nothing."""
    moved = tuple(name for name in hard if name in report.soft_limits)
    soft = tuple(name for name in report.soft_limits if name not in moved)
    return dataclasses.replace(report, hard_limits=report.hard_limits + moved, soft_limits=soft)
