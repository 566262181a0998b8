"""The self-test: launches a sandbox as any other and lets a canary look for a way out (`canary.py`)."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
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
from sandbox_tools.local.state import remove_tree
from sandbox_tools.wire.process import Command, OutputData

TIMEOUT_S: Final = 20.0


async def run(launcher: Launcher | None, minimum: str | None) -> IsolationReport:
    """Test this machine; see `isolation.probe`."""
    if launcher is not None:
        return await _choose(launcher)
    try:
        own = Launcher(host_layout(), kinds=launchers_for(minimum))
    except ConfigurationError as error:
        return IsolationReport(level="none", reason=str(error))
    try:
        return await _choose(own)
    finally:
        own.close()


async def _choose(launcher: Launcher) -> IsolationReport:
    """Let it use the first kind that passes."""
    reasons: list[str] = []
    for kind in launcher.kinds:
        launcher.use(kind)
        reason = await _reason(launcher)
        if not reason:
            return available(kind)
        reasons.append(f"{kind}: {reason}")
    return unavailable("; ".join(reasons))


async def _reason(launcher: Launcher) -> str:
    """Return what is wrong with the kind in use, or ""."""
    reason = "the self-test did not end in time"
    with anyio.move_on_after(TIMEOUT_S):
        try:
            reason = await _launch_canary(launcher)
        except (LaunchError, OSError) as error:
            reason = str(error)
    return reason


def _passable_directory() -> Path:
    """Without namespaces the sandbox's user must be able to pass through."""
    directory = Path(tempfile.mkdtemp(prefix="sandbox-tools-"))
    directory.chmod(0o711)
    return directory


async def _launch_canary(launcher: Launcher) -> str:
    directory = _passable_directory()
    try:
        workspace, uid = directory / "workspace", spare_uid()
        workspace.mkdir()
        if uid is not None:
            shutil.chown(workspace, uid, uid)
        host_file = directory / "canary"
        host_file.write_text("canary")
        host_file.chmod(0o644)
        return await _run_canary(launcher, workspace, uid, host_file)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove_tree, directory)


async def _run_canary(launcher: Launcher, workspace: Path, uid: int | None, host_file: Path) -> str:
    launched = await launcher.launch(workspace, uid)
    async with anyio.create_task_group() as tasks:
        sandbox = Sandbox(launched, background=Background(tasks))
        tasks.start_soon(sandbox.serve)
        try:
            reason = await _findings(sandbox, {"level": available(launcher.kind).level, "file": str(host_file)})
        except (ChannelError, AgentError) as error:  # here, because it would leave the task group in a group
            reason = f"the self-test could not run inside the sandbox: {error}"
        finally:
            with anyio.CancelScope(shield=True):
                await sandbox.close()
    return reason


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
