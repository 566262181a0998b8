"""read_file and write_file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from pydantic import Field

from sandbox_tools.errors import ErrorReason, SandboxResponseError, ToolError
from sandbox_tools.redaction.marks import find_mark
from sandbox_tools.tools.base import (
    CollectedPage,
    Image,
    Output,
    SandboxArguments,
    Tool,
    ToolContext,
    ToolHints,
)
from sandbox_tools.tools.command import checked_text, is_text

MAX_IMAGE_BYTES: Final = 4 * 1024 * 1024
"""Largest image that is shown to the model, in bytes."""

_SNIFF_BYTES: Final = 8192

_IMAGE_TYPES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


class ReadFileArguments(SandboxArguments):
    path: str = Field(description="Absolute, or relative to /root/workspace.")
    offset: int | None = Field(None, description="First line to read, from 1.")
    limit: int | None = Field(None, description="Lines to read at most.")


class WriteFileArguments(SandboxArguments):
    path: str = Field(description="Absolute, or relative to /root/workspace.")
    content: str = Field(description="Whole new content of the file.")


async def run_read_file(context: ToolContext, args: ReadFileArguments) -> Output:
    path = checked_path(args.path)
    if (args.offset is not None and args.offset < 1) or (args.limit is not None and args.limit < 1):
        raise ToolError("offset and limit count lines from 1. Leave them out to read from the start.")
    problem: SandboxResponseError | None = None
    try:
        return await _read(context, path, args)
    except SandboxResponseError as exc:
        problem = exc
    raise explained(problem, path)


async def run_write_file(context: ToolContext, args: WriteFileArguments) -> Output:
    path = checked_path(args.path)
    data = checked_content("content", args.content)
    problem: SandboxResponseError | None = None
    try:
        await context.runtime.write_file(path, data)
    except SandboxResponseError as exc:
        problem = exc
    if problem is not None:
        raise explained(problem, path)
    return Output(text=f"Wrote {len(data):,} bytes to {path}.")


async def _read(context: ToolContext, path: str, args: ReadFileArguments) -> Output:
    async with context.runtime.open_file(path) as reader:
        chunks = reader.chunks()
        head = b""
        while len(head) < _SNIFF_BYTES and (chunk := await anext(chunks, None)) is not None:
            head += chunk
        image_type = next((mime for magic, mime in _IMAGE_TYPES if head.startswith(magic)), None)
        content = _with_head(head, chunks)
        if image_type is not None:
            return await _read_image(content, path, image_type, reader.size)
        if b"\0" in head[:_SNIFF_BYTES]:
            raise ToolError(
                f"{path} is a binary file{_size_text(reader.size)}. Look at it with exec, e.g. `file` or `xxd | head`, "
                "or read it with Python in run_code."
            )
        page = context.collect_page(first=args.offset or 1, limit=args.limit)
        return await _read_page(content, page, path, reader.size)


async def _read_page(content: AsyncIterator[bytes], page: CollectedPage, path: str, size: int | None) -> Output:
    at_end = True
    async for chunk in content:
        if page.feed(chunk):
            at_end = False
            break
    text = page.render(size=size, at_end=at_end)
    if text is None:
        lines = f"{page.lines:,} line{'' if page.lines == 1 else 's'}"
        raise ToolError(f"{path} has only {lines}. Read it with a smaller offset.")
    return Output(text=text)


async def _read_image(content: AsyncIterator[bytes], path: str, mime_type: str, size: int | None) -> Output:
    data = bytearray()
    async for chunk in content:
        data += chunk
        if len(data) > MAX_IMAGE_BYTES:
            raise ToolError(
                f"{path} is an image{_size_text(size)} of more than {MAX_IMAGE_BYTES:,} bytes, too large to show. "
                "Make a smaller copy with run_code, then read that."
            )
    text = f"{path}: {mime_type}, {len(data):,} bytes."
    return Output(text=text, images=(Image(data=bytes(data), mime_type=mime_type),))


async def _with_head(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in rest:
        yield chunk


def checked_path(path: str) -> str:
    """Return the path of a file; raises ToolError when it is blank or no text."""
    return checked_text("path", path, "Give the path of a file, such as /root/workspace/notes.txt.")


def checked_content(name: str, text: str) -> bytes:
    """Return a text as it is to be in a file.

    Raises:
        ToolError: It cannot be encoded, or it holds a placeholder of ours: the model copied it back from what it was
            shown, and the file would lose the secret that it stands for.
    """
    if not is_text(text):
        raise ToolError(f"{name} is not valid Unicode text (it has half of a surrogate pair). Write bytes with exec.")
    if mark := find_mark(text):
        raise ToolError(
            f"{name} has {mark} in it. That stands for a text that is hidden from you, and would overwrite it in the "
            "file. Nothing was written. Change only other parts, with edit_file; or let a program in the sandbox "
            "(exec, run_code) copy the text from where it is."
        )
    return text.encode()


def _size_text(size: int | None) -> str:
    return "" if size is None else f" ({size:,} bytes)"


_EXPLANATIONS: Final[dict[ErrorReason, str]] = {
    "path_not_found": "{path} does not exist. See what is there with list_files.",
    "is_directory": "{path} is a directory. List it with list_files, or give the path of a file in it.",
    "not_a_directory": "A part of {path} is a file, not a directory. Choose another path.",
    "access_denied": "{path} may not be used: permission denied. Use a path below /root/workspace or /tmp.",
    "outside_allowed_directory": "{path} is outside the directory that this sandbox allows. Use /root/workspace.",
    "not_a_file": "{path} is not a regular file (a device, a pipe or a socket). Use exec to work with it.",
    "name_too_long": "The path is too long. Names have at most 255 bytes, paths 4,095.",
    "no_space": "The sandbox's disk is full. Remove files with exec (`df -h`, `du -sh *`), then write again.",
    "file_too_large": "The file is larger than this sandbox allows. Write a smaller one, or several.",
}


def explained(problem: SandboxResponseError, path: str) -> Exception:
    """Return what to raise for a request about a path that failed: a text for the model, where there is one."""
    text = _EXPLANATIONS.get(problem.reason) if problem.reason else None
    return ToolError(text.format(path=path)) if text else problem


READ_FILE: Final = Tool(
    name="read_file",
    title="Read a file",
    description=(
        "Read a text file from the sandbox, or look at a PNG, JPEG or GIF. A long file is shown in part, with the "
        "offset to read on."
    ),
    arguments=ReadFileArguments,
    hints=ToolHints(read_only=True, destructive=False, idempotent=True, open_world=False),
    run=run_read_file,
)

WRITE_FILE: Final = Tool(
    name="write_file",
    title="Write a file",
    description="Write a whole text file in the sandbox. Makes parent directories; replaces what is there.",
    arguments=WriteFileArguments,
    hints=ToolHints(read_only=False, destructive=True, idempotent=True, open_world=False),
    run=run_write_file,
)
