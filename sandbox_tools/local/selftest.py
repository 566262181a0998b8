"""The self-test: launches a sandbox as any other and lets a canary look for a way out (`canary.py`)."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anyio

from sandbox_tools.errors import ConfigurationError
from sandbox_tools.local.background import Background
from sandbox_tools.local.channel import AgentError, ChannelError
from sandbox_tools.local.isolation import IsolationReport, available, launchers_for, unavailable
from sandbox_tools.local.launcher import Launcher, LaunchError, spare_uid
from sandbox_tools.local.layout import host_layout
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.state import State, state_for
from sandbox_tools.wire.process import Command, OutputData

TIMEOUT_S: Final = 20.0


async def run(launcher: Launcher | None, state: State | None, minimum: str | None) -> IsolationReport:
    """Test this machine; see `isolation.probe`."""
    if launcher is not None and state is not None:
        return await _choose(launcher, state)
    try:
        kinds = launchers_for(minimum)
        own = Launcher(host_layout(), kinds=kinds)
    except ConfigurationError as error:
        return IsolationReport(level="none", reason=str(error))
    state = state_for(kinds)
    try:
        state.prepare()
        return await _choose(own, state)
    except OSError as error:
        return IsolationReport(level="none", reason=f"{state.directory}: {error.strerror}")
    finally:
        own.close()


async def _choose(launcher: Launcher, state: State) -> IsolationReport:
    """Let it use the first kind that passes."""
    reasons: list[str] = []
    for kind in launcher.kinds:
        launcher.use(kind)
        reason = await _reason(launcher, state)
        if not reason:
            return available(kind)
        reasons.append(f"{kind}: {reason}")
    return unavailable("; ".join(reasons))


async def _reason(launcher: Launcher, state: State) -> str:
    """Return what is wrong with the kind in use, or ""."""
    reason = "the self-test did not end in time"
    with anyio.move_on_after(TIMEOUT_S):
        try:
            reason = await _launch_canary(launcher, state)
        except (LaunchError, OSError) as error:
            reason = str(error)
    return reason


async def _launch_canary(launcher: Launcher, state: State) -> str:
    """In a place like that of any sandbox: if this process is killed, the next service deletes what is left."""
    uid = await anyio.to_thread.run_sync(spare_uid, state.uids())
    home = state.new_home(f"self-test-{secrets.token_hex(8)}", uid)
    try:
        host_file = home.path / "canary"
        host_file.write_text("canary")
        host_file.chmod(0o644)
        return await _run_canary(launcher, home.workspace, uid, host_file)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(home.remove)


async def _run_canary(launcher: Launcher, workspace: Path, uid: int | None, host_file: Path) -> str:
    launched = await launcher.launch(workspace, uid)
    async with anyio.create_task_group() as tasks:
        sandbox = Sandbox(launched, background=Background(tasks))
        tasks.start_soon(sandbox.serve)
        try:
            reason = await _findings(sandbox, _host(launcher, host_file))
        except (ChannelError, AgentError) as error:  # here, because it would leave the task group in a group
            reason = f"the self-test could not run inside the sandbox: {error}"
        finally:
            with anyio.CancelScope(shield=True):
                await sandbox.close()
    return reason


def _host(launcher: Launcher, host_file: Path) -> dict[str, str]:
    level = available(launcher.kind).level
    shared = level == "landlock" and os.getuid() != 0
    return {"level": level, "user": "shared" if shared else "own", "file": str(host_file)}


async def _findings(sandbox: Sandbox, host: dict[str, str]) -> str:
    await sandbox.channel.wait_until_ready()
    with _host_listeners() as addresses:
        return await _look_around(sandbox, {**addresses, **host, "pid": str(os.getpid())})


async def _look_around(sandbox: Sandbox, host: dict[str, str]) -> str:
    """Run the canary and return what it found."""
    program = Path(__file__).with_name("canary.py").read_text()
    python = f"{sys.base_prefix}/bin/python3"
    process = await sandbox.start(Command(cmd=python, args=("-I", "-S", "-c", program, json.dumps(host))))
    output = {"stdout": b"", "stderr": b""}
    with process.subscribe() as events:
        async for event in events:
            if isinstance(event, OutputData):
                output[event.stream] = (output[event.stream] + event.data)[:4096]
    try:
        found = json.loads(output["stdout"])
    except ValueError:
        last = output["stderr"].decode("utf-8", "replace").strip().splitlines()[-1:]
        return f"the self-test did not run inside the sandbox: {' '.join(last)}"
    return "; ".join(found)


@contextmanager
def _host_listeners() -> Iterator[dict[str, str]]:
    """Listen on things of the host that a sandbox must not reach."""
    name = f"sandbox-tools-{secrets.token_hex(8)}"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        abstract.bind(f"\0{name}")
        abstract.listen()
        yield {"port": str(tcp.getsockname()[1]), "abstract": name}
