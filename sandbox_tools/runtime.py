"""THE SEAM: what a tool may ask of one running sandbox, and the values it gets back.

`client/` implements `Runtime` over the wire, for the cloud and for the local sandbox alike; `testing.py` has a fake.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

OutputStream = Literal["stdout", "stderr"]

OutputSink = Callable[[OutputStream, bytes], None]
"""Called with each piece of output as it arrives, cut anywhere. It must not keep all of it."""

Language = Literal["python", "javascript", "typescript", "bash", "r", "java"]

KillOutcome = Literal["killed", "already_finished", "kill_unconfirmed"]
"""What became of a process that we ended: it is gone; it had ended by itself; nobody confirmed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """How a command ended.

    Attributes:
        exit_code: The command's own; -1 when a signal ended it; None when it was ended for its timeout.
        timed_out: Whether it ran longer than its timeout and was ended for that.
        kill_outcome: What became of it when it timed out.
        signal: Status text of a signalled process ("signal: killed"), else "".
        elapsed_ms: From the request to the end, in milliseconds.
        missing_bytes: About how much of the output was lost with a connection that broke, in bytes; None when nobody
            knows.
    """

    exit_code: int | None
    timed_out: bool = False
    kill_outcome: KillOutcome | None = None
    signal: str = ""
    elapsed_ms: int = 0
    missing_bytes: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeError:
    """An exception that user code raised."""

    name: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RichResult:
    """One value that code displayed, in the forms that it offers.

    Attributes:
        text: Text forms by MIME type; "text/plain" is there unless only an image is.
        images: Decoded image bytes by MIME type ("image/png", "image/jpeg").
    """

    text: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeResult:
    """How a piece of code ended. Its stdout and stderr went to the sink while it ran.

    Attributes:
        results: The last expression and what `display()` and figures showed, in order.
        error: The exception that ended it, if one did.
        timed_out: It ran longer than its timeout and was interrupted.
        ran: False: its context ran the code of another client until the time was over, so it was taken back.
        state_kept: Whether the context's variables are still there; False when it had to be killed or died.
            Always False for a language without a context.
        state_lost_before: The context had ended since the call before: this call started with no variables.
        exit_code: Of a one-shot program; None for a language with contexts.
    """

    results: tuple[RichResult, ...] = ()
    error: CodeError | None = None
    timed_out: bool = False
    ran: bool = True
    state_kept: bool = True
    state_lost_before: bool = False
    exit_code: int | None = None
    elapsed_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedEntry:
    """What a directory of a sandbox holds.

    Attributes:
        path: Absolute.
        size: In bytes.
        symlink_target: Of a symlink; else None.
    """

    path: str
    type: Literal["file", "directory", "symlink", "other"]
    size: int = 0
    symlink_target: str | None = None


class FileReader(Protocol):
    """An open file in a sandbox.

    Attributes:
        size: In bytes, or None when the server did not say.
    """

    @property
    def size(self) -> int | None: ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the content from the start. Stopping early ends the transfer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """A process that runs in a sandbox, whoever started it. `command` may hold what a command line holds."""

    pid: int
    command: str = field(repr=False)


class RunningProcess(Protocol):
    """A command that runs beside its caller, or has ended.

    Attributes:
        pid: In the sandbox.
    """

    @property
    def pid(self) -> int: ...

    async def wait(self, timeout_s: float) -> ExecResult | None:
        """Wait for the end; None when it still runs after `timeout_s`. It is not ended for that."""
        ...

    async def send_input(self, data: bytes) -> None:
        """Write to its standard input."""
        ...

    async def close_input(self) -> None:
        """End its standard input."""
        ...

    async def kill(self) -> KillOutcome:
        """End it with all that it started. Bounded; raises nothing but cancellation."""
        ...


class Runtime(Protocol):
    """One running sandbox.

    Every method raises `SandboxRequestError` (see errors.py) when the sandbox cannot do it. Cancelling a method
    ends what it started in the sandbox.
    """

    @property
    def sandbox_id(self) -> str: ...

    async def exec(
        self,
        command: str,
        *,
        cwd: str | None = None,
        envs: Mapping[str, str] | None = None,
        timeout_s: float,
        on_output: OutputSink,
    ) -> ExecResult:
        """Run a shell command to its end, or end it after `timeout_s`."""
        ...

    async def start_command(
        self,
        command: str,
        *,
        cwd: str | None = None,
        envs: Mapping[str, str] | None = None,
        stdin: bool = False,
        timeout_s: float | None = None,
        on_output: OutputSink,
    ) -> RunningProcess:
        """Start a shell command that runs beside its caller, until it ends or is ended after `timeout_s`.

        Args:
            stdin: Whether it has a standard input to write to; else it reads end-of-file.
        """
        ...

    async def attach(self, pid: int, *, on_output: OutputSink) -> RunningProcess | None:
        """Follow a process that was started before, by anybody, from now on; None when there is none."""
        ...

    async def list_processes(self) -> tuple[ProcessInfo, ...]:
        """Return the commands that run. Code contexts are not among them."""
        ...

    async def run_code(
        self,
        code: str,
        *,
        language: Language,
        context: str | None = None,
        restart: bool = False,
        timeout_s: float,
        on_output: OutputSink,
    ) -> CodeResult:
        """Run code; Python and JavaScript keep their state between calls.

        Args:
            context: Whose variables it sees; a new name makes a new context. None: the one that all such calls share.
            restart: Begin without variables; what the context ran before is ended.

        Raises:
            ToolError: The name cannot be used, or there are too many contexts.
        """
        ...

    def open_file(self, path: str) -> AbstractAsyncContextManager[FileReader]:
        """Open a file for reading."""
        ...

    async def write_file(self, path: str, data: bytes) -> None:
        """Write a whole file; parent directories are made; the old content stays if it fails."""
        ...

    async def edit_file(self, path: str, old_text: str, new_text: str) -> None:
        """Replace a text that is in a file exactly once; the old content stays if it fails, or is not there so."""
        ...

    async def list_directory(self, path: str, *, depth: int) -> Sequence[ListedEntry]:
        """Return what is below a directory, `depth` levels of it; symlinked directories are not entered."""
        ...

    async def listening_ports(self) -> frozenset[int] | None:
        """Return the TCP ports that something listens on, or None when the runtime cannot tell."""
        ...

    async def preview_url(self, port: int) -> str:
        """Return the URL of a port, without any token."""
        ...
