"""One running sandbox, the host's side: its processes, its files, connections to its ports."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from sandbox_tools.local import native, tasks
from sandbox_tools.local.background import Background
from sandbox_tools.local.channel import AgentError, Channel, ChannelError
from sandbox_tools.local.cpu import CpuMeter
from sandbox_tools.local.egress import Egress
from sandbox_tools.local.eventlog import EventLog, Level
from sandbox_tools.local.launcher import Launched
from sandbox_tools.local.layout import environment
from sandbox_tools.local.outside import Outside
from sandbox_tools.local.pipes import Pipe
from sandbox_tools.local.process import Output, Process
from sandbox_tools.local.results import Results
from sandbox_tools.local.watchers import Watchers
from sandbox_tools.wire.files import DEFAULT_WORKSPACE
from sandbox_tools.wire.process import Command, TerminalSize

if TYPE_CHECKING:
    from sandbox_tools.local.inject import Injector

MAX_PROCESSES: Final = 64
"""Processes that run, or whose children still hold their pipes. Each costs three descriptors of the server."""

TERM_GRACE_S: Final = 1.0
CONNECT_TIMEOUT_S: Final = 5.0
_KILL_TIMEOUT_S: Final = 2.0
_GROUP_POLL_S: Final = 0.05


_log: Final = logging.getLogger(__name__)


class TooManyProcessesError(Exception):
    """The sandbox runs as many processes as the server can look after."""


class Sandbox:
    """A sandbox that was launched. `serve` must run for as long as it is used.

    Args:
        background: Where the work of its processes runs.
        log: What happens in it is noted there; None is a new one.
        outside: How its egress proxy reaches the network; None is this machine's way.
        injector: Puts secrets into requests that leave it.

    Attributes:
        end_reason: Why the host ended it, in words; "" when it did not.
    """

    def __init__(
        self,
        launched: Launched,
        *,
        background: Background,
        log: EventLog | None = None,
        outside: Outside | None = None,
        injector: Injector | None = None,
    ) -> None:
        self._launched = launched
        self._background = background
        self._envs = environment()
        self._closing = False
        self._processes: dict[int, Process] = {}
        self._early_exits: dict[int, int] = {}
        self._results: Final = Results()
        self.channel: Final = Channel(launched.control, self._note_exit)
        self.watchers: Final = Watchers(self.channel)
        self.cpu: Final = CpuMeter()
        self.log: Final = log or EventLog()
        self.egress: Final = Egress(background=background, outside=outside, injector=injector)
        self.stopped: Final = anyio.Event()
        self.end_reason = ""

    @property
    def envs(self) -> dict[str, str]:
        """The environment that a process starts from. Secret-bearing."""
        return {**self.egress.envs, **self._envs}

    def add_envs(self, envs: Mapping[str, str]) -> None:
        """Add to the environment of every process that is started from now on. Secret-bearing."""
        self._envs |= envs

    @property
    def pid(self) -> int:
        """The host's process id of PID 1. Only while it has not stopped.

        Raises:
            ProcessLookupError: It is gone.
        """
        return native.pid_of(self._launched.pidfd)

    @property
    def has_network(self) -> bool:
        """See `Launched.has_network`."""
        return self._launched.has_network

    async def prepare_network(self) -> None:
        """Get what the egress proxy needs, before any code of a user runs.

        Raises:
            AgentError: It has no network of its own.
            ChannelError: The sandbox is gone.
        """
        self.egress.use(await self.channel.new_socket())

    async def serve(self) -> None:
        """Listen to the agent until it is gone or breaks the rules, then see to it that every process is gone."""
        try:
            await self.channel.serve()
        except ChannelError as error:
            _log.warning("a sandbox was ended: its agent broke the rules: %s", error)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()

    async def close(self) -> None:
        """End every process in the sandbox, and return when they are gone. Can be called again."""
        if not self.stopped.is_set():
            self._closing = True
            self._launched.kill()
            self.channel.close()
            self.egress.close()
            await self.stopped.wait()

    def end(self, reason: str) -> None:
        """Let every process end at once, because the sandbox breaks a limit. `end_reason` then says which."""
        if not self.stopped.is_set():
            self.end_reason = reason
            self._closing = True
            _log.warning("a sandbox was ended: %s", reason)
            self.log.add("ended because it broke a limit", level="error", reason=reason)
            self._launched.kill()

    @property
    def processes(self) -> list[Process]:
        """Those that run."""
        return [process for process in self._processes.values() if process.ended is None]

    def find(self, selector: int | str) -> Process | None:
        """Return the process with a pid or a tag: one that runs, else the latest that ended."""
        known = [*self._results, *self._processes.values()]
        matches = [process for process in known if selector in (process.pid, process.command.tag)]
        running = [process for process in matches if not process.exited.is_set()]
        return next(iter([*running[::-1], *matches[::-1]]), None)

    def result(self, cmd_id: str) -> Process | None:
        """Return a process by SeaCloud's name for it, running or ended not too long ago."""
        known = [*self._processes.values(), *self._results]
        return next((process for process in known if process.cmd_id == cmd_id), None)

    async def start(self, command: Command) -> Process:
        """Start a process. Subscribe before the next `await`, and no output is missed.

        Raises:
            AgentError: The sandbox could not: no such working directory, too many processes.
            ChannelError: The sandbox is gone.
            TooManyProcessesError: It runs too many.
        """
        if len(self._processes) >= MAX_PROCESSES:
            raise TooManyProcessesError
        process = await self._start(command)
        self._processes[process.request] = process
        code = self._early_exits.pop(process.request, None)
        if code is not None or self.stopped.is_set():
            process.note_exit(-9 if code is None else code)
        self.log.add("process started", pid=process.pid, cmdId=process.cmd_id)
        self._background.start(partial(self._look_after, process))
        return process

    async def signal(self, process: Process, number: int) -> bool:
        """Send a signal to a process's group; return whether there was anything to send it to.

        Raises:
            ChannelError: The sandbox is gone.
        """
        try:
            await self.channel.request("signal", {"exec": process.request, "signal": number})
        except AgentError as error:
            if error.number == errno.ESRCH:
                return False
            raise
        return True

    async def resize(self, process: Process, size: TerminalSize) -> bool:
        """Change the size of a process's terminal; return whether it has one.

        Raises:
            ChannelError: The sandbox is gone.
        """
        try:
            await self.channel.request("resize", {"exec": process.request, "cols": size.cols, "rows": size.rows})
        except AgentError as error:
            if error.number == errno.ESRCH:
                return False
            raise
        return True

    async def connect(self, port: int) -> socket.socket:
        """Return a connection to a TCP port inside; non-blocking, the caller's to close.

        Raises:
            ConnectionRefusedError: Nothing listens there.
            ChannelError: The sandbox is gone.
        """
        for v6 in (False, True):
            try:
                connection = await self.channel.connect({"port": port, "v6": v6})
            except AgentError:
                continue
            if await _is_connected(connection):
                return connection
        raise ConnectionRefusedError(errno.ECONNREFUSED, "port is not listening")

    def task(self, name: str, fields: Mapping[str, object]) -> AbstractAsyncContextManager[tasks.Answer]:
        """Start file work; see `tasks.start_task`."""
        return tasks.start_task(self.channel, name, fields)

    def upload(self, fields: Mapping[str, object]) -> AbstractAsyncContextManager[tasks.Upload]:
        """Start writing a file; see `tasks.start_upload`."""
        return tasks.start_upload(self.channel, fields)

    async def _start(self, command: Command) -> Process:
        size = command.pty
        with ExitStack() as opened:  # closes what there is when the last of them cannot be opened
            stdin = opened.enter_context(Pipe(reads_here=False)) if command.stdin or size else None
            stdout = opened.enter_context(Pipe(reads_here=True))
            stderr = None if size else opened.enter_context(Pipe(reads_here=True))
            opened.pop_all()
        pipes = [pipe for pipe in (stdin, stdout, stderr) if pipe is not None]
        fields = {
            "argv": [command.cmd, *command.args],
            "env": {**self.envs, **({"TERM": "xterm-256color"} if size else {}), **command.envs},
            "cwd": _absolute(command.cwd),
            "stdin": stdin is not None,
            "pty": [size.cols, size.rows] if size else None,
        }
        try:
            message = await self.channel.request("exec", fields, [pipe.inner for pipe in pipes])
        except BaseException:
            for pipe in pipes:
                pipe.close()
            raise
        for pipe in pipes:
            pipe.close_inner()
        return Process(
            request=message.request,
            pid=message.pid or 0,
            command=command,
            stdout=Output("pty" if size else "stdout", stdout, self._results),
            stderr=None if stderr is None else Output("stderr", stderr, self._results),
            stdin=stdin,
        )

    async def _look_after(self, process: Process) -> None:
        async with anyio.create_task_group() as own:
            if process.command.timeout_ms is not None:
                own.start_soon(self._enforce_timeout, process, process.command.timeout_ms / 1000)
            await process.run()
        del self._processes[process.request]
        self._results.keep(process)
        code = -1 if process.ended is None or process.ended.exit_code is None else process.ended.exit_code
        level: Level = "warn" if code else "info"
        self.log.add("process ended", level=level, pid=process.pid, cmdId=process.cmd_id, exitCode=code)

    async def _enforce_timeout(self, process: Process, timeout_s: float) -> None:
        with anyio.move_on_after(timeout_s):
            await process.exited.wait()
            return
        process.timed_out = True
        try:
            await self._end_group(process)
        except (AgentError, ChannelError):
            await self.close()  # an agent that cannot end a process is broken

    async def _end_group(self, process: Process) -> None:
        await self.signal(process, 15)
        with anyio.move_on_after(TERM_GRACE_S):
            while await self.signal(process, 0):  # noqa: ASYNC110 - the kernel tells nobody when a group is empty
                await anyio.sleep(_GROUP_POLL_S)
            return
        await self.signal(process, 9)

    def _note_exit(self, request: int, code: int) -> None:
        if process := self._processes.get(request):
            process.note_exit(code)
        else:
            self._early_exits[request] = code  # it ended before `start` went on

    async def _end(self) -> None:
        """The agent is killed, and then the rest: by the kernel when the agent is PID 1, else by its supervisor."""
        self._launched.kill()
        self.egress.close()
        with anyio.move_on_after(_KILL_TIMEOUT_S):
            await self._launched.wait_until_gone()
        self._launched.close()
        await self.watchers.close()
        for process in list(self._processes.values()):
            if not process.exited.is_set():
                process.note_exit(-9)
        if not self._closing:
            self.log.add("stopped: its first process has ended", level="error")
        self.stopped.set()


def _absolute(cwd: str | None) -> str:
    """Return a working directory: `~` and relative paths start at the workspace (wire contract 3.3)."""
    if cwd is None:
        return DEFAULT_WORKSPACE
    if cwd == "~" or cwd.startswith("~/"):
        cwd = DEFAULT_WORKSPACE + cwd[1:]
    return os.path.join(DEFAULT_WORKSPACE, cwd)  # noqa: PTH118 - a path of the sandbox, never touched on the host


async def _is_connected(connection: socket.socket) -> bool:
    with anyio.move_on_after(CONNECT_TIMEOUT_S):
        await anyio.wait_writable(connection)
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            return True
    connection.close()
    return False
