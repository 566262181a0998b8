"""Kernel calls that the standard library lacks (Linux, ctypes).

The launcher uses them before any sandboxed code runs; the host uses the pidfd calls only. `os.pidfd_open` is not
enough: Python builds made with old kernel headers (uv's) do not have it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from contextlib import suppress
from typing import Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWCGROUP: Final = 0x0200_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000
CLONE_NEWNET: Final = 0x4000_0000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_NOATIME: Final = 0x400
MS_NODIRATIME: Final = 0x800
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x8_0000
MS_RELATIME: Final = 0x20_0000

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47

_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_MNT_DETACH: Final = 2
_CAPABILITY_VERSION_3: Final = 0x2008_0522
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP_RUNNING: Final = 0x41

_NR_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_NR_KEYCTL: Final = {"x86_64": 250, "aarch64": 219}
_JOIN_SESSION_KEYRING: Final = 1
_NR_PIDFD_SEND_SIGNAL: Final = 424  # the same on every architecture since Linux 5.1
_NR_PIDFD_OPEN: Final = 434

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def unshare(flags: int) -> None:
    """Move this process (or, for pid, its next child) into new namespaces."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str | None, target: str, *, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """Call mount(2). The error names the target."""
    result = _libc.mount(_path(source), _path(target), _path(kind), ctypes.c_ulong(flags), _path(data))
    _check(result, f"mount {target}")


def unmount(target: str) -> None:
    """Detach a mount and everything below it."""
    _check(_libc.umount2(_path(target), _MNT_DETACH), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root directory and attach the old one at `put_old`."""
    number = _NR_PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(ctypes.c_long(number), _path(new_root), _path(put_old)), "pivot_root")


def prctl(option: int, argument: int, second: int = 0) -> None:
    """Call prctl(2)."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(second), zero, zero), f"prctl {option}")


def set_hostname(name: str) -> None:
    """Set the name of the UTS namespace."""
    encoded = name.encode()
    _check(_libc.sethostname(encoded, len(encoded)), "sethostname")


def bring_loopback_up() -> None:
    """Bring up `lo`, the only interface of a new network namespace."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP_RUNNING))


def syscall(number: int, *arguments: int | bytes | None, what: str) -> int:
    """Call the kernel; a failure is raised in the name of `what`."""
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *converted), what)


def drop_capabilities() -> None:
    """Empty the bounding, ambient, inheritable, permitted and effective sets."""
    empty_bounding_set()
    prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("=II", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, struct.pack("=6I", *[0] * 6)), "capset")


def empty_bounding_set() -> None:
    """No program that is started from now on can get a capability. Needs CAP_SETPCAP."""
    with open("/proc/sys/kernel/cap_last_cap") as file:  # noqa: PTH123 - pathlib is not worth its memory in the zygote
        last = int(file.read())
    for capability in range(last + 1):
        prctl(PR_CAPBSET_DROP, capability)


def leave_session_keyring() -> None:
    """Take a new, empty one: that of whoever started us may hold keys. Where it is refused, so is reading a key."""
    with suppress(OSError):
        syscall(_NR_KEYCTL[os.uname().machine], _JOIN_SESSION_KEYRING, None, what="keyctl")


def memfd_create() -> int:
    """Return a new file in memory, which programs that are started do not inherit."""
    return _check(_libc.memfd_create(b"sandbox-tools", 1), "memfd_create")


def pidfd_open(pid: int) -> int:
    """Return a descriptor of a process; it becomes readable when the process is gone."""
    return _check(_libc.syscall(ctypes.c_long(_NR_PIDFD_OPEN), pid, 0), "pidfd_open")


def pid_of(pidfd: int) -> int:
    """Return the process id of a pidfd.

    Raises:
        ProcessLookupError: The process is gone.
    """
    with open(f"/proc/self/fdinfo/{pidfd}") as file:  # noqa: PTH123 - as above
        pid = next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
    if pid <= 0:
        raise ProcessLookupError(errno.ESRCH, "the process is gone")
    return pid


def pidfd_kill(pidfd: int, number: int) -> None:
    """Send a signal to the process of a pidfd; nothing happens if it is gone."""
    result = _libc.syscall(ctypes.c_long(_NR_PIDFD_SEND_SIGNAL), pidfd, number, None, 0)
    if result < 0 and ctypes.get_errno() != errno.ESRCH:
        _check(result, "pidfd_send_signal")


def _path(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)
