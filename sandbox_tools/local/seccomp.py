"""The system call filter of a sandbox: a classic BPF program, per architecture.

Namespaces alone are not enough: without the filter a sandbox could read the host user's session keyring, open
AF_VSOCK, type into the host's terminal (TIOCSTI) or get new privileges in a nested user namespace.
Numbers: the kernel's asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Mapping
from typing import Final

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

_DENIED_EVERYWHERE: Final = {
    "pidfd_getfd": 438,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "set_mempolicy_home_node": 450,
    "open_tree_attr": 467,
}

_DENIED: Final[Mapping[str, Mapping[str, int]]] = {
    "x86_64": _DENIED_EVERYWHERE
    | {
        "ptrace": 101,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "kcmp": 312,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "bpf": 321,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "mount": 165,
        "umount2": 166,
        "pivot_root": 155,
        "chroot": 161,
        "unshare": 272,
        "setns": 308,
        "kexec_load": 246,
        "kexec_file_load": 320,
        "create_module": 174,
        "init_module": 175,
        "finit_module": 313,
        "delete_module": 176,
        "reboot": 169,
        "swapon": 167,
        "swapoff": 168,
        "acct": 163,
        "quotactl": 179,
        "nfsservctl": 180,
        "name_to_handle_at": 303,
        "open_by_handle_at": 304,
        "lookup_dcookie": 212,
        "syslog": 103,
        "vhangup": 153,
        "settimeofday": 164,
        "clock_settime": 227,
        "clock_adjtime": 305,
        "adjtimex": 159,
        "sethostname": 170,
        "setdomainname": 171,
        "fanotify_init": 300,
        "vmsplice": 278,
        "move_pages": 279,
        "migrate_pages": 256,
        "mbind": 237,
        "set_mempolicy": 238,
        "iopl": 172,
        "ioperm": 173,
        "modify_ldt": 154,
        "uselib": 134,
        "ustat": 136,
        "sysfs": 139,
        "_sysctl": 156,
    },
    "aarch64": _DENIED_EVERYWHERE
    | {
        "ptrace": 117,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "kcmp": 272,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "bpf": 280,
        "perf_event_open": 241,
        "userfaultfd": 282,
        "mount": 40,
        "umount2": 39,
        "pivot_root": 41,
        "chroot": 51,
        "unshare": 97,
        "setns": 268,
        "kexec_load": 104,
        "kexec_file_load": 294,
        "init_module": 105,
        "finit_module": 273,
        "delete_module": 106,
        "reboot": 142,
        "swapon": 224,
        "swapoff": 225,
        "acct": 89,
        "quotactl": 60,
        "nfsservctl": 42,
        "name_to_handle_at": 264,
        "open_by_handle_at": 265,
        "lookup_dcookie": 18,
        "syslog": 116,
        "vhangup": 58,
        "settimeofday": 170,
        "clock_settime": 112,
        "clock_adjtime": 266,
        "adjtimex": 171,
        "sethostname": 161,
        "setdomainname": 162,
        "fanotify_init": 262,
        "vmsplice": 75,
        "move_pages": 239,
        "migrate_pages": 238,
        "mbind": 235,
        "set_mempolicy": 237,
    },
}

_DENIED_WITHOUT_NAMESPACES: Final[Mapping[str, Mapping[str, int]]] = {
    "x86_64": {
        "socket": 41,
        "connect": 42,
        "bind": 49,
        "shmget": 29,
        "shmat": 30,
        "shmctl": 31,
        "semget": 64,
        "semop": 65,
        "semctl": 66,
        "semtimedop": 220,
        "msgget": 68,
        "msgsnd": 69,
        "msgrcv": 70,
        "msgctl": 71,
        "mq_open": 240,
        "mq_unlink": 241,
    },
    "aarch64": {
        "socket": 198,
        "connect": 203,
        "bind": 200,
        "shmget": 194,
        "shmat": 196,
        "shmctl": 195,
        "semget": 190,
        "semctl": 191,
        "semtimedop": 192,
        "semop": 193,
        "msgget": 186,
        "msgctl": 187,
        "msgrcv": 188,
        "msgsnd": 189,
        "mq_open": 180,
        "mq_unlink": 181,
    },
}

_CHECKED: Final[Mapping[str, Mapping[str, int]]] = {
    "x86_64": {"clone": 56, "ioctl": 16, "socket": 41, "socketpair": 53, "seccomp": 317},
    "aarch64": {"clone": 220, "ioctl": 29, "socket": 198, "socketpair": 199, "seccomp": 277},
}
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


def program(arch: str, *, sockets: bool = True) -> bytes:
    """Return the filter of one architecture as an array of struct sock_filter.

    Args:
        sockets: Without, for a sandbox that has no network and IPC namespace of its own, nothing of these is allowed
            but pairs of connected sockets.
    """
    checked = _CHECKED[arch]
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[arch]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NR),
        (_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL_PROCESS),
    ]
    denied = {**_DENIED[arch], **({} if sockets else _DENIED_WITHOUT_NAMESPACES[arch])}
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
    number = ctypes.c_long(_CHECKED[machine()]["seccomp"])
    if libc.syscall(number, 1, 0, ctypes.byref(argument)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _refuse(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _when(test: int, value: int, then: list[Instruction]) -> list[Instruction]:
    """Run `then` when the loaded word passes the test; `then` either returns or falls through."""
    return [(test, 0, len(then), value), *then]


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
