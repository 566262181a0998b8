"""A sandbox over the wire: the `Runtime` that tools use (wire contract 3, 4, 5, 6)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio
import anyio.abc

from sandbox_tools.client.contexts import PythonContext
from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.files import RemoteFile, RemoteFiles
from sandbox_tools.client.filesystem import RemoteFilesystem
from sandbox_tools.client.machine import RemoteMachine
from sandbox_tools.client.process import RemoteProcess
from sandbox_tools.client.run import run_process
from sandbox_tools.client.signing import UrlSigner
from sandbox_tools.client.transport import Transport
from sandbox_tools.redaction import Registry
from sandbox_tools.runtime import CodeResult, ExecResult, Language, ListedEntry, OutputSink
from sandbox_tools.wire.preview import preview_url
from sandbox_tools.wire.process import Command

_SHELL: Final = 'if command -v bash >/dev/null 2>&1; then exec bash -c "$1"; else exec sh -c "$1"; fi'
"""bash where the template has it, because models write bash; one start either way."""

_ONE_SHOT: Final[Mapping[Language, str]] = {
    "bash": 'command -v bash >/dev/null 2>&1 || exit 127; exec bash -c "$1"',
    "javascript": 'command -v node >/dev/null 2>&1 || exit 127; exec node --input-type=module -e "$1"',
}

MAX_ONE_SHOT_CODE_BYTES: Final = 128 * 1024 - 1
"""Longest argument that Linux passes to a program (MAX_ARG_STRLEN, counting the final NUL), in bytes."""


class RemoteRuntime:
    """One running sandbox, reached over the wire. Implements `sandbox_tools.runtime.Runtime`.

    Attributes:
        files: Content of files, of any size.
        filesystem: Directories, names and watchers.
        machine: Health, ports, metrics, environment.

    Args:
        task_group: Lives as long as the runtime is used; the code context's reader runs in it.
    """

    def __init__(self, sandbox_id: str, access: RuntimeAccess, task_group: anyio.abc.TaskGroup) -> None:
        self._sandbox_id = sandbox_id
        self._access = access
        self._transport = Transport(access.envd_url, {"X-Access-Token": access.access_token})
        self.files: Final = RemoteFiles(self._transport)
        self.filesystem: Final = RemoteFilesystem(self._transport)
        self.machine: Final = RemoteMachine(self._transport)
        self._context = PythonContext(self, task_group)

    @property
    def sandbox_id(self) -> str:
        return self._sandbox_id

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
        shell = Command(cmd="/bin/sh", args=("-c", _SHELL, "sh", command), cwd=cwd, envs=envs or {})
        return await run_process(self._transport, shell, timeout_s=timeout_s, on_output=on_output)

    async def run_code(self, code: str, *, language: Language, timeout_s: float, on_output: OutputSink) -> CodeResult:
        """Run code; see `Runtime.run_code`."""
        if language == "python":
            return await self._context.run(code, timeout_s=timeout_s, on_output=on_output)
        command = Command(cmd="/bin/sh", args=("-c", _ONE_SHOT[language], "sh", code))
        result = await run_process(self._transport, command, timeout_s=timeout_s, on_output=on_output)
        return CodeResult(
            timed_out=result.timed_out,
            state_kept=False,
            exit_code=result.exit_code,
            elapsed_ms=result.elapsed_ms,
        )

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

    def preview_url(self, port: int) -> str:
        """Return the URL of a port; see `Runtime.preview_url`."""
        return preview_url(self._access.envd_url, port)

    def url_signer(self, registry: Registry) -> UrlSigner:
        """Return what signs URLs of files in this sandbox; `registry` is told of each one."""
        return UrlSigner(self._access.envd_url, self._access.access_token, registry)

    async def start(self, command: Command) -> RemoteProcess:
        """Start a process and return its event stream; for contexts."""
        return await RemoteProcess.start(self._transport, command)

    async def aclose(self) -> None:
        """Close the connections. Does not end the sandbox."""
        await self._context.aclose()
        await self._transport.aclose()
