"""run_code: Python that keeps its state, and one-shot bash and JavaScript."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from sandbox_tools.errors import SandboxResponseError, ToolError
from sandbox_tools.runtime import CodeResult, ExecResult, RichResult
from sandbox_tools.tools.base import Image, Output, SandboxArguments, Tool, ToolContext, ToolHints
from sandbox_tools.tools.command import (
    DEFAULT_TIMEOUT_S,
    MAX_TIMEOUT_S,
    checked_argument,
    checked_text,
    checked_timeout,
    describe_end,
)

MAX_CODE_BYTES: Final = 500_000
"""Python code of one call, in bytes: it travels as one request, and servers accept about 1 MiB of JSON."""

_TEXT_FORMS: Final = ("text/markdown", "text/plain", "application/json", "text/latex", "image/svg+xml", "text/html")
"""The forms of a result that a model can read, best first."""


class RunCodeArguments(SandboxArguments):
    code: str = Field(description="Source code.")
    language: Literal["python", "bash", "javascript"] | None = Field(None, description="Default python.")
    timeout_s: int | None = Field(
        None,
        description=f"Seconds until it is interrupted; default {DEFAULT_TIMEOUT_S}, at most {MAX_TIMEOUT_S}.",
    )


async def run_run_code(context: ToolContext, args: RunCodeArguments) -> Output:
    language = args.language or "python"
    code = _checked_code(args.code, language)
    timeout_s = checked_timeout(args.timeout_s)
    output = context.collect_output()
    problem: SandboxResponseError | None = None
    try:
        result = await context.runtime.run_code(code, language=language, timeout_s=timeout_s, on_output=output.feed)
    except SandboxResponseError as exc:
        problem = exc
    if problem is not None:
        raise _not_available(language) if problem.reason == "command_not_found" else problem
    printed = output.render()
    if language != "python":
        if result.exit_code == 127 and not printed:
            raise _not_available(language)
        end = ExecResult(exit_code=result.exit_code, timed_out=result.timed_out, kill_outcome="killed")
        return Output(text=f"{describe_end(end, timeout_s)}\n{printed or '(no output)'}")
    return Output(text=_describe(result, printed, timeout_s), images=_images(result.results))


def _checked_code(code: str, language: str) -> str:
    hint = 'Give source code, such as "print(1)".'
    if language != "python":
        return checked_argument("code", code, hint)
    if len(checked_text("code", code, hint).encode()) > MAX_CODE_BYTES:
        raise ToolError(
            f"code is too long for one call ({MAX_CODE_BYTES:,} bytes at most). Write it to a file with write_file, "
            'then run exec(open("file.py").read()) here.'
        )
    return code


def _not_available(language: str) -> ToolError:
    program = {"python": "python3", "javascript": "node"}.get(language, language)
    others = ", ".join(name for name in ("python", "bash", "javascript") if name != language)
    return ToolError(
        f"This sandbox has no {program}, so it cannot run {language} code. Use another language ({others}), "
        "or see what is installed with exec."
    )


def _describe(result: CodeResult, printed: str, timeout_s: int) -> str:
    parts = []
    if result.state_lost_before:
        parts.append("(The Python process had ended since the last call: its variables were lost, files are kept.)")
    if result.timed_out:
        kept = "Variables are kept." if result.state_kept else "It had to be killed: its variables are lost."
        parts.append(f"timed out after {timeout_s} s: the code was interrupted. {kept} Output up to then follows.")
    if printed:
        parts.append(printed)
    texts = [text for text in map(_text, result.results) if text]
    if texts:
        parts.append("--- result ---\n" + "\n".join(texts))
    if result.error is not None:
        trace = result.error.traceback.rstrip() or f"{result.error.name}: {result.error.message}"
        parts.append(f"--- error ---\n{trace}")
        if not result.state_kept and not result.timed_out:
            parts.append(
                "(The Python process ended: its variables are lost, files are kept. The next call starts anew.)"
            )
    count = sum(len(rich.images) for rich in result.results)
    if count:
        parts.append(f"({count} image{'s' if count > 1 else ''} shown)")
    return "\n".join(parts) or "(no output)"


def _text(rich: RichResult) -> str:
    if rich.images and "text/markdown" not in rich.text:
        return ""  # the text form of a figure says nothing that the image does not
    return next((rich.text[form] for form in _TEXT_FORMS if rich.text.get(form)), "")


def _images(results: tuple[RichResult, ...]) -> tuple[Image, ...]:
    return tuple(Image(data=data, mime_type=mime) for rich in results for mime, data in rich.images.items())


RUN_CODE: Final = Tool(
    name="run_code",
    title="Run code",
    description=(
        "Run code in the sandbox. Python keeps variables and imports between calls, like a notebook, and returns the "
        "last expression, stdout, stderr and matplotlib figures. bash and javascript run once, without state."
    ),
    arguments=RunCodeArguments,
    hints=ToolHints(read_only=False, destructive=True, idempotent=False, open_world=True),
    run=run_run_code,
)
