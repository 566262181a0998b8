"""Bombs: each goes off in one sandbox while another's commands keep being answered and the machine stays usable.

All are bounded by the limits that are in force; the watchdog's own bounds are small here, so that it need not be big.
One command may take a second or more: a process of a fork bomb that has to wait for its turn in the middle of a fork or
an exit holds the kernel's lock of the Python that all sandboxes map, and who starts a process waits for it. So what
counts is how long most of them take.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local.service import Box, LocalServer, running_service, wait_for

BURNING_S = 1.5
MEMORY_FLOOR_KIB = 512 << 10
BOUNDS = {"memory": 512 << 20, "disk": 512 << 20}

FORK = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
MEMORY = """
import os
for _ in range(20):
    if os.fork() == 0:
        kept = []
        while True:
            kept.append(b"x" * (8 << 20))
os.wait()
"""
MEMFD = """
import os
while True:
    fd = os.memfd_create("x")
    for _ in range(64):
        os.write(fd, bytes(4 << 20))
"""
SYSV = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
while True:
    segment = libc.shmget(0, ctypes.c_size_t(8 << 20), 0o1600)
    if segment >= 0:
        ctypes.memset(libc.shmat(segment, None, 0), 1, 8 << 20)
"""
INODES = """
import os
for top in ("/tmp/d", "/dev/shm/d", "d"):
    os.mkdir(top)
number = 0
while number < 400_000:
    number += 1
    for top in ("/tmp/d", "/dev/shm/d"):
        try:
            os.close(os.open(f"{top}/{number}", os.O_CREAT | os.O_WRONLY))
        except OSError:
            pass
"""
DISK = """
number = 0
while True:
    number += 1
    try:
        with open(f"f{number}", "wb") as file:
            for _ in range(16):
                file.write(bytes(4 << 20))
    except OSError:
        pass
"""
FDS = """
import os
while True:
    try:
        if os.fork() == 0:
            while True:
                try:
                    os.pipe()
                except OSError:
                    pass
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    env = {"BOUNDS": json.dumps(BOUNDS)}
    with running_service(tmp_path_factory.mktemp("bombs"), env=env) as running:
        yield running


def available_kib() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])


@pytest.mark.parametrize(
    "program",
    [FORK, MEMORY, MEMFD, SYSV, INODES, DISK, FDS],
    ids=["fork", "memory", "memory files", "shared memory", "inodes", "disk", "descriptors"],
)
def test_a_bomb_in_one_sandbox_leaves_the_others_alone(service: LocalServer, program: str) -> None:
    times, lowest = [], available_kib()
    with service.sandbox() as other, service.sandbox() as box:
        with box.start("python3", "-c", program):
            until = time.monotonic() + BURNING_S
            while time.monotonic() < until:
                began = time.monotonic()
                assert other.run("true").exit_code == 0
                times.append(time.monotonic() - began)
                lowest = min(lowest, available_kib())
        assert is_usable_or_stopped(box)
        assert other.run("true").exit_code == 0
    assert statistics.median(times) < 1.0
    assert lowest > MEMORY_FLOOR_KIB


def is_usable_or_stopped(box: Box) -> bool:
    """Its processes can be ended by who may use it, or it is known to be at its end."""

    def settled() -> bool:
        if box.state() == "stopped":
            return True
        for process in box.rpc("process.Process/List", {}).json().get("processes", []):
            selector = {"process": {"pid": process["pid"]}, "signal": "SIGNAL_SIGKILL"}
            box.rpc("process.Process/SendSignal", selector)
        return box.http.post("/run", json={"cmd": "true"}).status_code == 200

    return wait_for(settled, what="a sandbox that works or has stopped")
