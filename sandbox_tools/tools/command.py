"""exec: shell commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Final

import anyio
from pydantic import Field

from sandbox_tools.errors import SandboxRequestError, SandboxResponseError, ToolError
from sandbox_tools.runtime import ExecResult, RunningProcess
from sandbox_tools.tools.base import Output, SandboxArguments, Tool, ToolContext, ToolHints
from sandbox_tools.tools.kept import KeptProcess

DEFAULT_TIMEOUT_S: Final = 45
"""Below the 60 s after which many MCP clients give up on a call."""

MAX_TIMEOUT_S: Final = 3600

MAX_ARGUMENT_BYTES: Final = 131_071
"""Longest argument that Linux passes to a program, in bytes (MAX_ARG_STRLEN without its final NUL)."""

WAIT_S: Final = DEFAULT_TIMEOUT_S
"""What still runs after so many seconds goes on beside the calls (design: soft waiting)."""

LOOK_S: Final = 0.5
"""Time in which a process may fail at its start, or answer its input, before a call returns, in seconds."""


class ExecArguments(SandboxArguments):
    command: str = Field(description="Shell command line, run by bash.")
    cwd: str | None = Field(None, description="Working directory; default /root/workspace.")
    timeout_s: int | None = Field(
        None, description=f"Seconds until it is killed, at most {MAX_TIMEOUT_S}; default: no limit."
    )
    background: bool | None = Field(
        None, description=f"Return at once, e.g. for a web server; else after {WAIT_S} s at the latest."
    )


def checked_timeout(timeout_s: int | None) -> int:
    """Return the timeout to use, in seconds; raises ToolError when it is out of range."""
    if timeout_s is None:
        return DEFAULT_TIMEOUT_S
    if not 1 <= timeout_s <= MAX_TIMEOUT_S:
        raise ToolError(f"timeout_s must be from 1 to {MAX_TIMEOUT_S}. Start longer work with exec, background=true.")
    return timeout_s


def checked_text(name: str, value: str, hint: str) -> str:
    """Return `value`; raises ToolError when it is blank or is no text that a program can be given."""
    if not value.strip():
        raise ToolError(f"{name} is empty. {hint}")
    if "\0" in value:
        raise ToolError(f"{name} must not contain a NUL character. Remove it and call again.")
    if not is_text(value):
        raise ToolError(f"{name} is not valid Unicode text (it has half of a surrogate pair). Correct it, call again.")
    return value


def checked_argument(name: str, value: str, hint: str) -> str:
    """As `checked_text`, for what becomes one argument of a program."""
    if len(checked_text(name, value, hint).encode()) > MAX_ARGUMENT_BYTES:
        raise ToolError(
            f"{name} is too long for one call ({MAX_ARGUMENT_BYTES:,} bytes at most). Write it to a file with "
            "write_file, then run the file with exec."
        )
    return value


def is_text(value: str) -> bool:
    """Tell whether a string can be encoded: JSON can carry half of a surrogate pair."""
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def refuse_placeholder(context: ToolContext, name: str, text: str) -> None:
    """Raise ToolError when a text has a placeholder of ours: what it stands for is not what a program would get."""
    mark = context.find_placeholder(text)
    if mark is None:
        return
    secret = mark.removeprefix("[REDACTED:").removesuffix("]")
    hint = (
        f'Use ${secret} in exec instead, with secrets=["{secret}"].'
        if secret in context.secret_names
        else "Let the program take the text from where it is."
    )
    raise ToolError(f"{name} has {mark} in it, which stands for a text hidden from you. Nothing was done. {hint}")


async def run_exec(context: ToolContext, args: ExecArguments) -> Output:
    return await run_command(context, args, {})


async def run_command(context: ToolContext, args: ExecArguments, envs: Mapping[str, str]) -> Output:
    """Run a command with variables that its environment has beside those of the sandbox."""
    command = checked_argument("command", args.command, 'Give a shell command, such as "ls -la".')
    refuse_placeholder(context, "command", command)
    timeout_s = None if args.timeout_s is None else checked_timeout(args.timeout_s)
    cwd = args.cwd and checked_text("cwd", args.cwd, "Give a directory, or leave it out.")
    output = context.collect_output()
    problem: SandboxResponseError
    try:
        process = await context.runtime.start_command(
            command, cwd=cwd, envs=envs, stdin=bool(args.background), timeout_s=timeout_s, on_output=output.feed
        )
        result = await _waited(process, LOOK_S if args.background else WAIT_S)
    except SandboxResponseError as exc:
        problem = exc
    else:
        if result is not None:
            return Output(text=f"{describe_end(result, timeout_s)}\n{output.render() or '(no output)'}")
        sandbox_id = context.runtime.sandbox_id
        context.kept.keep(KeptProcess(sandbox_id=sandbox_id, process=process, output=output, command=command))
        how_long = "in the background" if args.background else f"after {WAIT_S} s"
        return Output(
            text=f"still running {how_long}, as process {process.pid}: read its output, wait for it, write to it or "
            f"kill it with the tool process.\n{output.take() or '(no output yet)'}"
        )
    if problem.reason in ("path_not_found", "not_a_directory"):
        raise ToolError(f"The working directory {cwd} does not exist. Create it with: mkdir -p {shlex.quote(str(cwd))}")
    raise problem


async def _waited(process: RunningProcess, wait_s: float) -> ExecResult | None:
    """Wait for the end; a caller who gives up ends the process. What has outlived its wait goes on."""
    try:
        return await process.wait(wait_s)
    except SandboxRequestError:
        raise
    except BaseException:
        with anyio.CancelScope(shield=True):
            await process.kill()
        raise


def describe_end(result: ExecResult, timeout_s: int | None) -> str:
    """Say how a command ended, and what to do about it."""
    end = _end(result, "" if timeout_s is None else f" after {timeout_s} s")
    if result.missing_bytes == 0:
        return end
    size = "some" if result.missing_bytes is None else f"about {result.missing_bytes:,} bytes"
    return f"{end}\n[the connection was lost for a while; {size} of the output may be missing]"


def _end(result: ExecResult, after: str) -> str:
    if result.timed_out:
        outcome = "it was killed" if result.kill_outcome == "killed" else "killing it could not be confirmed"
        return (
            f"timed out{after}: {outcome}. Its output up to then follows. "
            f"Call again with a larger timeout_s (at most {MAX_TIMEOUT_S}), or with background=true."
        )
    if result.signal:
        return f"exit_code: {result.exit_code} ({result.signal})"
    if result.exit_code == 127:
        return "exit_code: 127 (command not found)"
    return f"exit_code: {result.exit_code}"


EXEC: Final = Tool(
    name="exec",
    title="Run a shell command",
    description=(
        "Run a shell command in the sandbox and return exit code, stdout and stderr. Files persist between calls; "
        "shell variables and cwd do not. For a server or other long work set background=true, then use "
        f"get_preview_url and process. What still runs after {WAIT_S} s goes on as a process, too. For Python prefer "
        "run_code."
    ),
    arguments=ExecArguments,
    hints=ToolHints(read_only=False, destructive=True, idempotent=False, open_world=True),
    run=run_exec,
)
