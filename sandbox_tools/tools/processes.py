"""process: what runs beside the calls; read its output, wait for it, write to it, end it."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from sandbox_tools.errors import SandboxResponseError, ToolError
from sandbox_tools.runtime import ExecResult
from sandbox_tools.tools.base import Output, SandboxArguments, Tool, ToolContext, ToolHints
from sandbox_tools.tools.command import LOOK_S, MAX_TIMEOUT_S, WAIT_S, describe_end, is_text, refuse_placeholder
from sandbox_tools.tools.kept import KeptProcess


class ProcessArguments(SandboxArguments):
    action: Literal["list", "output", "wait", "input", "kill"] = Field(
        description="output: what it wrote since the last call. wait: until it ends. input: write text to it."
    )
    pid: int | None = Field(None, description="As exec or list said.")
    text: str | None = Field(None, description='For input; end a line with \\n. "" ends the input.')
    timeout_s: int | None = Field(None, description=f"For wait; default {WAIT_S}.")


async def run_process(context: ToolContext, args: ProcessArguments) -> Output:
    if args.action == "list":
        return Output(text=await _list(context))
    if args.pid is None:
        raise ToolError(f"pid is required for {args.action}. See the processes with action=list.")
    kept = await _find(context, args.pid)
    if args.action == "kill":
        return Output(text=await _kill(kept))
    if args.action == "input":
        refuse_placeholder(context, "text", args.text or "")
        await _write(kept, args.text)
    return Output(text=await describe_process(kept, _wait_s(args)))


def _wait_s(args: ProcessArguments) -> float:
    if args.action != "wait":
        return LOOK_S if args.action == "input" else 0
    wait_s = WAIT_S if args.timeout_s is None else args.timeout_s
    if not 0 <= wait_s <= MAX_TIMEOUT_S:
        raise ToolError(f"timeout_s must be from 0 to {MAX_TIMEOUT_S}.")
    return wait_s


async def describe_process(kept: KeptProcess, wait_s: float) -> str:
    """Wait, then say how the process is and what it wrote since the last time."""
    if kept.result is None:
        kept.result = await kept.process.wait(wait_s)
    if kept.result is not None:
        return f"{_end(kept.result)}\n{kept.output.render() or '(no output)'}"
    waited = f" after {wait_s:g} s" if wait_s > LOOK_S else ""
    return f"still running{waited}\n{kept.output.take() or '(no new output)'}"


def _end(result: ExecResult) -> str:
    if result.timed_out or result.kill_outcome is None:
        return describe_end(result, None)
    return "killed" if result.kill_outcome == "killed" else "ended, or killed without confirmation"


async def _list(context: ToolContext) -> str:
    running = {process.pid: process.command for process in await context.runtime.list_processes()}
    lines = [f"{pid}: running: {command}" for pid, command in running.items()]
    for kept in context.kept.of(context.runtime.sandbox_id):
        if kept.process.pid not in running:
            lines.append(f"{kept.process.pid}: ended: {kept.command}")
    return "\n".join(lines) or "No process is running."


async def _find(context: ToolContext, pid: int) -> KeptProcess:
    """Return a process that a call left running, or connect to one that somebody else started."""
    runtime = context.runtime
    kept = context.kept.find(runtime.sandbox_id, pid)
    if kept is not None:
        return kept
    output = context.collect_output()
    process = await runtime.attach(pid, on_output=output.feed)
    if process is None:
        raise ToolError(f"There is no process {pid}. See the processes with action=list.")
    kept = KeptProcess(sandbox_id=runtime.sandbox_id, process=process, output=output, command="(started elsewhere)")
    context.kept.keep(kept)
    return kept


async def _write(kept: KeptProcess, text: str | None) -> None:
    if text is None:
        raise ToolError('text is required for input. End a line with \\n; "" ends the input.')
    if not is_text(text):
        raise ToolError("text is not valid Unicode text (it has half of a surrogate pair). Correct it, call again.")
    problem: SandboxResponseError
    try:
        return await (kept.process.send_input(text.encode()) if text else kept.process.close_input())
    except SandboxResponseError as exc:
        problem = exc
    if problem.kind in ("invalid", "conflict") or problem.reason == "process_not_found":
        raise ToolError(
            "The process takes no input: it has ended, or its input is closed. Only what exec started with "
            "background=true has an input."
        )
    raise problem


async def _kill(kept: KeptProcess) -> str:
    pid = kept.process.pid
    outcome = await kept.process.kill()
    kept.result = await kept.process.wait(0)
    if outcome == "killed":
        end = f"killed: process {pid} and what it started are gone"
    elif outcome == "already_finished":
        end = f"process {pid} had ended already"
    else:
        end = f"It could not be confirmed that process {pid} is gone. Call again, or look with exec."
    return f"{end}\n{kept.output.render() or '(no new output)'}"


PROCESS: Final = Tool(
    name="process",
    title="Use a running process",
    description=(
        "Use a process that exec left running (background=true, or longer than its wait): list, read output, wait, "
        "write input, or kill it with all its children."
    ),
    arguments=ProcessArguments,
    hints=ToolHints(read_only=False, destructive=True, idempotent=False, open_world=True),
    run=run_process,
)
