"""Starting a program in a sandbox: in a session of its own, with three descriptors and default signals.

Standard library only, runs inside, in the agent.
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from typing import Any, NoReturn

from sandbox_tools.guest import terminal

_DEFAULT_AGAIN = (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)
"""Python or the agent changed these; a program expects the default."""


def start(request: dict[str, Any], fds: list[int]) -> int:
    """Start what an exec asks for, and return its process id. What cannot be started says so itself, as in a shell.

    Args:
        fds: For its standard input (if it has any), output and errors; or one terminal for all three.

    Raises:
        OSError: There is no such working directory, or no process can be made.
    """
    cwd = os.open(request["cwd"], os.O_PATH | os.O_DIRECTORY)
    try:
        if not request.get("pty"):
            with suppress(OSError, ValueError, NotImplementedError):  # the other way meets the same, and says it
                return _spawn(request, cwd, fds)
        return _fork(request, cwd, fds)
    finally:
        os.close(cwd)


def _spawn(request: dict[str, Any], cwd: int, fds: list[int]) -> int:
    """Start it without a copy of the agent's memory.

    That is faster, and does not wait for the kernel's lock of the Python that all sandboxes map, which a fork bomb in
    one of them can hold for a second.
    """
    here = os.open(".", os.O_PATH | os.O_DIRECTORY)
    os.fchdir(cwd)
    try:
        actions: list[tuple[Any, ...]] = [] if request["stdin"] else [(os.POSIX_SPAWN_OPEN, 0, os.devnull, 0, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, source, fd) for fd, source in enumerate(fds, start=len(actions))]
        argv, env = request["argv"], request["env"]
        return os.posix_spawn(
            _find(argv[0], env), argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_DEFAULT_AGAIN
        )
    finally:
        os.fchdir(here)
        os.close(here)


def _find(program: str, env: dict[str, str]) -> str:
    """Return the path of a program, as a shell finds it in the PATH of `env`.

    Raises:
        FileNotFoundError: It is not there.
    """
    if "/" in program:
        return program
    for directory in os.get_exec_path(env):
        path = os.path.join(directory, program)
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(errno.ENOENT, program)


def _fork(request: dict[str, Any], cwd: int, fds: list[int]) -> int:
    # A signal for the program may come before the child has the program's dispositions: it must wait, not be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, _DEFAULT_AGAIN)
    try:
        pid = os.fork()
        if pid == 0:
            _become_program(request, cwd, fds)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _DEFAULT_AGAIN)


def _become_program(request: dict[str, Any], cwd: int, fds: list[int]) -> NoReturn:
    """In the child."""
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        os.fchdir(cwd)
        stdio = fds if request["stdin"] else [os.open(os.devnull, os.O_RDONLY), *fds]
        for fd, source in enumerate(stdio):
            os.dup2(source, fd)
        os.closerange(3, 4096)
        if request.get("pty"):
            terminal.take_control(0)
        for number in _DEFAULT_AGAIN:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _DEFAULT_AGAIN)
        _execute(request["argv"], request["env"])
    except BaseException as error:  # nothing may return into the agent's loop
        _complain(request["argv"][0], error)
    os._exit(127)


def _execute(argv: list[str], env: dict[str, str]) -> None:
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    os.execvpe("/bin/sh", ["sh", *argv], env)  # a script without an interpreter line, as a shell would run it


def _complain(program: str, error: BaseException) -> NoReturn:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT:
        os.write(2, f"{program}: command not found\n".encode())
        os._exit(127)
    os.write(2, f"{program}: {os.strerror(number) if number else 'cannot be started'}\n".encode())
    os._exit(126)
