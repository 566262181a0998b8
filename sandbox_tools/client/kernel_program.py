"""The programs that run code in a sandbox, and their way into it."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, Literal

import anyio

from sandbox_tools.wire.process import Command

ContextLanguage = Literal["python", "javascript"]
"""Languages whose variables live on between calls."""

DIRECTORY: Final = "/tmp/.sandbox-tools/"  # noqa: S108 - in the sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelProgram:
    """What runs the code of one language.

    Attributes:
        title: For people and models.
        files: Content by path; first what python3 runs. The paths name the content, so that versions do not meet.
    """

    title: str
    files: Mapping[str, bytes]

    def command(self, lock: str) -> Command:
        """Return what starts it.

        Args:
            lock: The path of a file. Of the programs that are started with the same one, only one runs at a time.
        """
        program, *others = self.files
        return Command(cmd="python3", args=("-u", program, lock, *others))


class KernelPrograms:
    """The programs in one sandbox. Each is written once."""

    def __init__(self, write_file: Callable[[str, bytes], Awaitable[None]]) -> None:
        self._write_file = write_file
        self._written: set[str] = set()
        self._lock = anyio.Lock()

    async def install(self, program: KernelProgram) -> None:
        """See to it that the files are there; raises SandboxRequestError."""
        async with self._lock:
            for path, content in program.files.items():
                if path not in self._written:
                    await self._write_file(path, content)
                    self._written.add(path)

    def forget(self, program: KernelProgram) -> None:
        """The files are not there any more."""
        self._written -= set(program.files)


@cache
def kernel_program(language: ContextLanguage) -> KernelProgram:
    """Return what runs code of a language and keeps its variables. Both need python3 >= 3.8, JavaScript node too."""
    path, content = _guest_file("kernel.py")
    if language == "python":
        return KernelProgram(title="Python", files={path: content})
    script, source = _guest_file("kernel.js")
    return KernelProgram(title="JavaScript", files={path: content, script: source})


def lock_path(tag: str, number: int) -> str:
    """Return the path of a lock of the context with this tag, the same for every client and every version."""
    return f"{DIRECTORY}{hashlib.sha256(f'{tag} {number}'.encode()).hexdigest()[:12]}.lock"


def _guest_file(name: str) -> tuple[str, bytes]:
    content = files("sandbox_tools.guest").joinpath(name).read_bytes()
    stem, _, ending = name.partition(".")
    return f"{DIRECTORY}{stem}-{hashlib.sha256(content).hexdigest()[:12]}.{ending}", content
