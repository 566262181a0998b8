"""What this machine can isolate. Imports on any system."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from sandbox_tools.errors import ConfigurationError
from sandbox_tools.local.remedy import remedy, this_machine

if TYPE_CHECKING:
    from sandbox_tools.local.launcher import Launcher
    from sandbox_tools.local.state import State

IsolationLevel = Literal["namespaces", "landlock", "none"]
LauncherKind = Literal["native", "bwrap", "landlock"]
MinIsolation = Literal["namespaces", "landlock"]
"""The least that a user accepts; the second is weaker."""

MIN_ISOLATION_VARIABLE: Final = "SANDBOX_TOOLS_MIN_ISOLATION"

LAUNCHER_KINDS: Final[tuple[LauncherKind, ...]] = ("native", "bwrap")
"""In the order of preference: native has more hard limits and is faster; bwrap works where only it is allowed.

The third, landlock, is a weaker level, which a user has to ask for.
"""

HARD_LIMITS: Final[dict[LauncherKind, tuple[str, ...]]] = {
    "native": ("processes", "open_files", "file_size", "tmp_size", "tmp_files", "shm_size", "sysv_shm"),
    "bwrap": ("processes", "open_files", "file_size", "tmp_size", "shm_size"),
    "landlock": ("processes", "open_files", "file_size"),
}
"""What a sandbox cannot exceed, however it tries. bwrap sets the size of a tmpfs, but not its number of files."""

SOFT_LIMITS: Final[dict[LauncherKind, tuple[str, ...]]] = {
    "native": ("memory", "cpu", "disk"),
    "bwrap": ("memory", "cpu", "disk", "tmp_files", "sysv_shm"),
    "landlock": ("memory", "cpu", "disk", "tmp_size"),
}
"""Limited for one process (memory: 2 GiB of data each) or not at all; a hard limit of memory and CPU needs cgroups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationReport:
    """The result of the self-test.

    Attributes:
        level: "namespaces"; "landlock", which is weaker; or "none": then no sandbox is created.
        launcher: What makes the sandboxes; "" when nothing can.
        reason: What failed; "" when nothing did.
        remedy: What to change on this machine; "" when nothing need be.
    """

    level: IsolationLevel
    launcher: str = ""
    reason: str = ""
    remedy: str = ""
    hard_limits: tuple[str, ...] = ()
    soft_limits: tuple[str, ...] = ()


def least_isolation(given: str | None = None) -> MinIsolation:
    """Return the least isolation that the user accepts: as given, else as the environment says, else namespaces.

    Raises:
        ConfigurationError: There is no such level.
    """
    level = given or os.environ.get(MIN_ISOLATION_VARIABLE, "").strip() or "namespaces"
    if level == "namespaces":
        return "namespaces"
    if level == "landlock":
        return "landlock"
    raise ConfigurationError(f"The least isolation is namespaces or landlock, not {level!r}.")


def launchers_for(minimum: str | None = None) -> tuple[LauncherKind, ...]:
    """Return what may make sandboxes when this level is the least that is wanted; see `least_isolation`."""
    return LAUNCHER_KINDS if least_isolation(minimum) == "namespaces" else (*LAUNCHER_KINDS, "landlock")


def needs_namespaces(what: str) -> str:
    """Return what a caller is told who asks for what the weaker level does not have."""
    return (
        f"{what} need sandboxes of the isolation level namespaces. This machine denies it, so the sandboxes have the "
        "weaker level landlock; `sandbox-tools doctor` says what to change."
    )


def available(launcher: LauncherKind = "native") -> IsolationReport:
    """Return the report of a passed self-test."""
    hard, soft = HARD_LIMITS[launcher], SOFT_LIMITS[launcher]
    if launcher == "landlock" and os.getuid() != 0:  # all of a user's processes count, those of other sandboxes too
        hard, soft = tuple(name for name in hard if name != "processes"), ("processes", *soft)
    level: IsolationLevel = "landlock" if launcher == "landlock" else "namespaces"
    return IsolationReport(level=level, launcher=launcher, hard_limits=hard, soft_limits=soft)


def unavailable(reason: str) -> IsolationReport:
    """Return the report of a failed self-test, with the remedy for this machine."""
    return IsolationReport(level="none", reason=reason, remedy=remedy(this_machine()))


def report_to_json(report: IsolationReport) -> dict[str, object]:
    """Return the `isolation` field that the local service adds to a sandbox record."""
    return {
        "level": report.level,
        "launcher": report.launcher,
        "hardLimits": list(report.hard_limits),
        "softLimits": list(report.soft_limits),
    }


async def probe(
    launcher: Launcher | None = None, *, state: State | None = None, minimum: str | None = None
) -> IsolationReport:
    """Launch a sandbox with everything that a real one has, look around inside it, and report.

    Args:
        launcher: That of a service; None makes one for this test, and where its files are.
        state: Of the same service.
        minimum: The least isolation to try then; see `least_isolation`.
    """
    if sys.platform != "linux":
        return unavailable(f"this system ({sys.platform}) has no Linux namespaces")
    from sandbox_tools.local import selftest  # noqa: PLC0415 - Linux only

    return await selftest.run(launcher, state, minimum)
