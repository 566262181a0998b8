"""The sandboxes of a service: create, look up, keep alive, end."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from sandbox_tools.local.addresses import policy_of
from sandbox_tools.local.background import Background
from sandbox_tools.local.entry import DEFAULT_TTL_S, KEEP_PAUSED_S, Entry, Running, paused_entry
from sandbox_tools.local.errors import NotPausableError, SandboxLimitError
from sandbox_tools.local.isolation import IsolationReport
from sandbox_tools.local.launcher import Launcher
from sandbox_tools.local.limits import Limits
from sandbox_tools.local.paused import record_from_bytes, record_to_bytes
from sandbox_tools.local.preview import Previews
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.starter import Starter
from sandbox_tools.local.state import Home, State
from sandbox_tools.wire.control import NewSandbox
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.network import NetworkRules

if TYPE_CHECKING:
    from sandbox_tools.local.inject import Injector

MAX_PAUSED_EACH: Final = 4
"""Paused sandboxes for each one that may run: each takes memory, disk and a descriptor."""

_log: Final = logging.getLogger(__name__)


class Registry:
    """All sandboxes.

    Attributes:
        state: Where their files are, and the volumes.
    """

    def __init__(
        self,
        *,
        launcher: Launcher,
        state: State,
        limits: Limits,
        max_sandboxes: int,
        background: Background,
        keep_paused: bool = True,
        injector: Injector | None = None,
    ) -> None:
        self._starter = Starter(launcher=launcher, state=state, limits=limits, background=background, injector=injector)
        self._background = background
        self._entries: dict[str, Entry] = {}
        self._spawned: dict[str, tuple[int, float]] = {}
        self._keep_paused = keep_paused
        self._starting = 0
        self.state: Final = state
        self.max_sandboxes: Final = max_sandboxes

    async def isolation(self) -> IsolationReport:
        """Return the self-test's result."""
        return await self._starter.isolation()

    @property
    def report(self) -> IsolationReport:
        """What the self-test said last."""
        return self._starter.report

    async def create(self, new: NewSandbox, template_id: str) -> Entry:
        """Start a sandbox.

        Raises:
            IsolationMissingError: This machine cannot isolate one.
            SandboxLimitError: There are as many as allowed.
            WireError: A volume cannot be mounted where it should be.
        """
        await self._starter.check(new)
        with self._place():
            entry = await self._create(new, template_id)
            self._entries[entry.sandbox_id] = entry
        self._spawned[template_id] = (self._spawned.get(template_id, (0, 0.0))[0] + 1, entry.started_at)
        self._background.start(partial(self._end_in_time, entry))
        return entry

    def get(self, sandbox_id: str) -> Entry | None:
        return self._entries.get(sandbox_id)

    def entries(self) -> list[Entry]:
        """All of them, the oldest first."""
        return list(self._entries.values())

    def spawned(self, template_id: str) -> tuple[int, float]:
        """Return how many sandboxes of a template this service made, and when the last one (Unix time in seconds)."""
        return self._spawned.get(template_id, (0, 0.0))

    def usage(self) -> dict[str, tuple[int, int]]:
        """Return used and allowed, of `concurrent` (those that run) and `total` (the paused ones too)."""
        running = sum(entry.running is not None for entry in self._entries.values()) + self._starting
        total = self.max_sandboxes * (1 + MAX_PAUSED_EACH)
        return {"concurrent": (running, self.max_sandboxes), "total": (len(self._entries), total)}

    def adopt(self, homes: Iterable[Home]) -> None:
        """Take over what earlier services paused. Files whose time is over are deleted, those not understood stay."""
        for home in homes:
            try:
                record = record_from_bytes(home.read_record())
            except (OSError, WireError):
                _log.warning("the record of the paused sandbox %s cannot be read; its files stay", home.path.name)
                home.leave()
                continue
            if record.end_at <= time.time():
                self._background.start(partial(anyio.to_thread.run_sync, home.remove))
            elif not self._keep_paused:
                home.leave()
            else:
                entry = paused_entry(record, home)
                self._entries[entry.sandbox_id] = entry
                entry.log.add("found paused")
                self._background.start(partial(self._end_in_time, entry))

    async def pause(self, entry: Entry) -> None:
        """End the processes of a sandbox and keep its files.

        Raises:
            NotPausableError: It is paused already, or has stopped.
        """
        async with entry.changing:
            if entry.state != "running":
                raise NotPausableError(f"the sandbox is not running: it is {entry.state}")
            await self._suspend(entry)

    async def resume(self, entry: Entry, *, keep_token: bool = False) -> bool:
        """Start a paused sandbox again with its files; return whether it was paused.

        Args:
            keep_token: For a call of the runtime; else the sandbox gets a new token.

        Raises:
            IsolationMissingError: This machine cannot isolate one.
            SandboxLimitError: As many as allowed run.
        """
        async with entry.changing:
            if entry.running is not None or entry.sandbox_id not in self._entries:
                return False
            await self._starter.check(entry.new)
            with self._place(resumed=True):
                sandbox = await self._starter.restart(entry.home, entry.log, entry.new.volume_mounts)
                entry.running = _running(sandbox, entry.new)
            if not keep_token:
                entry.access_token = secrets.token_urlsafe(32)
            entry.activated_at = time.time()
            entry.set_ttl(entry.ttl_s)
            entry.home.forget_record()
            entry.log.add("resumed")
            return True

    def set_network(self, entry: Entry, rules: NetworkRules) -> None:
        """Replace what a running sandbox may reach; whether its previews are public changes only if that is said.

        Raises:
            NoNetworkError: It cannot be given a network.
        """
        entry.sandbox.egress.apply(policy_of(rules))
        public = entry.new.network.public_previews if rules.public_previews is None else rules.public_previews
        entry.new = replace(entry.new, network=replace(rules, public_previews=public))

    async def delete(self, entry: Entry) -> None:
        """End a sandbox and delete its files."""
        if self._entries.pop(entry.sandbox_id, None) is None:
            return
        with anyio.CancelScope(shield=True):
            entry.changed.set()
            async with entry.changing:
                await _end(entry)
                await anyio.to_thread.run_sync(entry.home.remove)

    async def end_all(self) -> None:
        """End all sandboxes at once. The paused ones are kept for the next service, and so are those with autoPause."""
        async with anyio.create_task_group() as endings:
            endings.start_soon(self._starter.close)
            for entry in self.entries():
                kept = self._keep_paused and (entry.running is None or _may_pause(entry))
                endings.start_soon(self._leave if kept else self.delete, entry)

    async def _leave(self, entry: Entry) -> None:
        if self._entries.pop(entry.sandbox_id, None) is None:
            return
        with anyio.CancelScope(shield=True):
            entry.changed.set()
            async with entry.changing:
                if entry.running is not None:
                    await self._suspend(entry)
                entry.home.leave()

    async def _suspend(self, entry: Entry) -> None:
        """The record comes first: a service that is killed from here on leaves a paused sandbox, not an abandoned one.

        Without a record (a full disk) it is paused all the same, for as long as this service runs.
        """
        entry.end_in(KEEP_PAUSED_S)
        try:
            await anyio.to_thread.run_sync(entry.home.write_record, record_to_bytes(entry.paused_record))
        except OSError:
            entry.log.add("its record could not be written: it ends with this service", level="error")
        with anyio.CancelScope(shield=True):
            await _end(entry)
        entry.log.add("paused")

    @contextmanager
    def _place(self, *, resumed: bool = False) -> Iterator[None]:
        """Hold the place of a sandbox that is being started."""
        for metric, (used, limit) in self.usage().items():
            if used >= limit and not (resumed and metric == "total"):
                raise SandboxLimitError(metric=metric, limit=limit, retry_after_s=self._next_end_in_s(metric))
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def _next_end_in_s(self, metric: str) -> int:
        ends = [entry.end_at for entry in self._entries.values() if entry.running is not None or metric == "total"]
        return max(1, math.ceil(min(ends, default=0.0) - time.time()))

    async def _create(self, new: NewSandbox, template_id: str) -> Entry:
        ready = await self._starter.start(new.volume_mounts)
        entry = Entry(
            sandbox_id=ready.sandbox_id,
            template_id=template_id,
            new=new,
            home=ready.home,
            log=ready.sandbox.log,
            running=_running(ready.sandbox, new),
        )
        entry.set_ttl(new.ttl_s or DEFAULT_TTL_S)
        entry.log.add("created", template=template_id)
        return entry

    async def _end_in_time(self, entry: Entry) -> None:
        while entry.sandbox_id in self._entries:
            if (left := entry.end_at - time.time()) > 0:
                with anyio.move_on_after(left):
                    await entry.changed.wait()
            elif entry.running is not None and _may_pause(entry):
                async with entry.changing:
                    if entry.running is not None and entry.end_at <= time.time():
                        await self._suspend(entry)
            else:
                await self.delete(entry)


def _may_pause(entry: Entry) -> bool:
    """Whether its time to live ends with a pause. Of a sandbox that broke a limit, no files are left."""
    return entry.new.auto_pause and not entry.end_reason


def _running(sandbox: Sandbox, new: NewSandbox) -> Running:
    sandbox.add_envs(new.envs)
    sandbox.egress.apply(policy_of(new.network))
    return Running(sandbox, Previews(sandbox))


async def _end(entry: Entry) -> None:
    running, entry.running = entry.running, None
    if running is not None:
        await running.previews.close()
        await running.sandbox.close()
