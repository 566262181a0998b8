"""Code contexts: variables live on between calls, and a call costs one request (design decision 10).

A context belongs to its sandbox: it outlives lost connections, this process, and its tokens. Whoever comes next finds
it by the tag of its process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, get_args

import anyio.abc

from sandbox_tools.client.context import CodeContext
from sandbox_tools.client.kernel_host import ProcessHost
from sandbox_tools.client.kernel_program import ContextLanguage, KernelPrograms
from sandbox_tools.errors import ToolError

DEFAULT_NAME: Final = "default"

MAX_CONTEXTS: Final = 16
"""Of one sandbox. Each is a process with variables in memory, and a stream of events."""

_TAG: Final = "sandbox-tools-context:"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextInfo:
    """A context whose process runs.

    Attributes:
        pid: Of the process, in the sandbox.
    """

    name: str
    language: ContextLanguage
    pid: int


class CodeContexts:
    """The contexts of one sandbox, those of other clients too.

    Args:
        tasks: Lives as long as the contexts are used; the readers of their events run in it.
    """

    def __init__(self, host: ProcessHost, tasks: anyio.abc.TaskGroup) -> None:
        self._host = host
        self._tasks = tasks
        self._programs = KernelPrograms(host.write_file)
        self._contexts: dict[str, CodeContext] = {}

    async def get(self, name: str | None = None, language: ContextLanguage = "python") -> CodeContext:
        """Return a context; its first run starts it, if it is not there.

        Args:
            name: None is the one that everybody uses who does not name one.

        Raises:
            ToolError: The name is not one, or there are too many contexts.
            SandboxRequestError: See `list`, which is asked for a new name.
        """
        tag = _tag(name or DEFAULT_NAME, language)
        if tag not in self._contexts:
            if name is not None:
                await self._check_room(tag)
            self._contexts[tag] = CodeContext(self._host, self._tasks, self._programs, language, tag)
        return self._contexts[tag]

    async def list(self) -> tuple[ContextInfo, ...]:
        """Return the contexts that run in the sandbox, whoever made them; raises SandboxRequestError."""
        found = {process.tag: process.pid for process in await self._host.processes.list() if process.tag}
        return tuple(info for tag, pid in sorted(found.items()) if (info := _info(tag, pid)) is not None)

    async def restart(self, name: str | None = None, language: ContextLanguage = "python") -> None:
        """End a context and what it started; its next run begins without variables. Errors as for `get`."""
        await (await self.get(name, language)).end()

    async def remove(self, name: str | None = None, language: ContextLanguage = "python") -> None:
        """The same, and forget it."""
        await self.restart(name, language)
        self._contexts.pop(_tag(name or DEFAULT_NAME, language), None)

    def detach(self) -> None:
        """Close the streams. The contexts live on in their sandbox."""
        for context in self._contexts.values():
            context.detach()

    async def _check_room(self, tag: str) -> None:
        others = [info for info in await self.list() if _tag(info.name, info.language) != tag]
        if len(others) >= MAX_CONTEXTS:
            names = ", ".join(f"{info.name} ({info.language})" for info in others)
            raise ToolError(
                f"The sandbox has {len(others)} code contexts, which is the most. Use one of them: {names}."
            )


def _tag(name: str, language: ContextLanguage) -> str:
    if not _NAME.fullmatch(name):
        raise ToolError("A context's name has 1 to 64 letters, digits, '_' or '-'.")
    return f"{_TAG}{language}:{name}"


def is_context(tag: str | None) -> bool:
    """Tell whether a process with this tag is a context."""
    return tag is not None and tag.startswith(_TAG)


def _info(tag: str, pid: int) -> ContextInfo | None:
    language, _, name = tag.removeprefix(_TAG).partition(":")
    for known in get_args(ContextLanguage):
        if language == known and tag.startswith(_TAG) and _NAME.fullmatch(name):
            return ContextInfo(name=name, language=known, pid=pid)
    return None
