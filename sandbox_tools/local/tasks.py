"""File work in a sandbox, the host's side of `guest/tasks.py`: the pipes, and what comes on them, which is hostile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import anyio

from sandbox_tools.local.channel import AgentError, Channel, ChannelError
from sandbox_tools.local.pipes import Pipe
from sandbox_tools.wire.envelope import WireError, parse_json_object
from sandbox_tools.wire.files import whole_number

IDLE_TIMEOUT_S: Final = 30.0
"""Silence after which a task is given up: code in the sandbox can stop it."""

MAX_LINE_BYTES: Final = 65_536

MAX_LINES_BYTES: Final = 8 << 20
"""Of all lines of an answer: names and paths can be long, and a directory can be big."""

_COMMIT: Final = b"c"


class Answer:
    """What a task sends: lines of JSON, then perhaps content.

    Args:
        endless: Its lines come for as long as there is news, and nobody counts them.
    """

    def __init__(self, pipe: Pipe, *, endless: bool = False) -> None:
        self._pipe = pipe
        self._endless = endless
        self._buffer = b""
        self._begin = 0
        self._lines_left = MAX_LINES_BYTES
        self.ended = False

    async def header(self) -> dict[str, object]:
        """Return the first line.

        Raises:
            AgentError: The task failed.
            ChannelError: It ended without an answer, or its answer is not one.
        """
        with anyio.fail_after(IDLE_TIMEOUT_S):
            header = await self.line()
        if header is None:
            raise ChannelError("a task gave no answer")
        if "error" in header:
            raise AgentError(bounded(header, "error", 4095))
        return header

    async def line(self) -> dict[str, object] | None:
        """Return the next line, or None at the end."""
        while (line := self._take_line()) is None:
            data = await self._read()
            if not data:
                self.ended = True
                return None
            self._add(data)
        return line

    async def item(self) -> dict[str, object] | None:
        """Return the next line of a list, or None after its last one.

        Raises:
            ChannelError: The list is not whole.
        """
        line = await self.line()
        if line is None:
            raise ChannelError("a list of a task is not whole")
        return None if "end" in line else line

    def lines_now(self, limit: int) -> list[dict[str, object]]:
        """Return the lines that are there, at most `limit`; `ended` says that no more will come."""
        lines: list[dict[str, object]] = []
        while len(lines) < limit:
            if (line := self._take_line()) is not None:
                lines.append(line)
            elif data := self._pipe.read_now():
                self._add(data)
            else:
                self.ended = data is not None
                break
        return lines

    def _add(self, data: bytes) -> None:
        self._buffer, self._begin = self._buffer[self._begin :] + data, 0
        if b"\n" not in data and len(self._buffer) > MAX_LINE_BYTES:
            raise ChannelError("a line of a task is too long")

    def _take_line(self) -> dict[str, object] | None:
        end = self._buffer.find(b"\n", self._begin)
        if end < 0:
            return None
        line, self._begin = self._buffer[self._begin : end], end + 1
        self._lines_left -= 0 if self._endless else len(line)
        if self._lines_left < 0:
            raise ChannelError("the lines of a task are too many")
        try:
            return parse_json_object(line, what="a line of a task")
        except WireError as error:
            raise ChannelError(str(error)) from None

    async def content(self, count: int) -> AsyncIterator[bytes]:
        """Yield exactly `count` bytes.

        Raises:
            ChannelError: There were fewer.
        """
        while count > 0:
            data, self._buffer, self._begin = self._buffer[self._begin :] or await self._read(), b"", 0
            if not data:
                raise ChannelError("a file ended early")
            yield data[:count]
            count -= len(data)

    async def _read(self) -> bytes:
        with anyio.fail_after(None if self._endless else IDLE_TIMEOUT_S):
            return await self._pipe.read()


class Upload:
    """A file that is being written; nothing changes until it is committed."""

    def __init__(self, answer: Answer, data: Pipe, decision: Pipe) -> None:
        self._answer = answer
        self._data = data
        self._decision = decision

    async def write(self, data: bytes) -> None:
        """Write more of it. When the task has failed, nothing happens: `commit` says why."""
        try:
            with anyio.fail_after(IDLE_TIMEOUT_S):
                await self._data.write(data)
        except BrokenPipeError:
            return

    async def commit(self) -> dict[str, object]:
        """Put the file in its place and return the answer of the task.

        Raises:
            AgentError: It could not be written; the old file is still there.
            ChannelError: The task gave no answer.
        """
        self._data.close()
        with suppress(BrokenPipeError):  # the task has failed, and its answer says how
            await self._decision.write(_COMMIT)
        return await self._answer.header()


@asynccontextmanager
async def start_task(
    channel: Channel, task: str, fields: Mapping[str, object], *, endless: bool = False
) -> AsyncIterator[Answer]:
    """Start a task; leaving ends it. See `Answer` for `endless`.

    Raises:
        ChannelError: The sandbox is gone.
    """
    with Pipe(reads_here=True) as pipe:
        await channel.post("task", {"task": task, **fields}, [pipe.inner])
        pipe.close_inner()
        yield Answer(pipe, endless=endless)


@asynccontextmanager
async def start_upload(channel: Channel, fields: Mapping[str, object]) -> AsyncIterator[Upload]:
    """Start writing a file; leaving without a commit leaves the old one.

    Raises:
        ChannelError: The sandbox is gone.
    """
    async with AsyncExitStack() as stack:
        answer, data, decision = (stack.enter_context(Pipe(reads_here=reads)) for reads in (True, False, False))
        await channel.post("task", {"task": "write", **fields}, [answer.inner, data.inner, decision.inner])
        for pipe in (answer, data, decision):
            pipe.close_inner()
        yield Upload(Answer(answer), data, decision)


def bounded(message: Mapping[str, object], name: str, maximum: int) -> int:
    """Return a whole number from 0 to `maximum`.

    Raises:
        ChannelError: It is not one.
    """
    try:
        value = whole_number(message.get(name))
    except WireError:
        value = -1
    if not 0 <= value <= maximum:
        raise ChannelError(f"{name} is out of range")
    return value
