"""The control socket of one sandbox, the host's end. Everything that arrives on it is hostile input.

A message that breaks the rules ends the sandbox: more than 64 KiB, not a flat JSON object, an answer to nothing, a
descriptor that was not asked for or is not what was asked for.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from sandbox_tools.guest.agent import PIECE_BYTES
from sandbox_tools.local.descriptors import adopt_connection, adopt_new_socket
from sandbox_tools.local.pipes import close_descriptor

MAX_MESSAGE_BYTES: Final = 65_536

ANSWER_TIMEOUT_S: Final = 10.0
"""The agent answers each request at once; a silent one is broken, and its sandbox is ended."""

_MAX_FDS: Final = 8


class ChannelError(Exception):
    """The sandbox is gone, or its agent broke the rules."""


class AgentError(Exception):
    """The agent could not do it.

    Attributes:
        number: The errno that it named.
    """

    def __init__(self, number: int) -> None:
        self.number: Final = number
        super().__init__(os.strerror(number))


@dataclass(frozen=True, slots=True)
class Message:
    """One checked message of the agent: the answer to a request, or the exit of a process."""

    request: int
    pid: int | None = None
    exit_code: int | None = None
    error: int | None = None


def parse_message(data: bytes) -> Message | None:
    """Check one message; None is the agent's greeting.

    Raises:
        ChannelError: It breaks the rules.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ChannelError("a message is not a JSON object")
    if fields == {"ready": True}:
        return None
    message = Message(
        request=_whole(fields, "id", 1, 1 << 53) or 0,
        pid=_whole(fields, "pid", 2, 1 << 22),
        exit_code=_whole(fields, "exit", -64, 255),
        error=_whole(fields, "error", 1, 4095),
    )
    if not message.request or not set(fields) <= {"id", "pid", "exit", "error"}:
        raise ChannelError("a message has unknown fields")
    return message


def _without_descriptor(data: bytes) -> Message | None:
    """Check a message whose descriptor the kernel dropped because we have too many: our fault, not the agent's.

    Raises:
        ChannelError: It breaks the rules.
    """
    message = parse_message(data)
    return None if message is None else replace(message, error=errno.EMFILE)


def _whole(fields: Mapping[str, object], name: str, low: int, high: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise ChannelError(f"{name} is out of range")
    return value


@dataclass(slots=True)
class _Waiting:
    done: anyio.Event = field(default_factory=anyio.Event)
    adopt: Callable[[int], socket.socket | None] | None = None  # takes the descriptor that the answer brings
    message: Message | None = None
    adopted: socket.socket | None = None


class Channel:
    """Sends requests to the agent and hands its answers to those who wait.

    Args:
        control: Our end of the agent's control socket.
        on_exit: Called with a request's id and the exit code (negative: the signal) of its process.
    """

    def __init__(self, control: socket.socket, on_exit: Callable[[int, int], None]) -> None:
        control.setblocking(False)
        self._control = control
        self._on_exit = on_exit
        self._ready = anyio.Event()
        self._closed = False
        self._last_id = 0
        self._waiting: dict[int, _Waiting] = {}
        self._processes: set[int] = set()
        self._sending = anyio.Lock()

    async def serve(self) -> None:
        """Read until the agent is gone or this is closed.

        Raises:
            ChannelError: The agent broke the rules.
        """
        try:
            while not self._closed:
                await self._receive()
        except (anyio.ClosedResourceError, ConnectionError):
            return
        finally:
            self.close()

    async def wait_until_ready(self) -> None:
        """Return when the agent has said that it serves.

        Raises:
            ChannelError: It ended first.
        """
        await self._ready.wait()
        if self._closed:
            raise ChannelError("the agent ended")

    async def request(self, operation: str, fields: Mapping[str, object], fds: Sequence[int] = ()) -> Message:
        """Ask the agent for something and return its answer; `Message.request` of an exec names its process.

        Raises:
            AgentError: It could not do it.
            ChannelError: The sandbox is gone, or does not answer.
        """
        return (await self._ask(_Waiting(), operation, fields, fds))[0]

    async def connect(self, fields: Mapping[str, object]) -> socket.socket:
        """Ask the agent for a connecting socket; it is checked, non-blocking, and the caller's to close.

        Raises:
            AgentError: It could not do it.
            ChannelError: The sandbox is gone, or does not answer.
        """
        return await self._ask_for_socket("connect", fields, adopt_connection)

    async def new_socket(self) -> socket.socket:
        """Ask the agent for an unused TCP socket of the sandbox's own network; the caller's to close.

        To be asked before any code of a user runs: who kept a copy of it could make it block.

        Raises:
            AgentError: It could not do it.
            ChannelError: The sandbox is gone, or does not answer.
        """
        return await self._ask_for_socket("socket", {}, adopt_new_socket)

    async def post(self, operation: str, fields: Mapping[str, object], fds: Sequence[int]) -> None:
        """Send a request that is answered on one of the pipes.

        Raises:
            ChannelError: The sandbox is gone.
        """
        await self._send({"op": operation, "id": self._new_id(), **fields}, fds)

    def close(self) -> None:
        """Close the socket, which ends the agent. Who waits gets a ChannelError. Can be called again."""
        self._closed = True
        self._ready.set()
        for waiting in self._waiting.values():
            waiting.done.set()
        if self._control.fileno() >= 0:
            close_descriptor(self._control.detach())

    async def _ask_for_socket(
        self, operation: str, fields: Mapping[str, object], adopt: Callable[[int], socket.socket | None]
    ) -> socket.socket:
        _, adopted = await self._ask(_Waiting(adopt=adopt), operation, fields, ())
        if adopted is None:
            self.close()
            raise ChannelError(f"a {operation} was answered without a descriptor")
        return adopted

    async def _ask(
        self, waiting: _Waiting, operation: str, fields: Mapping[str, object], fds: Sequence[int]
    ) -> tuple[Message, socket.socket | None]:
        request = self._new_id()
        self._waiting[request] = waiting
        # Shielded: an answer that nobody waits for would look like a broken agent. It is there at once or never.
        with anyio.move_on_after(ANSWER_TIMEOUT_S, shield=True):
            await self._send({"op": operation, "id": request, **fields}, fds)
            await waiting.done.wait()
        self._waiting.pop(request, None)
        if waiting.message is None:
            self.close()
            raise ChannelError("the agent does not answer")
        if waiting.message.error is not None:
            if waiting.adopted is not None:
                waiting.adopted.close()
            raise AgentError(waiting.message.error)
        return waiting.message, waiting.adopted

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def _send(self, request: Mapping[str, object], fds: Sequence[int]) -> None:
        data = json.dumps(request).encode()
        pieces = [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]
        async with self._sending:
            for piece in pieces[:-1]:
                await self._send_piece(b"+" + piece, ())
            await self._send_piece(b"." + pieces[-1], fds)

    async def _send_piece(self, piece: bytes, fds: Sequence[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while not self._closed:
            try:
                self._control.sendmsg([piece], rights)
            except BlockingIOError:
                await anyio.wait_writable(self._control)
            except OSError:
                self.close()
            else:
                return
        raise ChannelError("the sandbox is gone")

    async def _receive(self) -> None:
        await anyio.wait_readable(self._control)
        if self._closed:
            return
        space = socket.CMSG_SPACE(4 * _MAX_FDS)
        data, ancillary, flags, _ = self._control.recvmsg(MAX_MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        fds = list(array.array("i", b"".join(item[2] for item in ancillary if item[1] == socket.SCM_RIGHTS)))
        try:
            if not data:
                self.close()
            elif flags & socket.MSG_TRUNC or (flags & socket.MSG_CTRUNC and fds):
                raise ChannelError("a message is too big")
            else:
                self._dispatch(_without_descriptor(data) if flags & socket.MSG_CTRUNC else parse_message(data), fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _dispatch(self, message: Message | None, fds: list[int]) -> None:
        """Hand a message to who waits for it. What is taken from `fds` is no longer the caller's to close."""
        if message is None:
            self._ready.set()
        elif message.exit_code is not None and message.request in self._processes and not fds:
            self._processes.remove(message.request)
            self._on_exit(message.request, message.exit_code)
        else:
            self._answer(message, fds)

    def _answer(self, message: Message, fds: list[int]) -> None:
        waiting = self._waiting.get(message.request)
        if waiting is None or waiting.message is not None or len(fds) > (waiting.adopt is not None):
            raise ChannelError("an answer to nothing, or with a descriptor that was not asked for")
        if fds and waiting.adopt is not None:
            waiting.adopted = waiting.adopt(fds.pop())
            if waiting.adopted is None:
                raise ChannelError("a descriptor is not what was asked for")
        if message.pid is not None:
            self._processes.add(message.request)
        waiting.message = message
        waiting.done.set()
