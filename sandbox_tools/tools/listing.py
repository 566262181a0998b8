"""list_files: what is in a directory."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from pydantic import Field

from sandbox_tools.errors import SandboxResponseError, ToolError
from sandbox_tools.runtime import ListedEntry
from sandbox_tools.tools.base import Output, SandboxArguments, Tool, ToolContext, ToolHints
from sandbox_tools.tools.files import checked_path, explained

MAX_ENTRIES: Final = 1_000
"""Entries that are shown; the rest is counted."""

MAX_DEPTH: Final = 10

_WORKSPACE: Final = "/root/workspace"


class ListFilesArguments(SandboxArguments):
    path: str | None = Field(None, description="Directory; default /root/workspace.")
    depth: int | None = Field(None, description=f"Levels to show; default 1, at most {MAX_DEPTH}.")


async def run_list_files(context: ToolContext, args: ListFilesArguments) -> Output:
    path = _WORKSPACE if args.path is None else checked_path(args.path)
    depth = 1 if args.depth is None else args.depth
    if not 1 <= depth <= MAX_DEPTH:
        raise ToolError(f"depth must be from 1 to {MAX_DEPTH}.")
    problem: SandboxResponseError
    try:
        entries = await context.runtime.list_directory(path, depth=depth)
        return Output(text=_listing(path, entries, context.redact))
    except SandboxResponseError as exc:
        problem = exc
    if problem.reason == "not_a_directory":
        raise ToolError(f"{path} is not a directory. Read a file with read_file.")
    if problem.kind == "invalid" and problem.reason is None:
        raise ToolError(
            f"{path} cannot be listed at once; it may hold too much. Use a smaller depth, a directory further down, or "
            "exec, e.g. `find . | head`."
        )
    raise explained(problem, path)


Redact: TypeAlias = Callable[[str], str]


def _listing(path: str, entries: Sequence[ListedEntry], redact: Redact) -> str:
    if not entries:
        return f"{path} is empty."
    # Of a path that was not absolute, the entries tell what it is: those of the first level are always there.
    top = min((posixpath.dirname(entry.path) for entry in entries), key=len) or "/"
    ordered = sorted(entries, key=lambda entry: entry.path.split("/"))
    lines = [_line(entry, top, redact) for entry in ordered[:MAX_ENTRIES]]
    if len(entries) > MAX_ENTRIES:
        lines.append(f"({len(entries) - MAX_ENTRIES:,} more entries are not shown. List a directory further down.)")
    return "\n".join([f"{_shown(top, redact)}: {len(entries):,} entr{'y' if len(entries) == 1 else 'ies'}", *lines])


def _line(entry: ListedEntry, top: str, redact: Redact) -> str:
    name = _shown(entry.path.removeprefix(f"{top.rstrip('/')}/"), redact)
    match entry.type:
        case "directory":
            return f"{name}/"
        case "symlink":
            return f"{name} -> {_shown(entry.symlink_target or '?', redact)}"
        case "file":
            return f"{name}  {entry.size:,} bytes"
        case _:
            return f"{name}  (a device, pipe or socket)"


def _shown(name: str, redact: Redact) -> str:
    """Return a name on one line: a file name may hold line breaks and control characters.

    A secret in such a name would not be found once it is spelled with escapes.
    """
    return name if name.isprintable() else ascii(redact(name))


LIST_FILES: Final = Tool(
    name="list_files",
    title="List files",
    description="List a directory of the sandbox: names, sizes, where symlinks lead.",
    arguments=ListFilesArguments,
    hints=ToolHints(read_only=True, destructive=False, idempotent=True, open_world=False),
    run=run_list_files,
)
