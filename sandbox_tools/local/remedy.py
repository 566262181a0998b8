"""What to do on a machine that cannot isolate sandboxes. Imports on any system."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What decides the remedy.

    Attributes:
        release: Of the kernel, as `uname -r` has it; `version` is `uname -v`.
        in_container: Of Docker, Podman or Kubernetes.
        sysctls: Values by name, such as `kernel/unprivileged_userns_clone`; "" where there is none.
    """

    platform: str
    release: str = ""
    version: str = ""
    in_container: bool = False
    sysctls: Mapping[str, str] = field(default_factory=dict)


def remedy(machine: Machine) -> str:
    """Return what to do on a machine so that sandboxes can be isolated."""
    return f"{_remedy(machine)} Or set SEACLOUD_BASE_URL and SEACLOUD_API_KEY to use SeaCloud sandboxes."


def this_machine() -> Machine:
    """Look at this one."""
    if sys.platform != "linux":
        return Machine(platform=sys.platform)
    kernel = os.uname()
    return Machine(
        platform="linux",
        release=kernel.release,
        version=kernel.version,
        in_container=_CONTAINER_VARIABLE in os.environ or any(Path(path).exists() for path in _CONTAINER_FILES),
        sysctls={name: _sysctl(name) for name in (*_SYSCTLS, _APPARMOR_SYSCTL)},
    )


def _remedy(machine: Machine) -> str:
    if machine.platform != "linux":
        return _OTHER_SYSTEMS.get(machine.platform, "Run sandbox-tools on Linux.")
    if machine.release.endswith("-Microsoft"):
        return _WSL_1
    if machine.version == _GVISOR_VERSION:
        return _GVISOR
    for name, text in _SYSCTLS.items():
        if machine.sysctls.get(name) == "0":
            return text
    if machine.in_container:
        return _CONTAINER
    return _APPARMOR if machine.sysctls.get(_APPARMOR_SYSCTL) == "1" else _ANY_LINUX


_CONTAINER_FILES: Final = ("/.dockerenv", "/run/.containerenv")
_CONTAINER_VARIABLE: Final = "KUBERNETES_SERVICE_HOST"
_GVISOR_VERSION: Final = "#1 SMP Sun Jan 10 15:06:54 PST 2016"
"""The same in all its releases (pkg/sentry/syscalls/linux: LinuxVersion)."""

_OTHER_SYSTEMS: Final = {
    "darwin": "On macOS, run sandbox-tools in a Linux virtual machine (Lima, OrbStack).",
    "win32": "On Windows, run sandbox-tools inside WSL 2.",
}

_WSL_1: Final = (
    "WSL 1 has no Linux kernel. In PowerShell, run `wsl --list`, and then `wsl --set-version NAME 2` for this system."
)

_GVISOR: Final = (
    "This container runs on gVisor, which does not have what a sandbox inside it needs. Run sandbox-tools outside "
    "of it, or in a container of another runtime (runc, crun)."
)

_ANY_LINUX: Final = (
    "This machine must let this user create user namespaces: kernel 5.12 or newer, CONFIG_USER_NS, and no policy "
    "(seccomp, SELinux, AppArmor) that denies it."
)

_SYSCTLS: Final = {
    "kernel/unprivileged_userns_clone": "Run `sudo sysctl -w kernel.unprivileged_userns_clone=1`.",
    "user/max_user_namespaces": "Run `sudo sysctl -w user.max_user_namespaces=15000`.",
}

"""What to do when it is 0."""

_APPARMOR_SYSCTL: Final = "kernel/apparmor_restrict_unprivileged_userns"

_CONTAINER: Final = (
    "In a container: start it with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined` "
    "(Podman: `--security-opt seccomp=unconfined --security-opt unmask=ALL`), better with a seccomp profile that only "
    "adds unshare, clone, mount, umount2 and pivot_root; on an Ubuntu host AppArmor must allow user namespaces too. "
    "A weaker isolation that needs none of this: `--min-isolation landlock` or SANDBOX_TOOLS_MIN_ISOLATION=landlock."
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
