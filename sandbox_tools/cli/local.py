"""`sandbox-tools local`: the local sandbox service in the foreground, or as the child of a toolset."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import typer

from sandbox_tools.cli.secret_files import kept_secret
from sandbox_tools.cli.serving import serve_until_signal
from sandbox_tools.errors import ConfigurationError, WeakSecretError
from sandbox_tools.local.isolation import LauncherKind, launchers_for
from sandbox_tools.local.server import serve
from sandbox_tools.redaction import default_registry

if TYPE_CHECKING:
    from sandbox_tools.local.inject import Injector


def run_local(*, port: int, api_key_file: Path | None, min_isolation: str | None, child: bool) -> None:
    """Serve until SIGTERM, SIGINT or, as a child, the end of stdin."""
    try:
        launchers = launchers_for(min_isolation)
    except ConfigurationError as error:
        raise typer.BadParameter(str(error), param_hint="--min-isolation") from None
    api_key = _line_from_parent() if child else _api_key(api_key_file)
    with contextlib.suppress(WeakSecretError):  # a user may choose a key that is too short to be redacted
        default_registry().register("API_KEY", api_key)
    injector = _injector(_line_from_parent()) if child else None
    try:
        anyio.run(_serve, port, api_key, launchers, child, injector)
    except (ConfigurationError, OSError) as error:
        raise typer.BadParameter(str(error)) from None


def _line_from_parent() -> str:
    return sys.stdin.buffer.readline().decode("ascii", "replace").strip()


def _injector(line: str) -> Injector | None:
    if not line:
        return None
    from sandbox_tools.local.inject import Injector  # noqa: PLC0415 - heavy, and few services have anything for it

    return Injector.from_json(line)


def _api_key(api_key_file: Path | None) -> str:
    if api_key_file is not None:
        key = api_key_file.read_text(encoding="utf-8").strip()
        if not key:
            raise typer.BadParameter(f"{api_key_file} is empty.", param_hint="--api-key-file")
        return key
    return os.environ.get("SEACLOUD_API_KEY", "").strip() or _new_key()


def _new_key() -> str:
    file, key = kept_secret("api-key")
    print(f'The API key is in {file}: export SEACLOUD_API_KEY="$(cat {file})"', file=sys.stderr)  # noqa: T201
    return key


async def _serve(
    port: int, api_key: str, launchers: Sequence[LauncherKind], child: bool, injector: Injector | None
) -> None:
    async def run(stop: anyio.Event) -> None:
        if child:
            _stop_at_end_of_input(stop)
        await serve(
            port=port,
            api_key=api_key,
            on_ready=_print_line if child else _print_how_to_use,
            stop=stop,
            keep_paused=not child,
            launchers=launchers,
            injector=injector,
        )

    await serve_until_signal(run)


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


def _print_how_to_use(base_url: str) -> None:
    _print_line(base_url)
    print(f"Use it from another terminal: sandbox-tools sandbox --base-url {base_url} list", file=sys.stderr)  # noqa: T201
