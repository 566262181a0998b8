"""A sandbox over the wire: the `Runtime` that tools use (wire contract 3, 4, 5, 6)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio
import anyio.abc

from sandbox_tools.client.contexts import CodeContexts, is_context
from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.file_reader import RemoteFile
from sandbox_tools.client.files import RemoteFiles
from sandbox_tools.client.filesystem import RemoteFilesystem
from sandbox_tools.client.languages import one_shot
from sandbox_tools.client.link import Renew, RuntimeTransport
from sandbox_tools.client.machine import RemoteMachine
from sandbox_tools.client.preview_site import PreviewSite
from sandbox_tools.client.process import RemoteProcess
from sandbox_tools.client.process_calls import ProcessCalls
from sandbox_tools.client.run import RunningProcess, run_process
from sandbox_tools.client.signing import UrlSigner
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.runtime import CodeResult, ExecResult, Language, ListedEntry, OutputSink, ProcessInfo
from sandbox_tools.wire.preview import preview_url
from sandbox_tools.wire.process import Command
from sandbox_tools.wire.process_calls import ListedProcess, Selector

_SHELL: Final = 'if command -v bash >/dev/null 2>&1; then exec bash -c "$1"; else exec sh -c "$1"; fi'
"""bash where the template has it, because models write bash; one start either way."""


class RemoteRuntime:
    """One running sandbox, reached over the wire. Implements `sandbox_tools.runtime.Runtime`.

    Attributes:
        files: Content of files, of any size.
        filesystem: Directories, names and watchers.
        machine: Health, ports, metrics, environment.
        processes: List, input, signals, terminals and results of processes, whoever started them.
        contexts: Processes that keep the variables of code.

    Args:
        task_group: Lives as long as the runtime is used; the readers of code contexts run in it.
        previews: Serves the previews of a sandbox that keeps them private; None: they are public.
        renew: Gets access again when it is no longer good (client/link.py); None: nothing does.
    """

    def __init__(
        self,
        sandbox_id: str,
        access: RuntimeAccess,
        task_group: anyio.abc.TaskGroup,
        previews: PreviewSite | None = None,
        *,
        renew: Renew | None = None,
    ) -> None:
        self._sandbox_id = sandbox_id
        self._tasks = task_group
        self._previews = previews
        self._transport = RuntimeTransport(access, renew)
        self.files: Final = RemoteFiles(self._transport)
        self.filesystem: Final = RemoteFilesystem(self._transport)
        self.machine: Final = RemoteMachine(self._transport)
        self.processes: Final = ProcessCalls(self._transport)
        self.contexts: Final = CodeContexts(self, task_group)

    @property
    def sandbox_id(self) -> str:
        return self._sandbox_id

    @property
    def tokens(self) -> tuple[Secret, ...]:
        """The tokens in use now."""
        access = self._transport.access
        return tuple(token for token in (access.access_token, access.traffic_token) if token is not None)

    async def exec(
        self,
        command: str,
        *,
        cwd: str | None = None,
        envs: Mapping[str, str] | None = None,
        timeout_s: float,
        on_output: OutputSink,
    ) -> ExecResult:
        """Run a shell command; see `Runtime.exec`."""
        shell = _shell(command, cwd=cwd, envs=envs or {})
        return await run_process(self._transport, shell, self._tasks, timeout_s=timeout_s, on_output=on_output)

    async def start_command(
        self,
        command: str,
        *,
        cwd: str | None = None,
        envs: Mapping[str, str] | None = None,
        stdin: bool = False,
        timeout_s: float | None = None,
        on_output: OutputSink,
    ) -> RunningProcess:
        """Start a shell command that runs beside its caller; see `Runtime.start_command`."""
        shell = _shell(command, cwd=cwd, envs=envs or {}, stdin=stdin)
        process = RunningProcess.begin(self._transport, shell, on_output, self._tasks, limit_s=timeout_s)
        if timeout_s is not None:
            self._tasks.start_soon(process.end_after, timeout_s)
        await process.started()
        return process

    async def attach(self, pid: int, *, on_output: OutputSink) -> RunningProcess | None:
        """Follow a process that was started before; see `Runtime.attach`."""
        listed = next((process for process in await self.processes.list() if process.pid == pid), None)
        if listed is None:
            return None
        process = RunningProcess.attach(self._transport, listed, on_output, self._tasks)
        await process.started()
        return process

    async def list_processes(self) -> tuple[ProcessInfo, ...]:
        """Return the commands that run; see `Runtime.list_processes`."""
        listed = [process for process in await self.processes.list() if not is_context(process.tag)]
        return tuple(ProcessInfo(pid=process.pid, command=_command_line(process)) for process in listed)

    async def run_code(
        self,
        code: str,
        *,
        language: Language,
        context: str | None = None,
        restart: bool = False,
        timeout_s: float,
        on_output: OutputSink,
    ) -> CodeResult:
        """Run code; see `Runtime.run_code`."""
        match language:
            case "python" | "javascript":
                if restart:
                    await self.contexts.restart(context, language)
                kept = await self.contexts.get(context, language)
                return await kept.run(code, timeout_s=timeout_s, on_output=on_output)
            case _:
                return await self._run_once(one_shot(language, code), timeout_s, on_output)

    def open_file(self, path: str) -> AbstractAsyncContextManager[RemoteFile]:
        """Open a file for reading; see `Runtime.open_file`."""
        return self.files.open(path)

    async def write_file(self, path: str, data: bytes) -> None:
        """Write a whole file; see `Runtime.write_file`."""
        await self.files.write(path, data)

    async def edit_file(self, path: str, old_text: str, new_text: str) -> None:
        """Replace a text in a file; see `Runtime.edit_file`."""
        await self.filesystem.edit(path, old_text, new_text)

    async def list_directory(self, path: str, *, depth: int) -> tuple[ListedEntry, ...]:
        """Return what is below a directory; see `Runtime.list_directory`."""
        return tuple(
            ListedEntry(path=entry.path, type=entry.type, size=entry.size, symlink_target=entry.symlink_target)
            for entry in await self.filesystem.list(path, depth=depth)
        )

    async def listening_ports(self) -> frozenset[int] | None:
        """Return the listening TCP ports; see `Runtime.listening_ports`."""
        ports = await self.machine.ports()
        return None if ports is None else frozenset(port.port for port in ports)

    async def preview_url(self, port: int) -> str:
        """Return the URL of a port; see `Runtime.preview_url`."""
        if self._previews is None:
            return preview_url(self._transport.access.envd_url, port)
        return await self._previews.publish(self._sandbox_id, port, lambda: self._transport.access)

    def url_signer(self, registry: Registry) -> UrlSigner:
        """Return what signs URLs of files in this sandbox; `registry` is told of each one."""
        return UrlSigner(lambda: self._transport.access, registry)

    async def start(self, command: Command) -> RemoteProcess:
        """Start a process and return its event stream."""
        return await RemoteProcess.start(self._transport, command)

    async def connect(self, process: Selector, *, pty: bool = False) -> RemoteProcess:
        """Return a process that was started before, by its pid or its tag, with its events from now on."""
        return await RemoteProcess.connect(self._transport, process, pty=pty)

    async def aclose(self) -> None:
        """Close the connections. Does not end the sandbox, nor what runs in it."""
        self.contexts.detach()
        if self._previews is not None:
            await self._previews.withdraw(self._sandbox_id)
        await self._transport.aclose()

    async def _run_once(self, command: Command, timeout_s: float, on_output: OutputSink) -> CodeResult:
        result = await run_process(self._transport, command, self._tasks, timeout_s=timeout_s, on_output=on_output)
        return CodeResult(
            timed_out=result.timed_out,
            state_kept=False,
            exit_code=result.exit_code,
            elapsed_ms=result.elapsed_ms,
        )


def _shell(command: str, *, cwd: str | None, envs: Mapping[str, str], stdin: bool = False) -> Command:
    return Command(cmd="/bin/sh", args=("-c", _SHELL, "sh", command), cwd=cwd, envs=envs, stdin=stdin)


def _command_line(process: ListedProcess) -> str:
    if process.args[:2] == ("-c", _SHELL):
        return process.args[-1]
    return shlex.join((process.cmd, *process.args))
