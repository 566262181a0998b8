"""Starts the processes of sandboxes: the self-test before the first, those kept ready, new ones and resumed ones."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from sandbox_tools.local import volumes
from sandbox_tools.local.addresses import policy_of
from sandbox_tools.local.background import Background
from sandbox_tools.local.channel import AgentError, ChannelError
from sandbox_tools.local.egress import NoNetworkError
from sandbox_tools.local.errors import IsolationMissingError
from sandbox_tools.local.eventlog import EventLog
from sandbox_tools.local.isolation import IsolationReport, needs_namespaces, probe, unavailable
from sandbox_tools.local.launcher import Launcher, LaunchError, spare_uid, volumes_uid
from sandbox_tools.local.limits import Limits
from sandbox_tools.local.pool import Pool, Ready
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.state import Home, State
from sandbox_tools.wire.control import NewSandbox, VolumeMount
from sandbox_tools.wire.envelope import WireError

if TYPE_CHECKING:
    from sandbox_tools.local.inject import Injector

READY_TIMEOUT_S: Final = 10.0

_log: Final = logging.getLogger(__name__)


class Starter:
    """Starts sandboxes, if this machine can isolate them."""

    def __init__(
        self, *, launcher: Launcher, state: State, limits: Limits, background: Background, injector: Injector | None
    ) -> None:
        self._launcher = launcher
        self._limits = limits
        self._state = state
        self._background = background
        self._injector = injector
        self._report: IsolationReport | None = None
        self._testing = anyio.Lock()
        self._pool = Pool(self._launch, background=background)

    async def isolation(self) -> IsolationReport:
        """Return the self-test's result; it runs until it has passed once: a full disk, say, is not for ever."""
        async with self._testing:
            if self._report is None or self._report.level == "none":
                self._report = self._limits.report(await probe(self._launcher, state=self._state))
                if self._report.level != "none":
                    self._pool.fill()
            return self._report

    @property
    def report(self) -> IsolationReport:
        """What the self-test said last."""
        return self._report or unavailable("the self-test has not ended yet")

    async def check(self, new: NewSandbox) -> None:
        """See to it that such a sandbox can be started here.

        Raises:
            IsolationMissingError: None can.
            NoNetworkError: It cannot be given a network.
            WireError: A volume cannot be mounted where it should be.
        """
        report = await self.isolation()
        has_namespaces = report.level == "namespaces"
        if report.level == "none":
            raise IsolationMissingError(report)
        if policy_of(new.network).is_open and not has_namespaces:
            raise NoNetworkError(needs_namespaces("network rules"))
        if new.volume_mounts and not has_namespaces:
            raise WireError(needs_namespaces("volumes (volumeMounts)"))
        volumes.check(new.volume_mounts, self._launcher.layout)

    async def start(self, mounts: Sequence[VolumeMount]) -> Ready:
        """Return a new sandbox; without volumes it is one that was kept ready, if there is one.

        Raises:
            IsolationMissingError: The machine did not allow it.
        """
        try:
            return (None if mounts else self._pool.take()) or await self._launch(mounts)
        except LaunchError as error:
            raise _missing(error) from None

    async def restart(self, home: Home, log: EventLog, mounts: Sequence[VolumeMount]) -> Sandbox:
        """Start the processes of a paused sandbox on its files.

        Raises:
            IsolationMissingError: The machine did not allow it.
        """
        try:
            return await self._start(home, log, mounts)
        except LaunchError as error:
            raise _missing(error) from None

    async def close(self) -> None:
        """End all that are kept ready."""
        await self._pool.close()

    async def _launch(self, mounts: Sequence[VolumeMount] = ()) -> Ready:
        sandbox_id = f"sb-{secrets.token_hex(10)}"
        uid = volumes_uid() if mounts else await anyio.to_thread.run_sync(spare_uid, self._state.uids())
        home = self._state.new_home(sandbox_id, uid)
        try:
            sandbox = await self._start(home, EventLog(), mounts)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(home.remove)
            raise
        return Ready(sandbox_id=sandbox_id, home=home, sandbox=sandbox)

    async def _start(self, home: Home, log: EventLog, mounts: Sequence[VolumeMount]) -> Sandbox:
        """Start the processes of a sandbox on its files.

        Raises:
            LaunchError: The machine does not allow it.
        """
        sandbox = None
        try:
            places = [(self._state.volume(mount.name, home.uid), mount.path) for mount in mounts]
            launched = await self._launcher.launch(home.workspace, home.uid, places)
            # A name of its own: when a sandbox is resumed, the group of its former processes may still be there.
            confined = await self._limits.confine(f"{home.path.name}-{secrets.token_hex(4)}", launched)
            sandbox = Sandbox(launched, background=self._background, log=log, injector=self._injector)
            volumes_of_it = tuple(directory for directory, _ in places)
            self._background.start(partial(self._limits.serve, sandbox, home.workspace, volumes_of_it, confined))
            with anyio.fail_after(READY_TIMEOUT_S):
                await sandbox.channel.wait_until_ready()
                if self.report.level == "namespaces":
                    await sandbox.prepare_network()
        except BaseException as error:
            if sandbox is not None:
                with anyio.CancelScope(shield=True):
                    await sandbox.close()
            if isinstance(error, (AgentError, ChannelError, TimeoutError)):
                raise LaunchError("the agent ended early") from None
            raise
        return sandbox


def _missing(error: LaunchError) -> IsolationMissingError:
    _log.warning("a sandbox could not be started: %s", error)
    return IsolationMissingError(unavailable(str(error)))
