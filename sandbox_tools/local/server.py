"""Runs the local sandbox service on 127.0.0.1."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import uvicorn

from sandbox_tools.local.app import build_app
from sandbox_tools.local.background import Background
from sandbox_tools.local.cgroups import Cgroups
from sandbox_tools.local.connections import Connection
from sandbox_tools.local.isolation import LAUNCHER_KINDS, LauncherKind
from sandbox_tools.local.launcher import Launcher
from sandbox_tools.local.layout import host_layout
from sandbox_tools.local.limits import Limits
from sandbox_tools.local.registry import Registry
from sandbox_tools.local.state import state_for
from sandbox_tools.local.watchdog import Bounds
from sandbox_tools.local.websocket import WebSockets

if TYPE_CHECKING:
    from sandbox_tools.local.inject import Injector

SHUTDOWN_S: Final = 2.0
"""Time to end all sandboxes; what is left of their files then is removed by the next service."""

_MAX_HEADER_BYTES: Final = 65_536
_MAX_FILES: Final = 65_536


async def serve(
    *,
    port: int,
    api_key: str,
    on_ready: Callable[[str], None],
    stop: anyio.Event | None = None,
    max_sandboxes: int = 50,
    state_dir: Path | None = None,
    keep_paused: bool = True,
    launchers: Sequence[LauncherKind] = LAUNCHER_KINDS,
    bounds: Bounds | None = None,
    injector: Injector | None = None,
) -> None:
    """Serve until `stop` is set or this is cancelled, then end every sandbox.

    Args:
        port: To listen on, on 127.0.0.1 only; 0 is any free one.
        api_key: What callers of the control plane must send. Secret.
        on_ready: Called with the base URL when requests are answered.
        state_dir: Where the files of sandboxes are kept.
        launchers: The first of them that passes the self-test makes the sandboxes.
        keep_paused: Leave paused sandboxes to the next service, and take over those that another left.
        bounds: What a sandbox may take of the machine.
        injector: Puts secrets into requests that leave the sandboxes.

    Raises:
        ConfigurationError: The interpreter lies where a sandbox has its own files.
        OSError: The port is taken, or the state directory cannot be made.
    """
    state = state_for(launchers, state_dir)
    state.prepare()
    _allow_many_files()
    launcher = Launcher(host_layout(), kinds=launchers)
    limits = Limits(Cgroups.open(), bounds)
    with _listen(port) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with anyio.create_task_group() as tasks:
                background = Background(tasks)
                registry = Registry(
                    launcher=launcher,
                    state=state,
                    limits=limits,
                    max_sandboxes=max_sandboxes,
                    background=background,
                    keep_paused=keep_paused,
                    injector=injector,
                )
                registry.adopt(state.paused())
                background.start(limits.run)
                background.start(registry.isolation)  # so that the first create need not wait for it
                background.start(partial(anyio.to_thread.run_sync, state.remove_abandoned))
                app, sockets = build_app(registry, api_key=api_key, address=address)
                server = _Server(app, sockets, lambda: on_ready(f"http://{address}"))
                try:
                    await _run(server, listener, stop, registry)
                finally:
                    with anyio.move_on_after(SHUTDOWN_S, shield=True):
                        await registry.end_all()
                    tasks.cancel_scope.cancel()
        finally:
            launcher.close()
            limits.close()


async def _run(server: _Server, listener: socket.socket, stop: anyio.Event | None, registry: Registry) -> None:
    async with anyio.create_task_group() as tasks:
        if stop is not None:
            tasks.start_soon(_stop_when_set, server, stop, registry)
        try:
            await server.serve(sockets=[listener])
        finally:
            tasks.cancel_scope.cancel()


async def _stop_when_set(server: _Server, stop: anyio.Event, registry: Registry) -> None:
    """End the sandboxes while the server stops: it waits for open streams, and these end with their sandbox."""
    await stop.wait()
    server.should_exit = True
    await registry.end_all()


def _allow_many_files() -> None:
    """A connection takes one descriptor and a process three; the usual soft limit, 1024, is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _MAX_FILES)), hard))


def _listen(port: int) -> socket.socket:
    # Named as TCP, because asyncio turns Nagle's delay (40 ms) off only for such sockets.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers and its output: signals and stdout are the command's."""

    def __init__(self, app: Callable[..., Any], sockets: WebSockets, on_ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws=sockets,  # type: ignore[arg-type]  # called with arguments, as the class would be
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        )
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_ready()
