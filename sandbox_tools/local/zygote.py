"""The process that forks sandboxes: single-threaded, started with an empty environment, holding no secret.

Started by `launcher.py`. Its standard input is a SOCK_SEQPACKET socket: first the layout, then one message a sandbox,
each with two descriptors: the agent's end of its control socket, and a socket for the outcome of the launch (the
pidfd of PID 1, then end-of-file, or the step that failed). Ends when the server closes its end.
"""

from __future__ import annotations

import array
import errno
import gc
import json
import os
import select
import signal
import socket
from typing import Any, Final, NoReturn

from sandbox_tools.guest import agent, limits
from sandbox_tools.local import bwrap, lockdown, mounts, native, seccomp, supervisor

STAGING_DIRECTORY: Final = "/sys"
"""In the zygote's own mount namespace. Nothing of the real one is needed; no workspace or Python lies below it."""

MAX_MESSAGE_BYTES: Final = 65_536
INSIDE_UID: Final = 1000

_NAMESPACES: Final = (
    native.CLONE_NEWUSER
    | native.CLONE_NEWNS
    | native.CLONE_NEWPID
    | native.CLONE_NEWNET
    | native.CLONE_NEWIPC
    | native.CLONE_NEWUTS
    | native.CLONE_NEWCGROUP
)


def main(control: socket.socket, layout: dict[str, Any]) -> None:
    """Serve launch requests until the server is gone."""
    try:
        code = _prepare(layout)
    except OSError as error:
        control.send(lockdown.failure(error))
        return
    control.send(b"{}")
    gc.collect()
    gc.freeze()  # the pages of what exists now stay shared with every sandbox
    while True:
        data, ancillary, _, _ = control.recvmsg(MAX_MESSAGE_BYTES, socket.CMSG_SPACE(8))
        if not data:
            return
        fds = array.array("i", b"".join(item[2] for item in ancillary))
        if os.fork() == 0:
            control.close()
            _launch(json.loads(data), layout, code, agent_fd=fds[0], outcome=socket.socket(fileno=fds[1]))
        for fd in fds:
            os.close(fd)


def _prepare(layout: dict[str, Any]) -> bytes:
    has_namespaces = layout["kind"] != "landlock"
    own_user = has_namespaces or os.getuid() == 0
    code = seccomp.program(seccomp.machine(), sockets=has_namespaces, own_user=own_user)
    if layout["kind"] == "bwrap" and not os.access(bwrap.PROGRAM, os.X_OK):
        raise FileNotFoundError(errno.ENOENT, bwrap.PROGRAM)
    native.prctl(native.PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.getuid() == 0 and has_namespaces:
        native.unshare(native.CLONE_NEWNS)
        layout["binds"] = mounts.stage(layout["binds"], STAGING_DIRECTORY)
    return code


def _launch(
    request: dict[str, Any], layout: dict[str, Any], code: bytes, *, agent_fd: int, outcome: socket.socket
) -> NoReturn:
    """In the first child: enter the namespaces, fork PID 1, report it, and go."""
    try:
        os.chdir(request["workspace"])
        if layout["kind"] == "landlock":
            supervisor.supervise(request, layout, code, agent_fd=agent_fd, outcome=outcome)
        if request["uid"] is not None:
            request["volumes"] = mounts.stage_volumes(request["volumes"], STAGING_DIRECTORY)
        layout["volumes"] = request["volumes"]
        if layout["kind"] == "bwrap":
            _become_bwrap(request, layout, code, agent_fd=agent_fd, outcome=outcome)
        lockdown.become(request["uid"])
        _enter_namespaces()
        launcher_pidfd = native.pidfd_open(os.getpid())
        pid = os.fork()
        if pid == 0:
            _be_pid_1(layout, code, agent_fd=agent_fd, outcome=outcome, launcher_pidfd=launcher_pidfd)
        pidfd = array.array("i", [native.pidfd_open(pid)])
        outcome.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, pidfd)])
    except OSError as error:
        outcome.send(lockdown.failure(error))
    os._exit(0)


def _become_bwrap(
    request: dict[str, Any], layout: dict[str, Any], code: bytes, *, agent_fd: int, outcome: socket.socket
) -> NoReturn:
    workspace = request["workspace"]
    if request["uid"] is not None:
        workspace = bwrap.stage_workspace(f"{STAGING_DIRECTORY}/workspace")
    lockdown.become(request["uid"])
    bwrap.become(layout, code, workspace, agent_fd=agent_fd, outcome=outcome)


def _enter_namespaces() -> None:
    uid, gid = os.getuid(), os.getgid()
    native.unshare(_NAMESPACES)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")


def _be_pid_1(
    layout: dict[str, Any], code: bytes, *, agent_fd: int, outcome: socket.socket, launcher_pidfd: int
) -> NoReturn:
    try:
        os.setsid()
        native.set_hostname("sandbox")
        native.bring_loopback_up()
        mounts.build_root(layout["binds"], layout["links"], layout["files"], layout["volumes"])
        _lock_down(launcher_pidfd)
        outcome = lockdown.keep_only(agent_fd, outcome)
        seccomp.install(code)
    except OSError as error:
        outcome.send(lockdown.failure(error))
        os._exit(1)
    outcome.close()
    agent.main(socket.socket(fileno=lockdown.CONTROL_FD))


def _lock_down(launcher_pidfd: int) -> None:
    limits.set_limits()
    native.unshare(native.CLONE_NEWUSER)
    _write("/proc/self/uid_map", f"{INSIDE_UID} 0 1")
    _write("/proc/self/gid_map", f"{INSIDE_UID} 0 1")
    native.drop_capabilities()
    _die_with_the_zygote(launcher_pidfd)
    native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    native.prctl(native.PR_SET_DUMPABLE, 0)


def _die_with_the_zygote(launcher_pidfd: int) -> None:
    """Wait until the zygote is the parent: the kernel sends the signal when the parent of the moment ends.

    A zygote that ended before this line is noticed by the agent's end-of-file on its control socket.
    """
    select.select([launcher_pidfd], [], [])
    native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, path) from None
    finally:
        os.close(fd)
