"""`sandbox-tools local`: the local sandbox service in the foreground, or as the child of a toolset."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from pathlib import Path

import anyio
import anyio.from_thread
import typer

from sandbox_tools.local.server import serve


def run_local(*, port: int, api_key_file: Path | None, child: bool) -> None:
    """Serve until SIGTERM, SIGINT or, as a child, the end of stdin."""
    if child:
        api_key = sys.stdin.buffer.readline(1024).decode("ascii", "replace").strip()
    else:
        api_key = _api_key(api_key_file)
    anyio.run(_serve, port, api_key, child)


def _api_key(api_key_file: Path | None) -> str:
    if api_key_file is not None:
        key = api_key_file.read_text(encoding="utf-8").strip()
        if not key:
            raise typer.BadParameter(f"{api_key_file} is empty.", param_hint="--api-key-file")
        return key
    if key := os.environ.get("SEACLOUD_API_KEY", "").strip():
        return key
    key = secrets.token_urlsafe(32)
    # The one place that shows a key: to the person at the terminal, who has no other way to get it.
    print(f"export SEACLOUD_API_KEY={key}", file=sys.stderr)  # noqa: T201
    return key


async def _serve(port: int, api_key: str, child: bool) -> None:
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, stop)
        if child:
            _stop_at_end_of_input(stop)
        await serve(port=port, api_key=api_key, on_ready=_print_line, stop=stop)
        tasks.cancel_scope.cancel()


async def _stop_on_signal(stop: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop.set()


def _stop_at_end_of_input(stop: anyio.Event) -> None:
    token = anyio.lowlevel.current_token()

    def wait() -> None:
        # A daemon thread with a blocking read: the end of the parent is seen at once, however it ended.
        while os.read(0, 4096):
            pass
        anyio.from_thread.run_sync(stop.set, token=token)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def _print_line(base_url: str) -> None:
    print(base_url, flush=True)  # noqa: T201
