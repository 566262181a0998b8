"""exec: shell commands."""

from __future__ import annotations

import shlex
from typing import Final

from pydantic import Field

from sandbox_tools.errors import SandboxResponseError, ToolError
from sandbox_tools.runtime import ExecResult
from sandbox_tools.tools.base import Output, SandboxArguments, Tool, ToolContext, ToolHints

DEFAULT_TIMEOUT_S: Final = 45
"""Below the 60 s after which many MCP clients give up on a call."""

MAX_TIMEOUT_S: Final = 3600

MAX_ARGUMENT_BYTES: Final = 131_071
"""Longest argument that Linux passes to a program, in bytes (MAX_ARG_STRLEN without its final NUL)."""

_BACKGROUND: Final = """\
log=/tmp/background-$$.log
if command -v setsid >/dev/null 2>&1; then setsid sh -c {command} >"$log" 2>&1 </dev/null &
else sh -c {command} >"$log" 2>&1 </dev/null & fi
pid=$!
sleep 0.2
if kill -0 "$pid" 2>/dev/null; then
  echo "Running in the background: process group $pid, output in $log."
  echo "Stop it with: kill -- -$pid"
else
  wait "$pid"; code=$?
  echo "Ended at once. Its output:"; cat "$log"; exit "$code"
fi
"""
"""setsid gives the process a group of its own, so that one kill ends all of it."""


class ExecArguments(SandboxArguments):
    command: str = Field(description="Shell command line, run by bash.")
    cwd: str | None = Field(None, description="Working directory; default /root/workspace.")
    timeout_s: int | None = Field(
        None, description=f"Seconds until it is killed; default {DEFAULT_TIMEOUT_S}, at most {MAX_TIMEOUT_S}."
    )
    background: bool | None = Field(None, description="Start it and return at once, e.g. for a web server.")


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


async def run_exec(context: ToolContext, args: ExecArguments) -> Output:
    command = checked_argument("command", args.command, 'Give a shell command, such as "ls -la".')
    timeout_s = checked_timeout(args.timeout_s)
    cwd = args.cwd and checked_text("cwd", args.cwd, "Give a directory, or leave it out.")
    if args.background:
        command = _BACKGROUND.format(command=shlex.quote(command))
    output = context.collect_output()
    try:
        result = await context.runtime.exec(command, cwd=cwd, timeout_s=timeout_s, on_output=output.feed)
    except SandboxResponseError as exc:
        problem = exc
    else:
        return Output(text=f"{describe_end(result, timeout_s)}\n{output.render() or '(no output)'}")
    if problem.reason in ("path_not_found", "not_a_directory"):
        raise ToolError(f"The working directory {cwd} does not exist. Create it with: mkdir -p {shlex.quote(str(cwd))}")
    raise problem


def describe_end(result: ExecResult, timeout_s: int) -> str:
    """Say how a command ended, and what to do about it."""
    if result.timed_out:
        outcome = "it was killed" if result.kill_outcome == "killed" else "killing it could not be confirmed"
        return (
            f"timed out after {timeout_s} s: {outcome}. Its output up to then follows. "
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
        "get_preview_url or read its log. For Python prefer run_code."
    ),
    arguments=ExecArguments,
    hints=ToolHints(read_only=False, destructive=True, idempotent=False, open_world=True),
    run=run_exec,
)
