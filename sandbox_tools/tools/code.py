"""run_code: Python and JavaScript that keep their state, and other languages, one-shot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pydantic import Field

from sandbox_tools.errors import SandboxResponseError, ToolError
from sandbox_tools.runtime import CodeResult, ExecResult, Language, RichResult
from sandbox_tools.tools.base import Image, Output, SandboxArguments, Tool, ToolContext, ToolHints
from sandbox_tools.tools.command import (
    DEFAULT_TIMEOUT_S,
    MAX_TIMEOUT_S,
    checked_argument,
    checked_text,
    checked_timeout,
    describe_end,
    refuse_placeholder,
)

MAX_CODE_BYTES: Final = 500_000
"""Code of one call in a language that keeps state, in bytes: one request; servers accept about 1 MiB of JSON."""

_TEXT_FORMS: Final = ("application/json", "text/latex", "text/html", "image/svg+xml")
"""What is shown of a value that has no Markdown, and whose plain text says only its type; best first."""

_CUT: Final = re.compile(r"\n\[\d+ more characters not shown\](?=(?:\n\[.*\])*\Z)")
"""Where the kernel cut, followed by its other notices."""

_SAYS_NOTHING: Final = re.compile(r"<[\w.]+(?: object)?(?: at 0x[0-9a-f]+)?>")
"""Python's own text of an object: its type, and its address."""


_TITLES: Final[Mapping[str, str]] = {"python": "Python", "javascript": "JavaScript"}
"""The languages that keep variables between calls."""

_FROM_FILE: Final = {"python": 'exec(open("file.py").read())', "javascript": 'await import("./file.mjs")'}

_PROGRAMS: Final[Mapping[Language, str]] = {
    "python": "python3",
    "javascript": "node and python3",
    "typescript": "tsx, bun, deno or node 22.6",
    "bash": "bash",
    "r": "Rscript",
    "java": "java or jshell (a JDK)",
}


class RunCodeArguments(SandboxArguments):
    code: str = Field(description="Source code.")
    language: Language | None = Field(None, description="Default python.")
    context: str | None = Field(
        None, description="Python, JavaScript: name of a context with variables of its own; a new name makes one."
    )
    restart: bool | None = Field(None, description="Restart the context first, without its variables.")
    timeout_s: int | None = Field(
        None,
        description=f"Seconds until it is interrupted; default {DEFAULT_TIMEOUT_S}, at most {MAX_TIMEOUT_S}.",
    )


async def run_run_code(context: ToolContext, args: RunCodeArguments) -> Output:
    language = args.language or "python"
    code = _checked_code(args, language)
    refuse_placeholder(context, "code", code)
    timeout_s = checked_timeout(args.timeout_s)
    output = context.collect_output()
    problem: SandboxResponseError | None = None
    try:
        result = await context.runtime.run_code(
            code,
            language=language,
            context=args.context,
            restart=args.restart or False,
            timeout_s=timeout_s,
            on_output=output.feed,
        )
    except SandboxResponseError as exc:
        problem = exc
    if problem is not None:
        raise _not_available(language) if problem.reason == "command_not_found" else problem
    printed = output.render()
    if language not in _TITLES:
        if result.exit_code == 127 and not printed:
            raise _not_available(language)
        end = ExecResult(exit_code=result.exit_code, timed_out=result.timed_out, kill_outcome="killed")
        return Output(text=f"{describe_end(end, timeout_s)}\n{printed or '(no output)'}")
    text = _describe(context, result, printed, timeout_s, _TITLES[language])
    if args.restart:
        text = f"(The context was restarted.)\n{text}"
    return Output(text=text, images=_images(result.results))


def _checked_code(args: RunCodeArguments, language: Language) -> str:
    hint = 'Give source code, such as "print(1)".'
    if language not in _TITLES:
        if args.context is not None or args.restart:
            raise ToolError(f"{language} has no contexts: every call is on its own. Leave out context and restart.")
        return checked_argument("code", args.code, hint)
    if args.restart and not args.code.strip():
        return ""
    if len(checked_text("code", args.code, hint).encode()) > MAX_CODE_BYTES:
        raise ToolError(
            f"code is too long for one call ({MAX_CODE_BYTES:,} bytes at most). Write it to a file with write_file, "
            f"then run {_FROM_FILE[language]} here."
        )
    return args.code


def _not_available(language: Language) -> ToolError:
    others = ", ".join(name for name in ("python", "bash", "javascript") if name != language)
    return ToolError(
        f"This sandbox cannot run {language} code: that needs {_PROGRAMS[language]}. Use another language ({others}), "
        "or see what is installed with exec."
    )


def _whole(context: ToolContext, text: str) -> str:
    """Return a text of the kernel with no half of a secret in it: where it cut a long one, it knew of none."""
    cut = _CUT.search(text)
    return text if cut is None else context.redact_start(text[: cut.start()]) + text[cut.start() :]


def _describe(context: ToolContext, result: CodeResult, printed: str, timeout_s: int, title: str) -> str:
    parts = []
    if result.state_lost_before:
        parts.append(f"(The {title} process had ended since the last call: its variables were lost, files are kept.)")
    if not result.ran:
        parts.append(
            f"The code did not run: within {timeout_s} s its context did not get done with the code of another call. "
            "Call again, or with another context, or with restart=true, which ends that code."
        )
    elif result.timed_out:
        kept = "Variables are kept." if result.state_kept else "It had to be killed: its variables are lost."
        parts.append(f"timed out after {timeout_s} s: the code was interrupted. {kept} Output up to then follows.")
    if printed:
        parts.append(printed)
    texts = [_whole(context, text) for text in map(_text, result.results) if text]
    if texts:
        parts.append("--- result ---\n" + "\n".join(texts))
    if result.error is not None:
        trace = result.error.traceback.rstrip() or f"{result.error.name}: {result.error.message}"
        parts.append(f"--- error ---\n{_whole(context, trace)}")
        if not result.state_kept and not result.timed_out:
            parts.append(
                f"(The {title} process ended: its variables are lost, files are kept. The next call starts anew.)"
            )
    count = len(_images(result.results))
    if count:
        parts.append(f"({count} image{'s' if count > 1 else ''} shown)")
    return "\n".join(parts) or "(no output)"


def _text(rich: RichResult) -> str:
    if rich.images and "text/markdown" not in rich.text:
        return ""  # the text form of a figure says nothing that the image does not
    plain = rich.text.get("text/plain", "")
    others = _TEXT_FORMS if _SAYS_NOTHING.fullmatch(plain) else ()
    return next((rich.text[form] for form in ("text/markdown", *others) if rich.text.get(form)), plain)


def _images(results: tuple[RichResult, ...]) -> tuple[Image, ...]:
    """One image a value: PNG and JPEG of the same would say the same twice."""
    first = (next(iter(sorted(rich.images.items(), reverse=True)), None) for rich in results)
    return tuple(Image(data=form[1], mime_type=form[0]) for form in first if form is not None)


RUN_CODE: Final = Tool(
    name="run_code",
    title="Run code",
    description=(
        "Run code in the sandbox. Python and JavaScript keep variables and imports between calls, like a notebook, and "
        "return the last expression, stdout, stderr and figures; top-level await works. Other languages run once, "
        "without state."
    ),
    arguments=RunCodeArguments,
    hints=ToolHints(read_only=False, destructive=True, idempotent=False, open_world=True),
    run=run_run_code,
)
