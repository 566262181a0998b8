"""Fakes for tests, yours and ours: a toolset whose sandbox is scripted, with everything above it real."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio

from sandbox_tools.environment import Environment
from sandbox_tools.errors import SandboxResponseError
from sandbox_tools.output import DEFAULT_MAX_CHARS
from sandbox_tools.redaction import Redactor, Registry
from sandbox_tools.runtime import (
    CodeResult,
    ExecResult,
    KillOutcome,
    Language,
    ListedEntry,
    OutputSink,
    ProcessInfo,
    Runtime,
)
from sandbox_tools.toolset import Toolset
from sandbox_tools.wire.preview import preview_url


@dataclass(kw_only=True)
class FakeRuntime:
    """A sandbox in memory. Implements `sandbox_tools.runtime.Runtime`.

    Attributes:
        stdout: What every command and every piece of code writes.
        exec_result: How every command ends.
        code_result: How every piece of code ends.
        files: Content by path; written files appear here.
        ports: What listens.
        fails_with: Raised by every method that would use the sandbox.
        hangs: Commands and code never end by themselves; `cancelled` is set when they are cancelled.
        commands: What was run, in order.
        environments: The variables that each command of `exec` was given, in order.
        processes: What `exec` started, in order.
    """

    sandbox_id: str = "sandbox-fake"
    stdout: bytes = b""
    stderr: bytes = b""
    exec_result: ExecResult = field(default_factory=lambda: ExecResult(exit_code=0))
    code_result: CodeResult = field(default_factory=CodeResult)
    files: dict[str, bytes] = field(default_factory=dict)
    ports: frozenset[int] = frozenset()
    fails_with: Exception | None = None
    hangs: bool = False
    cancelled: bool = False
    commands: list[str] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list, repr=False)
    processes: list[FakeProcess] = field(default_factory=list)

    async def exec(
        self,
        command: str,
        *,
        cwd: str | None = None,
        envs: Mapping[str, str] | None = None,
        timeout_s: float,
        on_output: OutputSink,
    ) -> ExecResult:
        await self._work(command, on_output)
        return self.exec_result

    async def start_command(
        self,
        command: str,
        *,
        cwd: str | None = None,
        envs: Mapping[str, str] | None = None,
        stdin: bool = False,
        timeout_s: float | None = None,
        on_output: OutputSink,
    ) -> FakeProcess:
        self._fail()
        self.commands.append(command)
        self.environments.append(envs or {})
        self._print(on_output)
        process = FakeProcess(runtime=self, pid=100 + len(self.processes), command=command, on_output=on_output)
        self.processes.append(process)
        return process

    async def attach(self, pid: int, *, on_output: OutputSink) -> FakeProcess | None:
        self._fail()
        return next((process for process in self.processes if process.pid == pid), None)

    async def list_processes(self) -> tuple[ProcessInfo, ...]:
        self._fail()
        running = [process for process in self.processes if self.hangs and not process.killed]
        return tuple(ProcessInfo(pid=process.pid, command=process.command) for process in running)

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
        await self._work(code, on_output)
        return self.code_result

    @asynccontextmanager
    async def open_file(self, path: str) -> AsyncIterator[_FakeFile]:
        self._fail()
        if path not in self.files:
            raise SandboxResponseError("read a file", kind="not_found", status=404, reason="path_not_found")
        yield _FakeFile(self.files[path])

    async def write_file(self, path: str, data: bytes) -> None:
        self._fail()
        self.files[path] = data

    async def edit_file(self, path: str, old_text: str, new_text: str) -> None:
        self._fail()
        self.files[path] = self.files[path].replace(old_text.encode(), new_text.encode(), 1)

    async def list_directory(self, path: str, *, depth: int) -> list[ListedEntry]:
        self._fail()
        below = path.rstrip("/") + "/"
        found = [name for name in sorted(self.files) if name.startswith(below)]
        return [ListedEntry(path=name, type="file", size=len(self.files[name])) for name in found]

    async def listening_ports(self) -> frozenset[int] | None:
        self._fail()
        return self.ports

    async def preview_url(self, port: int) -> str:
        return preview_url("https://sandbox-router.example/9000-fake", port)

    async def _work(self, what: str, on_output: OutputSink) -> None:
        self._fail()
        self.commands.append(what)
        self._print(on_output)
        if self.hangs:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                self.cancelled = True
                raise

    def _print(self, on_output: OutputSink) -> None:
        if self.stdout:
            on_output("stdout", self.stdout)
        if self.stderr:
            on_output("stderr", self.stderr)

    def _fail(self) -> None:
        if self.fails_with is not None:
            raise self.fails_with


@dataclass(kw_only=True)
class FakeProcess:
    """A command of a `FakeRuntime`. Implements `sandbox_tools.runtime.RunningProcess`.

    Attributes:
        on_output: Call it to let the command write something.
        written: What was written to its standard input.
    """

    runtime: FakeRuntime
    pid: int
    command: str
    on_output: OutputSink
    written: bytes = b""
    killed: bool = False

    async def wait(self, timeout_s: float) -> ExecResult | None:
        if self.killed:
            return ExecResult(exit_code=None, kill_outcome="killed")
        if not self.runtime.hangs:
            return self.runtime.exec_result
        with anyio.move_on_after(timeout_s):
            await anyio.sleep_forever()
        return None

    async def send_input(self, data: bytes) -> None:
        self.written += data

    async def close_input(self) -> None:
        return None

    async def kill(self) -> KillOutcome:
        self.killed = self.runtime.cancelled = True
        return "killed"


@dataclass(frozen=True)
class _FakeFile:
    content: bytes

    @property
    def size(self) -> int | None:
        return len(self.content)

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.content), 4096):
            yield self.content[start : start + 4096]


@dataclass(frozen=True)
class _OneSandbox:
    """Gives every call the same runtime."""

    runtime: Runtime
    where: Final[str] = "a fake sandbox"

    @asynccontextmanager
    async def use(self, sandbox_id: str | None) -> AsyncIterator[Runtime]:
        yield self.runtime


def fake_toolset(
    runtime: Runtime | None = None,
    *,
    secrets: Mapping[str, str] | None = None,
    command_secrets: Mapping[str, str] | None = None,
    max_output_chars: int = DEFAULT_MAX_CHARS,
) -> Toolset:
    """Return a toolset on a scripted sandbox.

    Args:
        secrets: Name -> value of what is to be redacted, as a control plane's tokens would be.
        command_secrets: Name -> value of what commands may use, as `secrets` of `Toolset.open`.
    """
    registry = Registry()
    for name, value in (secrets or {}).items():
        registry.register(name, value)
    usable = Environment({name: registry.register(name, value) for name, value in (command_secrets or {}).items()})
    return Toolset(
        _OneSandbox(runtime or FakeRuntime()), Redactor(registry), max_output_chars=max_output_chars, secrets=usable
    )
