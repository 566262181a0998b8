"""`sandbox-tools sandbox connect`: a terminal in a sandbox."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from sandbox_tools.cli.sandbox_exec import runtime_of
from sandbox_tools.cli.sandbox_live import LiveOutput
from sandbox_tools.cli.sandbox_session import Session
from sandbox_tools.cli.sandbox_work import FACTS
from sandbox_tools.client.process import RemoteProcess
from sandbox_tools.errors import SandboxRequestError
from sandbox_tools.redaction import Redactor
from sandbox_tools.wire.process import Command, Ended, OutputData, TerminalSize

_SHELL: Final = 'if [ -n "$1" ]; then exec "$1"; elif command -v bash >/dev/null; then exec bash; else exec sh; fi'


async def connect(session: Session, sandbox_id: str, shell: str, form: str | None) -> int:
    """Open a terminal; or resume the sandbox and print its state."""
    if form is not None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        with session.waiting(f"Connecting to {sandbox_id}"):
            await session.control.connect(sandbox_id)
        session.show(form or "table", await session.control.get(sandbox_id), FACTS)
        return 0
    async with runtime_of(session, sandbox_id) as runtime:
        command = Command(
            cmd="/bin/sh",
            args=("-c", _SHELL, "sh", shell),
            envs={"TERM": os.environ.get("TERM", "xterm")},
            pty=_size(),
        )
        process = await runtime.start(command)
        with _raw_terminal():
            code = await _attached(process, session.redactor)
        if code is None:
            session.say("The connection to the terminal was lost.")
        return 1 if code is None else code & 0xFF


async def _attached(process: RemoteProcess, redactor: Redactor) -> int | None:
    """Pass keys and output on until the program ends; return its exit code, or None when the connection was lost."""
    screen = LiveOutput(redactor, _write)
    code: int | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_pass_keys, process)
        tasks.start_soon(_pass_size, process)
        tasks.start_soon(screen.settle)
        try:
            async for event in process.events():
                if isinstance(event, OutputData):
                    screen.feed(event.data)
                elif isinstance(event, Ended):
                    code = await process.exit_code(event)
        except SandboxRequestError:
            code = None
        screen.show_held()
        tasks.cancel_scope.cancel()
    with anyio.CancelScope(shield=True):
        await process.aclose()
    return code


async def _pass_keys(process: RemoteProcess) -> None:
    while True:
        await anyio.wait_readable(0)
        keys = os.read(0, 4096)
        if not keys:
            return
        try:
            await process.send_input(keys)
        except SandboxRequestError:
            return  # the program has ended, which its events say as well


async def _pass_size(process: RemoteProcess) -> None:
    with anyio.open_signal_receiver(signal.SIGWINCH) as changes:
        async for _ in changes:
            try:
                await process.resize(_size())
            except SandboxRequestError:
                return


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _size() -> TerminalSize:
    size = os.get_terminal_size(1)
    return TerminalSize(cols=size.columns or 80, rows=size.lines or 24)


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the program, Ctrl-C too."""
    import termios  # noqa: PLC0415 - POSIX only
    import tty  # noqa: PLC0415 - POSIX only

    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
