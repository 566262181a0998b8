"""The second launcher: /usr/bin/bwrap makes the namespaces and mounts (Ubuntu's AppArmor lets only that program).

The process that the zygote forked becomes bwrap, so it dies with the zygote; a child of it stays a moment to report.
What bwrap cannot do (the number of files in a tmpfs, limits of the IPC and pid namespaces) is not claimed as a limit.
"""

# pathlib is not worth its memory in the zygote, and the /tmp here are mount points:
# ruff: noqa: PTH110, S108

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterable
from typing import Any, Final, NoReturn

from sandbox_tools.local import mounts, native

PROGRAM: Final = "/usr/bin/bwrap"
"""The path that AppArmor profiles name. Not another one on PATH: it would have no permission, or be anybody's."""

GUEST_DIRECTORY: Final = "/run/sandbox-tools"

_START: Final = f"""\
import sys, types
sys.modules["sandbox_tools"] = package = types.ModuleType("sandbox_tools")
package.__path__ = ["{GUEST_DIRECTORY}"]
from sandbox_tools.guest.start import main
main()
"""
_MAX_ERROR_BYTES: Final = 500
_FIRST_FREE_FD: Final = 64


def arguments(
    layout: dict[str, Any], workspace: str, files: dict[str, int], *, info: int, block: int, code: int
) -> list[str]:
    """Return bwrap's options.

    The workspace is bound last and nothing is mounted below it: before 0.12 bwrap follows a symlink that a sandbox
    planted on the way to a mount point (CVE-2026-87766).

    Args:
        files: Descriptor of the content of each file of the layout.
        info: Where bwrap writes the process id.
        block: What the new process reads until its end before it goes on.
        code: The system call filter.
    """
    return [
        *("--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--disable-userns"),
        *("--cap-drop", "ALL", "--hostname", "sandbox", "--clearenv", "--chdir", "/"),
        *("--new-session", "--die-with-parent", "--as-pid-1"),
        *("--info-fd", str(info), "--block-fd", str(block), "--seccomp", str(code)),
        *_own_mounts(),
        *_flat(("--ro-bind", source, target) for source, target in layout["binds"]),
        *_flat(("--symlink", target, path) for target, path in [*layout["links"], ("/tmp", "/var/tmp")]),
        *_flat(("--perms", "0644", "--file", str(fd), path) for path, fd in files.items()),
        *_flat(("--bind", source, target) for source, target in layout["volumes"]),
        *("--dir", mounts.WORKSPACE, "--remount-ro", "/dev", "--remount-ro", "/"),
        *("--bind", workspace, mounts.WORKSPACE),
    ]


def _own_mounts() -> list[str]:
    masked = [f"/proc/{name}" for name in mounts.MASKED if os.path.exists(f"/proc/{name}")]
    closed = [f"/proc/{name}" for name in mounts.READ_ONLY if os.path.exists(f"/proc/{name}")]
    return [
        *("--proc", "/proc", "--dev", "/dev"),
        *_flat(("--ro-bind", "/dev/null", path) for path in masked),
        *_flat(("--ro-bind", path, path) for path in closed),
        *("--perms", "1777", "--size", str(64 << 20), "--tmpfs", "/dev/shm"),
        *("--perms", "1777", "--size", str(512 << 20), "--tmpfs", "/tmp"),
    ]


def _flat(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return [text for group in groups for text in group]


def stage_workspace(directory: str) -> str:
    """Bind the working directory at `directory`, in a mount namespace of its own, and return it.

    For a server that runs as root: the parents of a workspace are closed to the sandbox's user, and bwrap goes by path.
    """
    native.unshare(native.CLONE_NEWNS)
    native.mount(".", directory, flags=native.MS_BIND)
    return directory


def become(layout: dict[str, Any], code: bytes, workspace: str, *, agent_fd: int, outcome: socket.socket) -> NoReturn:
    """Turn this process into bwrap, whose child is PID 1 of the sandbox."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # bwrap waits for its child
    info, info_inner = os.pipe()
    block_inner, block = os.pipe()
    errors, errors_inner = os.pipe()
    ready, ready_inner = os.pipe()
    if os.fork() == 0:
        for fd in (info_inner, block_inner, errors_inner, ready_inner, agent_fd):
            os.close(fd)
        _report(outcome, info=info, block=block, errors=errors, ready=ready)
    outcome.close()
    options = arguments(
        layout,
        workspace,
        {path: _inherited(_memfd(text.encode())) for path, text in layout["files"].items()},
        info=_inherited(info_inner),
        block=_inherited(block_inner),
        code=_inherited(_memfd(code)),
    )
    hidden = _inherited(_memfd(b"".join(os.fsencode(option) + b"\0" for option in options)))
    null = os.open("/dev/null", os.O_RDWR)
    for fd, source in enumerate([_high(fd) for fd in (null, null, errors_inner, agent_fd, ready_inner)]):
        os.dup2(source, fd)
    program = [layout["python"], "-I", "-S", "-B", "-c", _START]
    os.execve(PROGRAM, ["bwrap", "--args", str(hidden), "--", *program], {})  # noqa: S606 - no shell is wanted


def _report(outcome: socket.socket, *, info: int, block: int, errors: int, ready: int) -> NoReturn:
    """Hand out the pidfd of PID 1 while it still waits for us, let it go on, and wait until it is ready."""
    try:
        pid = json.loads(_read_all(info))["child-pid"]
        pidfd = array.array("i", [native.pidfd_open(pid)])
        outcome.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, pidfd)])
    except (ValueError, OSError):
        pass  # it ended early: its error output says why
    os.close(block)
    if not os.read(ready, 1):
        lines = _read_all(errors).decode("utf-8", "replace").strip().splitlines() or ["bwrap: ended early"]
        outcome.send(json.dumps({"error": lines[-1][:_MAX_ERROR_BYTES]}).encode())
    os._exit(0)


def _read_all(fd: int) -> bytes:
    data = b""
    while piece := os.read(fd, 4096):
        data += piece
    return data


def _memfd(content: bytes) -> int:
    fd = native.memfd_create()
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _inherited(fd: int) -> int:
    """Return a copy that bwrap gets; it closes each of them before the sandbox's program starts."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST_FREE_FD)


def _high(fd: int) -> int:
    """Return a copy out of the way of the numbers that are given next."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
