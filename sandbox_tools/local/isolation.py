"""What this machine can isolate, and what to do when it cannot. Imports on any system."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from sandbox_tools.errors import ConfigurationError

if TYPE_CHECKING:
    from sandbox_tools.local.launcher import Launcher

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
    return IsolationReport(
        level="landlock" if launcher == "landlock" else "namespaces",
        launcher=launcher,
        hard_limits=HARD_LIMITS[launcher],
        soft_limits=SOFT_LIMITS[launcher],
    )


def unavailable(reason: str) -> IsolationReport:
    """Return the report of a failed self-test, with the remedy for this machine."""
    return IsolationReport(level="none", reason=reason, remedy=remedy())


def report_to_json(report: IsolationReport) -> dict[str, object]:
    """Return the `isolation` field that the local service adds to a sandbox record."""
    return {
        "level": report.level,
        "launcher": report.launcher,
        "hardLimits": list(report.hard_limits),
        "softLimits": list(report.soft_limits),
    }


async def probe(launcher: Launcher | None = None, *, minimum: str | None = None) -> IsolationReport:
    """Launch a sandbox with everything that a real one has, look around inside it, and report.

    Args:
        launcher: That of a service; None makes one for this test.
        minimum: The least isolation to try then; see `least_isolation`.
    """
    if sys.platform != "linux":
        return unavailable(f"this system ({sys.platform}) has no Linux namespaces")
    from sandbox_tools.local import selftest  # noqa: PLC0415 - Linux only

    return await selftest.run(launcher, minimum)


def remedy() -> str:
    """Return what to do on this machine so that sandboxes can be isolated."""
    return f"{_remedy()} Or set SEACLOUD_BASE_URL and SEACLOUD_API_KEY to use SeaCloud sandboxes."


def _remedy() -> str:
    if sys.platform != "linux":
        return _OTHER_SYSTEMS.get(sys.platform, "Run sandbox-tools on Linux.")
    for (name, value), text in _SYSCTLS.items():
        if _sysctl(name) == value:
            return text
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return _APPARMOR
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return _CONTAINER
    return (
        "This machine must let this user create user namespaces: kernel 5.12 or newer, CONFIG_USER_NS, and no policy "
        "(seccomp, SELinux, AppArmor) that denies it."
    )


_OTHER_SYSTEMS: Final = {
    "darwin": "On macOS, run sandbox-tools in a Linux virtual machine (Lima, OrbStack).",
    "win32": "On Windows, run sandbox-tools inside WSL 2.",
}

_SYSCTLS: Final = {
    ("kernel/unprivileged_userns_clone", "0"): "Run `sudo sysctl -w kernel.unprivileged_userns_clone=1`.",
    ("user/max_user_namespaces", "0"): "Run `sudo sysctl -w user.max_user_namespaces=15000`.",
}

_CONTAINER: Final = (
    "In a container: start it with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined` "
    "(Podman: `--security-opt seccomp=unconfined --security-opt unmask=ALL`), better with a seccomp profile that only "
    "adds unshare, clone, mount, umount2 and pivot_root; on an Ubuntu host AppArmor must allow user namespaces too. "
    "A weaker isolation that needs none of this, for a service that runs as root: `--min-isolation landlock` or "
    "SANDBOX_TOOLS_MIN_ISOLATION=landlock."
)


_APPARMOR: Final = (
    "Ubuntu's AppArmor lets only listed programs use user namespaces, and bubblewrap is one of them. Run `sudo apt "
    "install bubblewrap`; on Ubuntu 24.04 also `sudo apt install apparmor-profiles && sudo ln -s "
    "/usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/ && sudo apparmor_parser -r "
    "/etc/apparmor.d/bwrap-userns-restrict`."
)


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""
