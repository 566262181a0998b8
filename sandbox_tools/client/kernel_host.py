"""What a code context needs of a sandbox: processes that are started, listed by tag, connected to and written to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from sandbox_tools.wire.process import Command, ProcessEvent, SignalName


class ProcessStream(Protocol):
    """A process and its events from now on."""

    @property
    def pid(self) -> int: ...

    def events(self) -> AsyncIterator[ProcessEvent]:
        """Yield what happens, up to and including `Ended`; raises SandboxRequestError."""
        ...

    async def send_input(self, data: bytes) -> None:
        """Write to the standard input, in one request; raises SandboxRequestError."""
        ...

    async def send_signal(self, signal: SignalName) -> None:
        """Signal the process; raises SandboxRequestError."""
        ...

    async def aclose(self) -> None:
        """Close the stream. The process lives on."""
        ...


class TaggedProcess(Protocol):
    """A process that runs, as a sandbox lists it."""

    @property
    def pid(self) -> int: ...

    @property
    def tag(self) -> str | None: ...


class ProcessList(Protocol):
    async def list(self) -> Sequence[TaggedProcess]: ...


class ProcessHost(Protocol):
    """A sandbox. Every method raises SandboxRequestError."""

    @property
    def processes(self) -> ProcessList: ...

    async def start(self, command: Command) -> ProcessStream: ...

    async def connect(self, pid: int, /) -> ProcessStream: ...

    async def write_file(self, path: str, data: bytes) -> None: ...
