"""The file system of a sandbox, built as root of its own user and mount namespaces (PID 1, before any user code).

The order matters: everything is mounted before the one bind that a sandbox can write to persistently, and nothing is
ever mounted below that one, so a symlink that a sandbox planted earlier cannot redirect a mount (CVE-2026-87766).
"""

# pathlib is not worth its memory in the zygote, and the /tmp here are mount points:
# ruff: noqa: PTH102, PTH103, PTH106, PTH110, PTH112, PTH120, PTH123, PTH211, S108

from __future__ import annotations

import os
from typing import Final

from sandbox_tools.local import native
from sandbox_tools.local.native import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SLAVE,
)

WORKSPACE: Final = "/root/workspace"

_OLD: Final = "/.host"
"""Where the host's root is while the new one is built."""

_SECURE: Final = MS_NOSUID | MS_NODEV

_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}

MASKED: Final = ("keys", "key-users", "timer_list", "kallsyms", "config.gz", "cmdline", "interrupts", "sched_debug")
READ_ONLY: Final = ("sys", "sysrq-trigger", "irq", "bus", "fs")

_SYSCTLS: Final = {
    "kernel/pid_max": "1024",  # per pid namespace since Linux 6.14; a second belt to RLIMIT_NPROC
    "kernel/shmall": "16384",
    "kernel/shmmni": "64",
    "kernel/msgmni": "16",
    "kernel/sem": "250 1024 32 16",
    "user/max_inotify_watches": "65536",
    "user/max_user_namespaces": "1",  # the one that follows; no sandboxed program can make another
}
"""Limits of the new namespaces. A kernel that lacks one refuses it, and the limit is not claimed as hard."""

# statvfs flag -> mount flag, for the flags that a user namespace may not clear when it remounts.
_KEPT_FLAGS: Final = {1: 1, 2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: native.MS_RELATIME}


def build_root(binds: list[list[str]], links: list[list[str]], files: dict[str, str], volumes: list[list[str]]) -> None:
    """Replace the root by the sandbox's. The working directory must be the workspace's directory on the host.

    The workspace is reached as "." because its parents may be closed to the sandbox's user.
    """
    os.umask(0o022)
    native.mount(None, "/", flags=MS_REC | MS_SLAVE)
    native.mount("tmpfs", "/tmp", kind="tmpfs", flags=_SECURE, data="size=4m,nr_inodes=4096,mode=755")
    os.mkdir(f"/tmp{_OLD}")
    native.pivot_root("/tmp", f"/tmp{_OLD}")
    _mount_own()
    _bind_read_only([(_OLD + source, target) for source, target in binds])
    for target, path in links:
        os.symlink(target, path)
    for path, text in files.items():
        _write_new(path, text)
    _limit_and_mask_proc()
    for source, target in volumes:
        os.makedirs(target)
        native.mount(_OLD + source, target, flags=MS_BIND)
        _remount(target, _SECURE)
    os.makedirs(WORKSPACE)
    native.mount(".", WORKSPACE, flags=MS_BIND)
    _remount(WORKSPACE, _SECURE)
    os.chdir("/")
    native.unmount(_OLD)
    os.rmdir(_OLD)
    _remount("/", _SECURE | MS_RDONLY)


def stage(binds: list[list[str]], directory: str) -> list[list[str]]:
    """Bind trees below `directory`, for users who cannot reach them at their own path; return the new pairs.

    For a server that runs as root: its Python may lie in a home directory that is closed to the sandbox's user.
    """
    native.mount(None, "/", flags=MS_REC | MS_SLAVE)
    native.mount("tmpfs", directory, kind="tmpfs", flags=_SECURE, data="size=1m,mode=755")
    os.mkdir(f"{directory}/workspace")
    places = [f"{directory}/{index}" for index in range(len(binds))]
    _bind_read_only([(source, place) for (source, _), place in zip(binds, places, strict=True)])
    return [[place, target] for (_, target), place in zip(binds, places, strict=True)]


def stage_volumes(volumes: list[list[str]], directory: str) -> list[list[str]]:
    """Do the same for the volumes of one sandbox, in a mount namespace of its own."""
    if volumes:
        native.unshare(native.CLONE_NEWNS)
    places = [f"{directory}/volume{index}" for index in range(len(volumes))]
    for (source, _), place in zip(volumes, places, strict=True):
        os.makedirs(place, exist_ok=True)  # the directories are seen by all sandboxes, the mounts are not
        native.mount(source, place, flags=MS_BIND)
    return [[place, target] for (_, target), place in zip(volumes, places, strict=True)]


def _mount_own() -> None:
    for name in ("proc", "dev", "tmp", "run", "var", "etc", "root"):
        os.mkdir(f"/{name}")
    os.symlink("/tmp", "/var/tmp")
    native.mount("proc", "/proc", kind="proc", flags=_SECURE | MS_NOEXEC)
    for name in _DEVICES:
        _bind_file(f"{_OLD}/dev/{name}", f"/dev/{name}")
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"/dev/{name}")
    os.mkdir("/dev/pts")
    os.mkdir("/dev/shm")
    native.mount("devpts", "/dev/pts", kind="devpts", flags=MS_NOSUID | MS_NOEXEC, data="newinstance,ptmxmode=0666")
    native.mount("tmpfs", "/dev/shm", kind="tmpfs", flags=_SECURE, data="size=64m,nr_inodes=16k,mode=1777")
    native.mount("tmpfs", "/tmp", kind="tmpfs", flags=_SECURE, data="size=512m,nr_inodes=128k,mode=1777")


def _limit_and_mask_proc() -> None:
    for name, value in _SYSCTLS.items():
        _try_write(f"/proc/sys/{name}", value)
    for name in MASKED:
        if os.path.exists(f"/proc/{name}"):
            native.mount("/dev/null", f"/proc/{name}", flags=MS_BIND)
    for name in READ_ONLY:
        if os.path.exists(f"/proc/{name}"):
            native.mount(f"/proc/{name}", f"/proc/{name}", flags=MS_BIND)
            _remount(f"/proc/{name}", _SECURE | MS_NOEXEC | MS_RDONLY)


def _bind_read_only(binds: list[tuple[str, str]]) -> None:
    for source, target in binds:
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
            native.mount(source, target, flags=MS_BIND | MS_REC)
        else:
            _bind_file(source, target)
    for point in _mount_points_in([target for _, target in binds]):
        _remount(point, _SECURE | MS_RDONLY)


def _bind_file(source: str, target: str) -> None:
    _write_new(target, "")
    native.mount(source, target, flags=MS_BIND)


def _remount(path: str, flags: int) -> None:
    """Change the flags of a mount. Those that it has stay: clearing one is refused in a user namespace."""
    has = os.statvfs(path).f_flag
    kept = sum(mount_flag for flag, mount_flag in _KEPT_FLAGS.items() if has & flag)
    native.mount(None, path, flags=MS_BIND | MS_REMOUNT | flags | kept)


def _mount_points_in(trees: list[str]) -> list[str]:
    """Return every mount in `trees`: a recursive bind brings the mounts below along, each with flags of its own."""
    with open("/proc/self/mountinfo", "rb") as file:
        points = [os.fsdecode(line.split()[4].decode("unicode_escape").encode("latin-1")) for line in file]
    below = tuple(f"{tree}/" for tree in trees)
    return [point for point in points if point in trees or point.startswith(below)]


def _write_new(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "x") as file:
        file.write(text)


def _try_write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError:
        return
