"""`sandbox-tools sandbox exec`: a command in a sandbox, as if it ran here: its output, its exit code."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

import anyio
import typer

from sandbox_tools.cli.sandbox_live import LiveOutput
from sandbox_tools.cli.sandbox_session import Session
from sandbox_tools.cli.sandbox_work import environment
from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.errors import SandboxNotFoundError, SandboxToolsError, SandboxUnreachableError
from sandbox_tools.runtime import ExecResult, OutputStream
from sandbox_tools.sandboxes import DEFAULT_TTL_S
from sandbox_tools.sandboxes.held import Held

TIMED_OUT: Final = 124
"""Exit code, as of timeout(1)."""

PIPE_CLOSED: Final = 128 + 13
"""SIGPIPE, as a program ends here when nobody reads what it writes."""

_SIGNALS: Final = {"killed": 9, "terminated": 15, "interrupt": 2, "hangup": 1, "quit": 3, "aborted": 6, "alarm": 14}
"""The words of a runtime's `signal: ...` (wire contract 4.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What to run."""

    command: str
    cwd: str | None
    variables: tuple[str, ...]
    timeout_s: float


def shell_line(command: Sequence[str]) -> str:
    """Return one argument as it is, and several as a command line that means just them."""
    if command[0].startswith("-"):
        raise typer.BadParameter(f"Options such as {command[0]} come before SANDBOX_ID.")
    return command[0] if len(command) == 1 else shlex.join(command)


async def run(session: Session, sandbox_id: str, line: Line) -> int:
    """Run it; return the exit code."""
    output = _Output(session)
    envs = environment(line.variables)
    async with runtime_of(session, sandbox_id) as runtime:
        with output.scope:
            result = await _watched(runtime, line, envs, output)
            output.close()
            return _exit_code(session, result, line.timeout_s)
    return PIPE_CLOSED


async def _watched(runtime: RemoteRuntime, line: Line, envs: Mapping[str, str], output: _Output) -> ExecResult:
    result: ExecResult | None = None
    failure: SandboxToolsError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(output.settle)
        try:
            result = await runtime.exec(
                line.command, cwd=line.cwd, envs=envs, timeout_s=line.timeout_s, on_output=output.feed
            )
        except SandboxToolsError as exc:
            failure = exc  # a task group would wrap it in a group
        tasks.cancel_scope.cancel()
    if failure is not None or result is None:
        raise failure or SandboxUnreachableError("run a command")
    return result


@asynccontextmanager
async def runtime_of(session: Session, sandbox_id: str) -> AsyncIterator[RemoteRuntime]:
    """Give the runtime of somebody's sandbox, resumed if it was paused, and kept alive meanwhile."""

    async def renew() -> RuntimeAccess | None:
        try:
            return (await session.control.connect(sandbox_id))[1]
        except SandboxNotFoundError:
            raise
        except SandboxToolsError:
            return None

    with session.waiting(f"Connecting to {sandbox_id}"):
        info, access = await session.control.connect(sandbox_id)
    failure: SandboxToolsError | None = None
    async with anyio.create_task_group() as tasks:
        runtime = RemoteRuntime(sandbox_id, access, tasks, renew=renew)
        held = Held(runtime, owned=False, ttl_s=DEFAULT_TTL_S, end_at=info.end_at)
        tasks.start_soon(held.keep_alive, session.control)
        try:
            with held.use():
                yield runtime
        except SandboxToolsError as exc:
            failure = exc  # a task group would wrap it in a group
        finally:
            with anyio.CancelScope(shield=True):
                await held.aclose()
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Output:
    """Passes output on as it comes; to a person also what the redactor would hold back."""

    def __init__(self, session: Session) -> None:
        self.scope: Final = anyio.CancelScope()
        self._streams: dict[OutputStream, LiveOutput] = {
            "stdout": LiveOutput(session.redactor, lambda data: self._write(sys.stdout.buffer, data)),
            "stderr": LiveOutput(session.redactor, lambda data: self._write(sys.stderr.buffer, data)),
        }

    def feed(self, stream: OutputStream, data: bytes) -> None:
        self._streams[stream].feed(data)

    async def settle(self) -> None:
        if sys.stdout.isatty():
            async with anyio.create_task_group() as tasks:
                for stream in self._streams.values():
                    tasks.start_soon(stream.settle)

    def close(self) -> None:
        for stream in self._streams.values():
            stream.show_held()

    def _write(self, out: BinaryIO, data: bytes) -> None:
        try:
            out.write(data)
            out.flush()
        except BrokenPipeError:
            self.scope.cancel()  # nobody reads it, as in `... | head`: the command ends as it would here


def _exit_code(session: Session, result: ExecResult, timeout_s: float) -> int:
    if result.timed_out or result.exit_code is None:
        what = "was killed" if result.kill_outcome == "killed" else "may still run: killing it was not confirmed"
        session.say(f"It ran longer than {timeout_s:g} s and {what}.")
        return TIMED_OUT
    if result.missing_bytes != 0:
        session.say("Some of the output was lost with a connection.")
    if result.signal:
        return 128 + _SIGNALS.get(result.signal.removeprefix("signal: "), 0)
    return result.exit_code & 0xFF
