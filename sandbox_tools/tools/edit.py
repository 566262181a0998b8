"""edit_file: one exact replacement."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from sandbox_tools.errors import SandboxResponseError, ToolError
from sandbox_tools.redaction.marks import find_mark
from sandbox_tools.tools.base import Output, SandboxArguments, Tool, ToolContext, ToolHints
from sandbox_tools.tools.files import checked_content, checked_path, explained

MAX_EDIT_BYTES: Final = 16 * 1024 * 1024
"""Largest file that is edited, in bytes: it is read whole, here and in the sandbox."""


class EditFileArguments(SandboxArguments):
    path: str = Field(description="Absolute, or relative to /root/workspace.")
    old_text: str = Field(description="Exact text to replace; must be in the file once.")
    new_text: str = Field(description="Text to put there.")


async def run_edit_file(context: ToolContext, args: EditFileArguments) -> Output:
    """Look first, so that the text is there once whatever rule a server has; then let the server replace it."""
    path = checked_path(args.path)
    old = _checked_old_text(args.old_text)
    checked_content("new_text", args.new_text)
    if args.new_text == args.old_text:
        raise ToolError("old_text and new_text are the same, so there is nothing to change.")
    problem: SandboxResponseError
    try:
        line = _line_of(old, await _content(context, path), path)
        await context.runtime.edit_file(path, args.old_text, args.new_text)
        return Output(text=f"Edited {path} at line {line:,}.")
    except SandboxResponseError as exc:
        problem = exc
    if problem.kind == "invalid" and problem.reason is None:
        raise ToolError(f"{path} was changed by something else meanwhile. Nothing was edited: read it, then try again.")
    raise explained(problem, path)


async def _content(context: ToolContext, path: str) -> bytes:
    data = bytearray()
    async with context.runtime.open_file(path) as reader:
        async for chunk in reader.chunks():
            data += chunk
            if len(data) > MAX_EDIT_BYTES:
                raise ToolError(f"{path} is larger than {MAX_EDIT_BYTES:,} bytes. Edit it with exec, e.g. with sed.")
    return bytes(data)


def _checked_old_text(text: str) -> bytes:
    if not text:
        raise ToolError("old_text is empty. Give the text to replace, or write the whole file with write_file.")
    if mark := find_mark(text):
        raise ToolError(
            f"old_text has {mark} in it, which stands for a text that is hidden from you: the file has something else "
            "there. Choose text beside it."
        )
    return checked_content("old_text", text)


def _line_of(old: bytes, data: bytes, path: str) -> int:
    """Return the line, from 1, in which the only occurrence begins."""
    first = data.find(old)
    if first < 0:
        crlf = b"\r\n" in data and b"\n" in old and b"\r\n" not in old
        hint = "Its lines end with \\r\\n, those of old_text with \\n." if crlf else "It must match to the last space."
        raise ToolError(f"old_text is not in {path}. {hint} Read the file and copy the text from there.")
    if data.find(old, first + 1) >= 0:
        raise ToolError(f"old_text is in {path} more than once. Give more of the lines around it.")
    return data.count(b"\n", 0, first) + 1


EDIT_FILE: Final = Tool(
    name="edit_file",
    title="Edit a file",
    description="Replace one text in a file of the sandbox. Cheaper and safer than writing all of it again.",
    arguments=EditFileArguments,
    hints=ToolHints(read_only=False, destructive=True, idempotent=False, open_world=False),
    run=run_edit_file,
)
