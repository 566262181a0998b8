"""The system call filter of a sandbox: a classic BPF program, per architecture.

Namespaces alone are not enough: without the filter a sandbox could read the host user's session keyring, open
AF_VSOCK, type into the host's terminal (TIOCSTI) or get new privileges in a nested user namespace.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Final

from sandbox_tools.local.syscalls import (
    CHECKED,
    DENIED,
    DENIED_TO_A_SHARED_USER,
    DENIED_WITHOUT_NAMESPACES,
    IGNORED_OF_A_SHARED_USER,
    OF_ITSELF_ONLY,
)

_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_EQUAL: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_AND: Final = 0x54
_RETURN: Final = 0x06

_ALLOW: Final = 0x7FFF_0000
_KILL_PROCESS: Final = 0x8000_0000
_ERRNO: Final = 0x0005_0000

# Offsets in struct seccomp_data; the low half of an argument on a little-endian machine.
_NR: Final = 0
_ARCH: Final = 4
_ARG0: Final = 16
_ARG1: Final = 24
_ARG2: Final = 32

_X32_BIT: Final = 0x4000_0000
_NAMESPACE_FLAGS: Final = 0x7E02_0080
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET,TIME}."""

_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C
_AF_UNIX: Final = 1
_AF_INET: Final = 2
_AF_INET6: Final = 10
_AF_NETLINK: Final = 16
_NETLINK_ROUTE: Final = 0
_SOCK_STREAM: Final = 1
_SOCK_TYPE_MASK: Final = 0xF

_AUDIT_ARCH: Final = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}

_HARMLESS_IOCTLS: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Others, as of fs-verity, change what can only be read."""

_CLONE3: Final = 435


class UnknownArchitectureError(OSError):
    """There is no table of system calls for this machine."""


Instruction = tuple[int, int, int, int]


def machine() -> str:
    """Return the name of this machine's table.

    Raises:
        UnknownArchitectureError: There is none.
    """
    name = os.uname().machine
    if name not in _AUDIT_ARCH or sys.maxsize < 2**32 or sys.byteorder != "little":
        raise UnknownArchitectureError(errno.ENOSYS, f"no system call table for {name}")
    return name


def program(arch: str, *, sockets: bool = True, own_user: bool = True) -> bytes:
    """Return the filter of one architecture as an array of struct sock_filter.

    Args:
        sockets: Without, for a sandbox that has no network and IPC namespace of its own, nothing of these is allowed
            but pairs of connected sockets.
        own_user: Without, for a sandbox that has the user id of the server's user, nothing is allowed that a user can
            do to files and processes of its own where Landlock does not look.
    """
    checked = CHECKED[arch]
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[arch]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NR),
        (_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL_PROCESS),
    ]
    denied = {**DENIED[arch], **({} if sockets else DENIED_WITHOUT_NAMESPACES[arch])}
    if not own_user:
        code += _shared_user_rules(arch)
    for number in sorted(denied.values()):
        code += _when(_JUMP_EQUAL, number, [_refuse(errno.EPERM)])
    code += _when(_JUMP_EQUAL, _CLONE3, [_refuse(errno.ENOSYS)])  # its flags are in memory; libc falls back to clone
    code += _when(_JUMP_EQUAL, checked["clone"], _clone_rule())
    code += _when(_JUMP_EQUAL, checked["ioctl"], _ioctl_rule())
    code += _when(_JUMP_EQUAL, checked["socket"], _socket_rule())
    pair = _family_rule(_AF_UNIX, _AF_INET) if sockets else _connected_pair_rule()
    code += _when(_JUMP_EQUAL, checked["socketpair"], pair)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def install(code: bytes) -> None:
    """Put this process, and all that it starts, under a filter. Needs no_new_privs."""
    buffer = ctypes.create_string_buffer(code, len(code))
    argument = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long(CHECKED[machine()]["seccomp"])
    if libc.syscall(number, 1, 0, ctypes.byref(argument)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _refuse(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _when(test: int, value: int, then: list[Instruction]) -> list[Instruction]:
    """Run `then` when the loaded word passes the test; `then` either returns or falls through."""
    return [(test, 0, len(then), value), *then]


def _shared_user_rules(arch: str) -> list[Instruction]:
    code: list[Instruction] = []
    for name, number in DENIED_TO_A_SHARED_USER[arch].items():
        # What copies attributes of files goes on where the file system has none, and stops where it may not.
        code += _when(_JUMP_EQUAL, number, [_refuse(errno.EOPNOTSUPP if "xattr" in name else errno.EPERM)])
    for number in IGNORED_OF_A_SHARED_USER[arch].values():
        code += _when(_JUMP_EQUAL, number, [_refuse(0)])
    for number, count in OF_ITSELF_ONLY[arch].values():
        rule: list[Instruction] = []
        for argument in (_ARG0, _ARG1)[:count]:
            rule += [(_LOAD, 0, 0, argument), (_JUMP_EQUAL, 1, 0, 0), _refuse(errno.EPERM)]
        code += _when(_JUMP_EQUAL, number, [*rule, (_RETURN, 0, 0, _ALLOW)])
    code += _when(_JUMP_EQUAL, CHECKED[arch]["utimensat"], _times_rule())
    ioctls = [(_LOAD, 0, 0, _ARG1)]
    for request in _HARMLESS_IOCTLS:
        ioctls += _when(_JUMP_EQUAL, request, [(_RETURN, 0, 0, _ALLOW)])
    return code + _when(_JUMP_EQUAL, CHECKED[arch]["ioctl"], [*ioctls, _refuse(errno.ENOTTY)])


def _times_rule() -> list[Instruction]:
    """Ignore it, but for "now" by path: whoever asks that wants to know whether the file is there (touch does)."""
    by_path = [(_LOAD, 0, 0, _ARG1), *_when(_JUMP_EQUAL, 0, [_refuse(0)]), _refuse(errno.EPERM)]
    return [(_LOAD, 0, 0, _ARG2), *_when(_JUMP_EQUAL, 0, by_path), _refuse(0)]


def _clone_rule() -> list[Instruction]:
    refused = _when(_JUMP_ANY_BIT, _NAMESPACE_FLAGS, [_refuse(errno.EPERM)])
    return [(_LOAD, 0, 0, _ARG0), *refused, (_RETURN, 0, 0, _ALLOW)]


def _ioctl_rule() -> list[Instruction]:
    """Compares 32 bits, as the kernel does: high bits in the request must not get past."""
    refused = [*_when(_JUMP_EQUAL, _TIOCSTI, [_refuse(errno.EPERM)])]
    refused += _when(_JUMP_EQUAL, _TIOCLINUX, [_refuse(errno.EPERM)])
    return [(_LOAD, 0, 0, _ARG1), *refused, (_RETURN, 0, 0, _ALLOW)]


def _family_rule(*families: int) -> list[Instruction]:
    code: list[Instruction] = [(_LOAD, 0, 0, _ARG0)]
    for family in families:
        code += _when(_JUMP_EQUAL, family, [(_RETURN, 0, 0, _ALLOW)])
    return [*code, _refuse(errno.EAFNOSUPPORT)]


def _connected_pair_rule() -> list[Instruction]:
    """Only streams: one of a pair of datagram sockets could still send to a socket file of the host."""
    stream = [(_LOAD, 0, 0, _ARG1), (_AND, 0, 0, _SOCK_TYPE_MASK)]
    stream += [(_JUMP_EQUAL, 1, 0, _SOCK_STREAM), _refuse(errno.EPERM)]
    return [*stream, *_family_rule(_AF_UNIX)]


def _socket_rule() -> list[Instruction]:
    route = [(_LOAD, 0, 0, _ARG2), *_when(_JUMP_EQUAL, _NETLINK_ROUTE, [(_RETURN, 0, 0, _ALLOW)])]
    netlink = _when(_JUMP_EQUAL, _AF_NETLINK, [*route, _refuse(errno.EAFNOSUPPORT)])
    return [(_LOAD, 0, 0, _ARG0), *netlink, *_family_rule(_AF_UNIX, _AF_INET, _AF_INET6)]
