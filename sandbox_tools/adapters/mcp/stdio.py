"""MCP over stdin and stdout: one client, one process, one toolset, and an end that leaves nothing behind."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage

from sandbox_tools.adapters.mcp.guard import RedactedWriteStream
from sandbox_tools.adapters.mcp.server import create_server
from sandbox_tools.errors import SandboxToolsError
from sandbox_tools.redaction import RedactingFormatter, Redactor
from sandbox_tools.toolset import Toolset

EXIT_S: Final = 1.9
"""From the first reason to stop to the end of the process, in seconds, whatever hangs.

Clients close stdin, wait 2 s and then kill (mcp/client/stdio.py). What is left to delete then ends by its own means:
the local service ends with this process, and a sandbox in the cloud at the end of its time to live.
"""

PARENT_POLL_S: Final = 0.25
"""How often to look whether the parent lives: a dead client's pipe may be held open by another process."""

_logger = logging.getLogger("sandbox_tools.mcp")

Inbound: TypeAlias = SessionMessage | Exception
"""What the SDK reads: a message, or why a line was not one."""


async def serve_stdio(open_toolset: Callable[[], AbstractAsyncContextManager[Toolset]]) -> None:
    """Serve MCP until the client closes stdin, a signal asks to stop, or the parent dies.

    Running calls are cancelled and the toolset is closed first, which deletes the sandboxes that it owns. It returns
    only when stdin has ended. After any other reason a thread still blocks on stdin and cannot be joined, so the
    process ends here: with status 0 when it was asked to, with 1 when the toolset did not open or stdout broke.
    """
    async with stdio_server() as (read, write):
        stdin_ended, status = False, 1
        try:
            async with open_toolset() as toolset:
                log_to_stderr(toolset.redactor)
                _logger.info("the tools run in %s", toolset.where)
                stdin_ended = await _serve(toolset, read, RedactedWriteStream(write, toolset.redactor))
            status = 0
        except SandboxToolsError as exc:
            sys.stderr.write(f"sandbox-tools: {exc}\n")
        except Exception as exc:  # noqa: BLE001 - the text of a foreign exception may hold a secret
            sys.stderr.write(f"sandbox-tools: stopped by an unexpected {type(exc).__name__}\n")
        finally:
            if not stdin_ended:
                os._exit(status)


def main(
    *,
    internet: bool = False,
    min_isolation: str | None = None,
    private_previews: bool = False,
    redact_unknown_tokens: bool = True,
    secrets: Collection[str] = (),
    envs: Collection[str] = (),
) -> None:
    """Serve the default toolset: SeaCloud when `SEACLOUD_API_KEY` is set, else a local sandbox.

    `secrets` and `envs` are names of variables of this process.
    """
    anyio.run(
        serve_stdio,
        lambda: Toolset.open(
            internet=internet,
            min_isolation=min_isolation,
            private_previews=private_previews,
            redact_unknown_tokens=redact_unknown_tokens,
            secrets=secrets,
            envs=envs,
        ),
    )


def log_to_stderr(redactor: Redactor) -> None:
    """Make stderr the only place of logs, redacted. The process is ours, so the root logger is too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(logging.Formatter("sandbox-tools: %(message)s"), redactor))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("sandbox_tools").setLevel(logging.INFO)


async def _serve(toolset: Toolset, read: AsyncIterable[Inbound], write: RedactedWriteStream) -> bool:
    """Serve until there is a reason to stop; return whether it was the end of stdin."""
    server = create_server(toolset)
    relay, messages = anyio.create_memory_object_stream[Inbound]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_relay, read, relay)
        if os.name == "posix":
            tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
            tasks.start_soon(_stop_when_orphaned, tasks.cancel_scope)
        await server.run(messages, write, server.create_initialization_options())
        tasks.cancel_scope.cancel()
        return True
    return False


async def _relay(read: AsyncIterable[Inbound], relay: MemoryObjectSendStream[Inbound]) -> None:
    """Pass messages on; the end of stdin starts the clock while calls still run."""
    async with relay:
        async for message in read:
            await relay.send(message)
        _exit_soon()


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for _ in signals:
            _exit_soon()
            scope.cancel()


async def _stop_when_orphaned(scope: anyio.CancelScope) -> None:
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - no event tells it on every POSIX system
        await anyio.sleep(PARENT_POLL_S)
    _exit_soon()
    scope.cancel()


def _exit_soon() -> None:
    timer = threading.Timer(EXIT_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
