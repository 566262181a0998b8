"""Starts the zygote and asks it for sandboxes. The host's side of `zygote.py`."""

from __future__ import annotations

import array
import json
import os
import pwd
import secrets
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import anyio

from sandbox_tools.local import bwrap, native
from sandbox_tools.local.isolation import LAUNCHER_KINDS, LauncherKind
from sandbox_tools.local.layout import Layout

LAUNCH_TIMEOUT_S: Final = 15.0

_MAX_MESSAGE_BYTES: Final = 65_536
_SPARE_UIDS: Final = ((1_870_000_000, 9_000_000), (40_000, 20_000))
"""First and number of user ids that nobody has, for a server that runs as root; the second where few are mapped."""

_UID_ATTEMPTS: Final = 100

_BOOTSTRAP: Final = """\
import json, socket, sys, types
control = socket.socket(fileno=0)
layout = json.loads(control.recv(65536))
sys.modules["sandbox_tools"] = package = types.ModuleType("sandbox_tools")
package.__path__ = [layout.pop("package")]
from sandbox_tools.local.zygote import main
main(control, layout)
"""
"""The package without its __init__: a zygote needs none of the libraries that the public API imports. No path is in it,
because programs in a sandbox can read the command line of PID 1."""


class LaunchError(Exception):
    """This machine could not start a sandbox. The message names the step and the kernel's answer."""


@dataclass(frozen=True, slots=True)
class Launched:
    """A new sandbox.

    Attributes:
        control: Our end of its agent's control socket.
        pidfd: Of the agent.
        supervisor: A pidfd that is readable when every process is gone; -1 where the agent is PID 1, whose own end says
            that.
    """

    control: socket.socket
    pidfd: int
    supervisor: int = -1

    @property
    def has_network(self) -> bool:
        """Whether it has a network namespace, where programs may listen; without, they can make no socket."""
        return self.supervisor < 0

    def kill(self) -> None:
        """End the agent, and so every process in the sandbox."""
        native.pidfd_kill(self.pidfd, 9)

    async def wait_until_gone(self) -> None:
        """Return when no process is left."""
        await anyio.wait_readable(self.pidfd)
        if self.supervisor >= 0:
            await anyio.wait_readable(self.supervisor)

    def close(self) -> None:
        """Give the pidfds back; the control socket has an owner of its own."""
        for fd in (self.pidfd, self.supervisor):
            if fd >= 0:
                os.close(fd)


class Launcher:
    """Owns the zygote. It is started by the first launch, and again if it ended.

    Attributes:
        kinds: What it may launch with, in the order of preference.
        kind: What it launches with.
    """

    def __init__(self, layout: Layout, *, kinds: Sequence[LauncherKind] = LAUNCHER_KINDS) -> None:
        self.kinds: Final = tuple(kinds)
        self.kind: LauncherKind = self.kinds[0]
        self.layout: Final = layout
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._starting = anyio.Lock()

    async def launch(self, workspace: Path, uid: int | None, volumes: Sequence[tuple[Path, str]] = ()) -> Launched:
        """Start a sandbox on a workspace that `uid` owns (None: our own user).

        Args:
            volumes: More directories and their paths inside, which `volumes.check` has passed.

        Raises:
            LaunchError: The machine does not allow it, or it took too long.
        """
        launched = None
        with anyio.move_on_after(LAUNCH_TIMEOUT_S):
            control = await self._running_zygote()
            launched = await _launch(control, workspace, uid, volumes)
        if launched is None:
            raise LaunchError("the launcher did not answer in time")
        return launched

    def use(self, kind: LauncherKind) -> None:
        """Launch with another kind from now on; ends what was launched with the one before."""
        if kind != self.kind:
            self.close()
            self.kind = kind

    def close(self) -> None:
        """End the zygote, and with it every sandbox that it started."""
        if self._control is not None:
            self._control.close()
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()
        self._control = self._zygote = None

    async def _running_zygote(self) -> socket.socket:
        async with self._starting:
            if self._zygote is not None and self._zygote.poll() is not None:
                self.close()
            if self._control is None:
                try:
                    self._start()
                except OSError as error:
                    raise LaunchError(f"{_interpreter()}: {error.strerror}") from None
                await self._hand_over_layout()
            if self._control is None:
                raise LaunchError("the launcher could not be started")
            return self._control

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._zygote = subprocess.Popen(
                [_interpreter(), "-I", "-S", "-B", "-c", _BOOTSTRAP],
                env={},
                cwd="/",
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is for the server, which then ends this in order
            )
        ours.setblocking(False)
        self._control = ours

    async def _hand_over_layout(self) -> None:
        control = self._control
        if control is None:
            return
        control.send(json.dumps(self._orders()).encode())
        await anyio.wait_readable(control)
        failure = _error_in(control.recv(_MAX_MESSAGE_BYTES) or b'{"error": "the launcher ended"}')
        if failure:
            self.close()
            raise LaunchError(failure)

    def _orders(self) -> dict[str, object]:
        package = str(Path(__file__).parent.parent)
        layout = asdict(self.layout)
        if self.kind == "bwrap":
            layout["binds"] = (*layout["binds"], (f"{package}/guest", f"{bwrap.GUEST_DIRECTORY}/guest"))
        return {"package": package, "kind": self.kind, "python": _interpreter(), **layout}


def _interpreter() -> str:
    """Return the real executable: in a virtual environment, and behind a version manager, `python3` is another."""
    # On Python 3.10 the base executable of a virtual environment may itself be a link in it.
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def spare_uid(taken: Collection[int] = ()) -> int | None:
    """Return a user id for one sandbox when we are root, else None. Blocks: user names may come from a network.

    Args:
        taken: By sandboxes whose files are there, whether they run or not.

    Raises:
        LaunchError: This user namespace maps no id that is free.
    """
    if os.getuid() != 0:
        return None
    for first, count in _SPARE_UIDS:
        if _is_mapped(first) and _is_mapped(first + count):
            for _ in range(_UID_ATTEMPTS):
                uid = first + 1 + secrets.randbelow(count)  # the first is `volumes_uid`
                if uid not in taken and not _is_somebody(uid):
                    return uid
    raise LaunchError("there is no spare user id in this user namespace")


def _is_somebody(uid: int) -> bool:
    """Whether an id has a name on this machine, or a process."""
    with suppress(KeyError):
        pwd.getpwuid(uid)
        return True
    with suppress(ProcessLookupError):
        os.getpriority(os.PRIO_USER, uid)
        return True
    return False


def volumes_uid() -> int | None:
    """Return the user id of all sandboxes with volumes when we are root, else None: they can share a volume.

    Raises:
        LaunchError: This user namespace maps no id that is free.
    """
    if os.getuid() != 0:
        return None
    for first, _ in _SPARE_UIDS:
        if _is_mapped(first):
            return first
    raise LaunchError("there is no spare user id in this user namespace")


def _is_mapped(uid: int) -> bool:
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = (int(field) for field in line.split())
        if first <= uid < first + count:
            return True
    return False


async def _launch(
    control: socket.socket, workspace: Path, uid: int | None, volumes: Sequence[tuple[Path, str]]
) -> Launched:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    outcome, their_outcome = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request = json.dumps(
        {"workspace": str(workspace), "uid": uid, "volumes": [[str(source), target] for source, target in volumes]}
    ).encode()
    with outcome:
        try:
            with theirs, their_outcome:
                rights = array.array("i", [theirs.fileno(), their_outcome.fileno()])
                control.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            pidfds = await _wait_for_outcome(outcome)
        except BaseException:
            ours.close()  # the agent ends when its control socket does
            raise
    return Launched(ours, *pidfds)


async def _wait_for_outcome(outcome: socket.socket) -> list[int]:
    """Return the pidfds once the launch is complete. What comes here was sent before any sandboxed code ran."""
    outcome.setblocking(False)
    pidfds, failure = array.array("i"), ""
    while True:
        await anyio.wait_readable(outcome)
        data, ancillary, _, _ = outcome.recvmsg(_MAX_MESSAGE_BYTES, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC)
        for item in ancillary:
            pidfds.frombytes(item[2])
        if not data:
            break
        failure = failure or _error_in(data)
    if failure or not pidfds:
        for pidfd in pidfds:
            os.close(pidfd)
        raise LaunchError(failure or "the launcher ended early")
    return list(pidfds)


def _error_in(data: bytes) -> str:
    message: Mapping[str, object] = json.loads(data)
    return str(message.get("error", ""))
