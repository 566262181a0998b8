"""The self-test's program: runs inside a sandbox and prints a JSON list of what is wrong with it.

Standard library only. `selftest.py` passes its text to a sandbox, with the addresses of things on the host that it must
not reach.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import socket
import sys
from collections.abc import Callable

# unshare, mount, keyctl, io_uring_setup, ptrace: the same names as in seccomp.py, which is not in the sandbox.
FORBIDDEN_CALLS = {
    "x86_64": {"unshare": 272, "mount": 165, "keyctl": 250, "io_uring_setup": 425, "ptrace": 101, "bpf": 321},
    "aarch64": {"unshare": 97, "mount": 40, "keyctl": 219, "io_uring_setup": 425, "ptrace": 117, "bpf": 280},
}


def findings(host: dict[str, str]) -> list[str]:
    """Return what is wrong, in words."""
    expected = {name: value for name, value in EXPECTED.items() if name != "CapBnd" or host["user"] != "shared"}
    found = [f"{name} is {value}" for name, value in status().items() if value != expected.get(name, value)]
    look = shared_view if host["level"] == "landlock" else own_view
    found += look(host)
    found += [f"{what} succeeded" for what, attempt in attempts(host).items() if succeeds(attempt)]
    found += [f"{name} is not refused" for name, number in forbidden_calls().items() if not is_refused(number)]
    return found


def own_view(host: dict[str, str]) -> list[str]:
    """Look for what a sandbox with namespaces must have or lack."""
    found = []
    if read("/proc/self/uid_map").split() != ["1000", "0", "1"]:
        found.append("the user id map is not the inner one")
    if os.path.exists(host["file"]):  # noqa: PTH110 - no pathlib: this starts with every service
        found.append("a file of the host is visible")
    if sum(name.isdigit() for name in os.listdir("/proc")) > 3:  # noqa: PTH208 - see above
        found.append("other processes are visible")
    return found + [f"{path} is not writable" for path in ("/tmp", "/root/workspace") if not succeeds(writing(path))]  # noqa: S108


def shared_view(host: dict[str, str]) -> list[str]:
    """Look for what a sandbox without namespaces must not do to the machine that it shares."""
    tries = {
        "reading a file of the host": lambda: read(host["file"]),
        "reading /etc/passwd": lambda: read("/etc/passwd"),
        "writing beside the workspace": writing(".."),
        "writing to /tmp": writing("/tmp"),  # noqa: S108 - see above
        "a signal to a process of the host": lambda: os.kill(int(host["pid"]), 0),
        "a look at the limits of a process of the host": lambda: resource.prlimit(int(host["pid"]), 7),
        "a socket": lambda: socket.socket(socket.AF_UNIX).close(),
        "a pair of datagram sockets": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    }
    found = [f"{what} succeeded" for what, attempt in tries.items() if succeeds(attempt)]
    before = os.stat(host["file"]).st_mode  # noqa: PTH116 - see above
    succeeds(lambda: os.chmod(host["file"], 0o600))  # noqa: PTH101 - see above
    if os.stat(host["file"]).st_mode != before:  # noqa: PTH116 - see above
        found.append("changing the mode of a file of the host succeeded")
    if os.getuid() == 0:
        found.append("the user is root")
    return found + [f"{path} is not writable" for path in (".", os.environ["TMPDIR"]) if not succeeds(writing(path))]


EXPECTED = {
    "Seccomp": "2",
    "NoNewPrivs": "1",
    "CapInh": "0" * 16,
    "CapPrm": "0" * 16,
    "CapEff": "0" * 16,
    "CapBnd": "0" * 16,
    "CapAmb": "0" * 16,
}


def status() -> dict[str, str]:
    lines = (line.split(":", 1) for line in read("/proc/self/status").splitlines())
    values = {fields[0]: fields[1].strip() for fields in lines}
    return {name: values.get(name, "missing") for name in EXPECTED}


def attempts(host: dict[str, str]) -> dict[str, Callable[[], object]]:
    return {
        "a connection to a TCP port of the host": lambda: socket.create_connection(("127.0.0.1", int(host["port"])), 1),
        "a connection to an abstract socket of the host": lambda: connect_abstract(host["abstract"]),
        "a vsock": lambda: socket.socket(40, socket.SOCK_STREAM),
        "reading the memory of PID 1": lambda: read("/proc/1/mem"),
        "reading the environment of PID 1": lambda: read("/proc/1/environ"),
        "listing the descriptors of PID 1": lambda: os.listdir("/proc/1/fd"),  # noqa: PTH208 - see above
        "reading the memory of the agent": lambda: read(f"/proc/{os.getppid()}/mem"),
        "listing the descriptors of the agent": lambda: os.listdir(f"/proc/{os.getppid()}/fd"),  # noqa: PTH208 - see above
        "writing to /": writing("/"),
        "writing to /usr": writing("/usr"),
        "writing to /etc": writing("/etc"),
        "writing to /proc/sys": lambda: os.close(os.open("/proc/sys/kernel/hostname", os.O_WRONLY)),
    }


def writing(directory: str) -> Callable[[], object]:
    def attempt() -> None:
        path = f"{directory}/.canary"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(path)  # noqa: PTH108 - see above

    return attempt


def connect_abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + name)


def succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def forbidden_calls() -> dict[str, int]:
    return FORBIDDEN_CALLS[platform.machine()]


def is_refused(number: int) -> bool:
    """Arguments are zero: a call that is not filtered fails with something else than EPERM, or succeeds."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM)


def read(path: str) -> str:
    with open(path) as file:  # noqa: PTH123 - see above
        return file.read(65_536)


if __name__ == "__main__":
    print(json.dumps(findings(json.loads(sys.argv[1]))))  # noqa: T201 - the answer
