"""PID 1 of a sandbox: starts processes, signals them, does file work, hands out connections to ports inside.

Standard library only. It runs inside the namespaces under the sandbox's own user id, so it is as trusted as the code
it runs: the host checks all that it says. Its control socket (SOCK_SEQPACKET) is the only way in. A request is a JSON
object, in pieces of which each starts with "+" (more follows) or "." (last), descriptors with the last:

    exec     [stdin pipe,] stdout pipe, stderr pipe -> {"id", "pid"}, later {"id", "exit"}; or {"id", "error": errno}
             with "pty": stdin pipe, output pipe, of a relay to a terminal; "exit" comes when all output is in the pipe
    resize   the terminal of an exec                -> {"id"} or {"id", "error"}
    signal   to the process group of an exec        -> {"id"} or {"id", "error"}
    connect  to a TCP port inside                   -> {"id"} with a socket that is still connecting, or {"id", "error"}
    socket   of TCP, for the host to listen inside  -> {"id"} with a new socket, or {"id", "error"}
    task     file work in a child of its own (guest/tasks.py), which answers on a pipe: no answer here
"""

from __future__ import annotations

import array
import errno
import json
import os
import select
import signal
import socket
from contextlib import suppress
from typing import Any, NoReturn

from sandbox_tools.guest import program, tasks, terminal
from sandbox_tools.guest.answer import Answer
from sandbox_tools.guest.places import Places

PIECE_BYTES = 60_000
_MAX_FDS = 8


def main(control: socket.socket, places: Places | None = None) -> NoReturn:
    """Serve until the host closes the control socket; then every process of the sandbox is ended.

    Args:
        places: Where the files are, in a sandbox without a file system of its own.
    """
    control.set_inheritable(False)
    Agent(control, places).run()
    os._exit(0)


class _Terminal:
    """A terminal that is open, and the process that relays for it."""

    def __init__(self, master: int, relay: int, ended: int) -> None:
        self.master = master
        self.relay = relay
        self.ended = ended  # a pipe that tells the relay of the end of the program
        self.exit_code: int | None = None


class Agent:
    """The loop, and the processes that it started."""

    def __init__(self, control: socket.socket, places: Places | None = None) -> None:
        self._control = control
        self._places = places
        self._ids: dict[int, int] = {}  # pid of a running exec -> its request
        self._groups: dict[int, int] = {}  # request -> process group; may outlive the exec's main process
        self._terminals: dict[int, _Terminal] = {}  # by request
        self._relays: dict[int, int] = {}  # pid of a relay -> its request
        self._pieces = b""

    def run(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        self._send({"ready": True})
        while True:
            for fd, _ in poll.poll():
                if fd == wake_read:
                    _drain(wake_read)
                    self._reap()
                elif not self._receive():
                    return

    def _receive(self) -> bool:
        """Take one piece of a request; return False when the host is gone."""
        space = socket.CMSG_SPACE(4 * _MAX_FDS)
        data, ancillary, _, _ = self._control.recvmsg(PIECE_BYTES + 1, space, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        fds = list(array.array("i", b"".join(item[2] for item in ancillary)))
        self._pieces += data[1:]
        if data[:1] == b".":
            request, self._pieces = json.loads(self._pieces), b""
            self._handle(request if self._places is None else self._places.request(request), fds)
        for fd in fds:
            os.close(fd)
        return True

    def _handle(self, request: dict[str, Any], fds: list[int]) -> None:
        operations = {
            "exec": self._exec,
            "signal": self._signal,
            "connect": self._connect,
            "socket": self._socket,
            "resize": self._resize,
            "task": self._task,
        }
        try:
            operations[request["op"]](request, fds)
        except OSError as error:
            self._send({"id": request["id"], "error": error.errno or errno.EIO})
        except ValueError:  # text that is no path
            self._send({"id": request["id"], "error": errno.EINVAL})

    def _exec(self, request: dict[str, Any], fds: list[int]) -> None:
        opened = []
        try:
            if request.get("pty"):
                opened.append(self._open_terminal(request, fds))
                fds = opened * 3
            pid = program.start(request, fds)
        except OSError:
            self._close_terminal(request["id"])
            raise
        finally:
            for fd in opened:
                os.close(fd)
        self._forget_ended_groups(pid)
        self._ids[pid] = request["id"]
        self._groups[request["id"]] = pid
        self._send({"id": request["id"], "pid": pid})

    def _open_terminal(self, request: dict[str, Any], pipes: list[int]) -> int:
        """Open a terminal with its relay; return the program's end."""
        master, program_end = terminal.open_pair(*request["pty"])
        ended_read, ended_write = os.pipe()
        try:
            relay = os.fork()
        except OSError:
            for fd in (master, program_end, ended_read, ended_write):
                os.close(fd)
            raise
        if relay == 0:
            self._become_relay(master, pipes, ended_read)
        os.close(ended_read)
        self._terminals[request["id"]] = _Terminal(master, relay, ended_write)
        self._relays[relay] = request["id"]
        return program_end

    def _become_relay(self, master: int, pipes: list[int], ended: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            _close_all_but([2, master, *pipes, ended])
            typed, shown = pipes
            terminal.relay(master, typed, shown, ended)
        finally:
            os._exit(0)

    def _resize(self, request: dict[str, Any], _: list[int]) -> None:
        found = self._terminals.get(request["exec"])
        if found is None:
            raise ProcessLookupError(errno.ESRCH, "no such terminal")
        terminal.resize(found.master, request["cols"], request["rows"])
        self._send({"id": request["id"]})

    def _close_terminal(self, request: int) -> None:
        """Hang up: what still has the terminal open sees its end, and so does its relay."""
        found = self._terminals.pop(request, None)
        if found is not None:
            self._relays.pop(found.relay, None)
            os.close(found.master)
            os.close(found.ended)

    def _forget_ended_groups(self, new_pid: int) -> None:
        """Keep the groups that still have members; a process id that was given out again is not the old group."""
        self._groups = {
            request: group
            for request, group in self._groups.items()
            if group != new_pid and (group in self._ids or _has_members(group))
        }

    def _signal(self, request: dict[str, Any], _: list[int]) -> None:
        group = self._groups.get(request["exec"])
        if group is None:
            raise ProcessLookupError(errno.ESRCH, "no such process group")
        try:
            os.killpg(group, request["signal"])
        except ProcessLookupError:
            if group not in self._ids:
                raise
            os.kill(group, request["signal"])  # a child that has not made its group yet
        self._send({"id": request["id"]})

    def _connect(self, request: dict[str, Any], _: list[int]) -> None:
        """Hand out a socket that still connects: the host waits for it, so a full backlog cannot stop the agent."""
        family, address = (socket.AF_INET6, "::1") if request["v6"] else (socket.AF_INET, "127.0.0.1")
        with socket.socket(family) as connection:
            connection.setblocking(False)
            code = connection.connect_ex((address, request["port"]))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, "connect")
            self._send({"id": request["id"]}, connection.fileno())

    def _socket(self, request: dict[str, Any], _: list[int]) -> None:
        """Hand out a socket of this network, on which the host may listen; nothing of it stays here."""
        with socket.socket() as new:
            self._send({"id": request["id"]}, new.fileno())

    def _task(self, request: dict[str, Any], fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            Answer(fds[0]).fail(error)
            return
        if pid == 0:
            signal.set_wakeup_fd(-1)
            self._control.close()
            tasks.run(request, fds)

    def _reap(self) -> None:
        """Collect every child, also the orphans that the kernel gave to PID 1."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            request = self._ids.pop(pid, None)
            if request is not None:
                self._note_exit(request, os.waitstatus_to_exitcode(status))
            elif pid in self._relays:
                self._note_relay_end(self._relays[pid])

    def _note_exit(self, request: int, code: int) -> None:
        """Tell the host; of a program with a terminal when its relay has carried all output."""
        found = self._terminals.get(request)
        if found is None:
            self._send({"id": request, "exit": code})
        else:
            found.exit_code = code
            with suppress(BrokenPipeError):  # the relay is gone, too, and will be collected next
                os.write(found.ended, b".")

    def _note_relay_end(self, request: int) -> None:
        code = self._terminals[request].exit_code
        self._close_terminal(request)
        if code is not None:
            self._send({"id": request, "exit": code})

    def _send(self, message: dict[str, Any], fd: int | None = None) -> None:
        rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        self._control.sendmsg([json.dumps(message).encode()], rights)


def _close_all_but(kept: list[int]) -> None:
    start = 0
    for fd in [*sorted(kept), 4096]:
        os.closerange(start, fd)
        start = fd + 1


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 512):
            pass
    except BlockingIOError:
        return
