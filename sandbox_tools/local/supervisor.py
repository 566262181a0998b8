"""The third launcher, for machines that deny namespaces (a default Docker container), when its user has asked for it.

A sandbox is what runs under a user id of its own, which Landlock and the system call filter confine. There is no
PID 1 whose end would end it, so a supervisor stays: a child of the zygote, out of reach because it keeps the server's
user id. It ends every process of that user when the agent ends and when the zygote ends.

A server that is not root has no other user id to give. Then Landlock keeps signals inside as well, the filter also
refuses what a user may do to files and processes of its own without opening them, and the supervisor, which is in a
Landlock domain around that of the agent, ends all that it can reach.

Weaker than namespaces: names and sizes of world-readable files, and the command lines of all processes, can be seen;
code can end its own agent; there are no sockets, so no server inside, no preview and no egress.
"""

# pathlib is not worth its memory in the zygote:
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import array
import errno
import os
import signal
import socket
from contextlib import suppress
from typing import Any, Final, NoReturn

from sandbox_tools.guest import agent, limits
from sandbox_tools.guest.places import Places
from sandbox_tools.local import landlock, lockdown, native, seccomp

_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_TERMINALS: Final = ("/dev/ptmx", "/dev/pts")
"""The kernel gives a new terminal to the user who opens it; those of other users are closed to a sandbox's user."""

_SUPERVISOR_ENDED: Final = signal.SIGRTMAX
"""No program uses it, and no request can send it."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGCHLD)


def supervise(
    request: dict[str, Any], layout: dict[str, Any], code: bytes, *, agent_fd: int, outcome: socket.socket
) -> NoReturn:
    """Start the agent in the working directory, report it and this process, and stay until it ends."""
    uid = request["uid"]
    if request.get("volumes"):
        raise OSError(errno.EOPNOTSUPP, "volumes need namespaces")
    landlock.abi()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    native.prctl(native.PR_SET_PDEATHSIG, signal.SIGTERM)
    native.prctl(native.PR_SET_CHILD_SUBREAPER, 1)
    if uid is None:
        _keep_signals_inside()
    pid = os.fork()
    if pid == 0:
        _be_the_agent(uid, request["workspace"], layout, code, agent_fd=agent_fd, outcome=outcome)
    os.close(agent_fd)
    pidfds = array.array("i", [native.pidfd_open(pid), native.pidfd_open(os.getpid())])
    outcome.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, pidfds)])
    outcome.close()
    os.closerange(0, lockdown.MAX_FDS)
    while signal.sigwait(_SIGNALS) == signal.SIGCHLD and not _has_ended(pid):
        pass
    if uid is None:
        _end_all_inside()
    else:
        _end_all_processes_of(uid)
    os._exit(0)


def _end_all_with_the_supervisor() -> None:
    """If somebody kills the supervisor, the agent ends all that it can reach: what has its user id, or its domain."""
    agent_pid = os.getpid()

    def end_all(*_: object) -> None:
        if os.getpid() == agent_pid:  # not in a child that has not started its program yet
            with suppress(OSError):
                os.kill(-1, signal.SIGKILL)
            os._exit(1)

    signal.signal(_SUPERVISOR_ENDED, end_all)
    native.prctl(native.PR_SET_PDEATHSIG, _SUPERVISOR_ENDED)


def _keep_signals_inside() -> None:
    """So that "everybody" is this sandbox when it ends. The agent nests a domain in this one, and cannot reach out."""
    native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    landlock.keep_signals_inside()
    try:
        os.kill(os.getppid(), 0)
    except PermissionError:
        return
    raise PermissionError(errno.EPERM, "landlock does not keep signals inside")


def _end_all_inside() -> None:
    """See `_end_all_processes_of`: the same, for those that Landlock lets this process reach."""
    while True:
        with suppress(OSError):
            os.kill(-1, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _tasks_of(uid: int) -> int:
    """The kernel counts all of a user's against the limit of each."""
    found = 0
    for name in os.listdir("/proc"):
        with suppress(OSError, KeyError):
            if name.isdigit():
                with open(f"/proc/{name}/status") as file:
                    fields = dict(line.split(":", 1) for line in file)
                found += int(fields["Threads"]) if fields["Uid"].split()[0] == str(uid) else 0
    return found


def _check_readable(paths: list[str]) -> None:
    """Say it in words: a Python in a home directory is the usual reason why this level does not work."""
    for path in paths:
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, f"{path} must be readable by every user")


def _has_ended(pid: int) -> bool:
    """Collect the children that have ended; say whether the agent is one."""
    while (child := os.waitpid(-1, os.WNOHANG)[0]) not in (0, pid):
        pass
    return child == pid


def _end_all_processes_of(uid: int) -> None:
    """All are descendants of this process, which inherits their orphans, so they are gone when it has no child left.

    The kernel signals all at once, so a fork bomb cannot outrun it.
    """
    while True:
        killer = os.fork()
        if killer == 0:
            _kill_all_as(uid)
        os.waitpid(killer, 0)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _kill_all_as(uid: int) -> NoReturn:
    try:
        os.setresuid(uid, uid, uid)
        os.kill(-1, signal.SIGKILL)
    finally:
        os._exit(0)


def _be_the_agent(
    uid: int | None, workspace: str, layout: dict[str, Any], code: bytes, *, agent_fd: int, outcome: socket.socket
) -> NoReturn:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.setsid()
        os.umask(0o022)
        if uid is not None:
            native.empty_bounding_set()
        lockdown.become(uid)
        native.leave_session_keyring()
        native.prctl(native.PR_SET_CHILD_SUBREAPER, 1)  # what the sandbox leaves behind is the agent's to collect
        limits.set_limits(processes=limits.PROCESSES + (0 if uid is not None else _tasks_of(os.getuid())))
        places = Places(workspace)
        _end_all_with_the_supervisor()
        native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
        native.prctl(native.PR_SET_DUMPABLE, 0)
        outcome = lockdown.keep_only(agent_fd, outcome)
        visible = [source for source, _ in layout["binds"]]
        _check_readable(visible)
        devices = _DEVICES if uid is None else (*_DEVICES, *_TERMINALS)
        landlock.restrict(read_only=[*visible, "/proc"], read_write=[workspace], devices=devices)
        seccomp.install(code)
    except OSError as error:
        outcome.send(lockdown.failure(error))
        os._exit(1)
    outcome.close()
    agent.main(socket.socket(fileno=lockdown.CONTROL_FD), places)
