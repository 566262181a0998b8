"""Landlock (landlock(7)): a process gives up every file that it does not name, for itself and all that it starts.

The rules alone do not make a sandbox: they do not cover reading or changing the metadata of files, signals, sockets by
path, or other processes. `supervisor.py` adds a user of its own, the system call filter and limits.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final

from sandbox_tools.local import native

_NR_CREATE_RULESET: Final = 444  # the same on every architecture
_NR_ADD_RULE: Final = 445
_NR_RESTRICT_SELF: Final = 446

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_MAKE_CHAR: Final = 1 << 6
_MAKE_BLOCK: Final = 1 << 11
_TRUNCATE: Final = 1 << 14
_IOCTL_DEV: Final = 1 << 15

_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_ONLY: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_DEVICE: Final = _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV

_ALL_BY_ABI: Final = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}
_ALL_SINCE_5: Final = 0xFFFF
_TCP: Final = 0x3
"""Binding and connecting, since ABI 4: a second belt, the filter refuses sockets."""
_SCOPES: Final = 0x3
"""Abstract sockets and signals of processes outside, since ABI 6."""

SIGNALS_SINCE: Final = 6

_RULE_PATH_BENEATH: Final = 1
_GET_VERSION: Final = 1


def abi() -> int:
    """Return the version of this kernel's Landlock.

    Raises:
        OSError: It has none, or it is off.
    """
    return native.syscall(_NR_CREATE_RULESET, None, 0, _GET_VERSION, what="landlock")


def restrict(*, read_only: Iterable[str], read_write: Iterable[str], devices: Iterable[str]) -> None:
    """Give up every file but these (trees, or single files). Needs no_new_privs.

    Raises:
        OSError: There is no Landlock, or a path cannot be reached.
    """
    version = abi()
    handled = _ALL_BY_ABI.get(version, _ALL_SINCE_5)
    ruleset = _create_ruleset(version, handled)
    for path in read_only:
        _allow(ruleset, path, _READ & handled)
    for path in read_write:
        _allow(ruleset, path, handled & ~(_MAKE_CHAR | _MAKE_BLOCK))
    for path in devices:
        _allow(ruleset, path, _DEVICE & handled)
    native.syscall(_NR_RESTRICT_SELF, ruleset, 0, what="landlock_restrict_self")
    os.close(ruleset)


def keep_signals_inside() -> None:
    """Let this process, and all that it starts, signal nobody else. Needs no_new_privs.

    Raises:
        OSError: This kernel cannot (Linux 6.12 was the first).
    """
    if abi() < SIGNALS_SINCE:
        raise PermissionError(
            errno.EPERM, "landlock without root needs Linux 6.12 or newer, which keeps signals inside"
        )
    attributes = struct.pack("=3Q", 0, 0, _SCOPES)
    ruleset = native.syscall(_NR_CREATE_RULESET, attributes, len(attributes), 0, what="landlock_create_ruleset")
    native.syscall(_NR_RESTRICT_SELF, ruleset, 0, what="landlock_restrict_self")
    os.close(ruleset)


def _create_ruleset(version: int, handled: int) -> int:
    fields = [handled, _TCP, _SCOPES][: 1 if version < 4 else 2 if version < 6 else 3]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    return native.syscall(_NR_CREATE_RULESET, attributes, len(attributes), 0, what="landlock_create_ruleset")


def _allow(ruleset: int, path: str, access: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= _FILE_ONLY
        rule = struct.pack("=Qi", access, fd)
        native.syscall(_NR_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0, what="landlock_add_rule")
    finally:
        os.close(fd)
