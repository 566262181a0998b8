"""The filter programs of both architectures, run by a small interpreter of classic BPF: one of them cannot run here."""

from __future__ import annotations

import errno
import os
import re
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox_tools.local import seccomp, syscalls
from sandbox_tools.local.seccomp import program

ALLOW, KILL, ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
NUMBERS = {
    "x86_64": {
        "read": 0,
        "clone": 56,
        "ioctl": 16,
        "socket": 41,
        "socketpair": 53,
        "unshare": 272,
        "mount": 165,
        "execve": 59,
    },
    "aarch64": {
        "read": 63,
        "clone": 220,
        "ioctl": 29,
        "socket": 198,
        "socketpair": 199,
        "unshare": 97,
        "mount": 40,
        "execve": 221,
    },
}
PERM = ERRNO | errno.EPERM
FAMILY = ERRNO | errno.EAFNOSUPPORT


def run(code: bytes, *, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Return what the filter says to a system call."""
    data = struct.pack("<iIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    instructions = list(struct.iter_unpack("=HBBI", code))
    accumulator, at = 0, 0
    while True:
        operation, when_true, when_false, value = instructions[at]
        at += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x54:
            accumulator &= value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            at += when_true if holds else when_false


@pytest.fixture(params=["x86_64", "aarch64"])
def arch(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def answer(arch: str, name: str, *arguments: int) -> int:
    return run(program(arch), arch=ARCH[arch], number=NUMBERS[arch][name], arguments=arguments)


def test_ordinary_calls_are_allowed(arch: str) -> None:
    assert {answer(arch, "read"), answer(arch, "execve"), answer(arch, "clone", 0x01200011)} == {ALLOW}
    assert answer(arch, "clone", 0x003D0F00) == ALLOW  # a thread


def test_namespaces_and_mounts_are_refused(arch: str) -> None:
    assert {answer(arch, "unshare"), answer(arch, "mount")} == {PERM}
    for flag in (0x80, 0x20000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000):
        assert answer(arch, "clone", flag | 17) == PERM
    assert run(program(arch), arch=ARCH[arch], number=435) == ERRNO | errno.ENOSYS


def test_terminals_cannot_be_typed_into(arch: str) -> None:
    for request in (0x5412, 0x541C, 0x1_0000_5412):
        assert answer(arch, "ioctl", 0, request) == PERM
    assert answer(arch, "ioctl", 0, 0x5413) == ALLOW


def test_only_the_listed_socket_families_are_allowed(arch: str) -> None:
    allowed = [family for family in range(64) if answer(arch, "socket", family) == ALLOW]
    assert allowed == [1, 2, 10, 16]
    assert answer(arch, "socket", 16, 3, 15) == FAMILY  # netlink, but not the routing protocol
    assert [family for family in range(64) if answer(arch, "socketpair", family) == ALLOW] == [1, 2]


def test_another_architecture_is_killed(arch: str) -> None:
    for other in (0x4000_0003, 0xC000_00F3, 0):  # i386, riscv64, none
        assert run(program(arch), arch=other, number=0) == KILL


@pytest.mark.parametrize("name", ["riscv64", "ppc64le", "i686", "armv7l", ""])
def test_a_machine_without_a_table_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=name))
    with pytest.raises(seccomp.UnknownArchitectureError, match="no system call table"):
        seccomp.machine()


def test_every_number_of_the_tables_is_refused(arch: str) -> None:
    for sockets in (True, False):
        code = program(arch, sockets=sockets)
        tables = [syscalls.DENIED[arch], {} if sockets else syscalls.DENIED_WITHOUT_NAMESPACES[arch]]
        for name, number in [pair for table in tables for pair in table.items()]:
            assert run(code, arch=ARCH[arch], number=number) == PERM, name


@pytest.mark.parametrize("header", HEADERS.items(), ids=HEADERS)
def test_the_numbers_are_those_of_the_kernel(header: tuple[str, str]) -> None:
    arch, file = header
    if not Path(file).exists():
        pytest.skip("the kernel's headers are not installed")
    numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(file).read_text()))
    known = 0
    tables = [syscalls.DENIED, syscalls.DENIED_WITHOUT_NAMESPACES, syscalls.DENIED_TO_A_SHARED_USER]
    tables += [syscalls.IGNORED_OF_A_SHARED_USER, syscalls.CHECKED, NUMBERS]
    own = {name: number for name, (number, _) in syscalls.OF_ITSELF_ONLY[arch].items()}
    for name, number in [pair for table in [*(table[arch] for table in tables), own] for pair in table.items()]:
        if name in numbers:
            assert numbers[name] == str(number), name
            known += 1
    assert known > 90


def test_the_x32_numbers_are_killed() -> None:
    assert run(program("x86_64"), arch=ARCH["x86_64"], number=0x4000_0000) == KILL


def test_without_namespaces_only_pairs_of_streams_are_allowed(arch: str) -> None:
    code = program(arch, sockets=False)

    def ask(name: str, *arguments: int) -> int:
        return run(code, arch=ARCH[arch], number=NUMBERS[arch][name], arguments=arguments)

    assert {ask("socket", family) for family in range(64)} == {PERM}
    assert {ask("socketpair", 1, 1), ask("socketpair", 1, 0x80001)} == {ALLOW}
    assert {ask("socketpair", 1, 2), ask("socketpair", 1, 0x80002), ask("socketpair", 1, 5)} == {PERM}
    assert {ask("socketpair", 2, 1), ask("socketpair", 16, 1)} == {FAMILY}


def test_a_shared_user_cannot_change_what_it_does_not_open(arch: str) -> None:
    code = program(arch, sockets=False, own_user=False)
    for name, number in syscalls.DENIED_TO_A_SHARED_USER[arch].items():
        expected = ERRNO | errno.EOPNOTSUPP if "xattr" in name else PERM
        assert run(code, arch=ARCH[arch], number=number) == expected, name
    for name, number in syscalls.IGNORED_OF_A_SHARED_USER[arch].items():
        assert run(code, arch=ARCH[arch], number=number) == ERRNO, name  # success, and nothing is done
    for number, count in syscalls.OF_ITSELF_ONLY[arch].values():
        assert run(code, arch=ARCH[arch], number=number, arguments=(0, 0, 7)) == ALLOW
        for position in range(count):
            arguments = tuple(7 if at == position else 0 for at in range(6))
            assert run(code, arch=ARCH[arch], number=number, arguments=arguments) == PERM
    times = syscalls.CHECKED[arch]["utimensat"]
    for path, moment, expected in ((0, 0, ERRNO), (7, 7, ERRNO), (0, 7, ERRNO), (7, 0, PERM)):
        assert run(code, arch=ARCH[arch], number=times, arguments=(0, path, moment)) == expected
    ioctl = NUMBERS[arch]["ioctl"]
    assert run(code, arch=ARCH[arch], number=ioctl, arguments=(0, 0x5401)) == ALLOW
    for request in (0x5412, 0x40086602, 0x40806685, 0x1_0000_5412):  # TIOCSTI, FS_IOC_SETFLAGS, FS_IOC_ENABLE_VERITY
        assert run(code, arch=ARCH[arch], number=ioctl, arguments=(0, request)) == ERRNO | errno.ENOTTY


def test_a_user_of_its_own_may_do_all_that(arch: str) -> None:
    code = program(arch, sockets=False)
    for table in (syscalls.DENIED_TO_A_SHARED_USER, syscalls.IGNORED_OF_A_SHARED_USER):
        assert {run(code, arch=ARCH[arch], number=number) for number in table[arch].values()} == {ALLOW}
