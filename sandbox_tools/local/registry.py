"""The sandboxes of a service: create, look up, keep alive, end."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import Final

import anyio
import anyio.to_thread

from sandbox_tools.local.background import Background
from sandbox_tools.local.channel import ChannelError
from sandbox_tools.local.isolation import IsolationReport, probe, unavailable
from sandbox_tools.local.launcher import Launcher, LaunchError, spare_uid
from sandbox_tools.local.limits import Limits
from sandbox_tools.local.pool import Pool, Ready
from sandbox_tools.local.preview import Previews
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.state import Home, State
from sandbox_tools.wire.control import NewSandbox, SandboxInfo

DEFAULT_TTL_S: Final = 300
"""When a create request names none, or 0 (the service documents no default; templates have 300)."""

READY_TIMEOUT_S: Final = 10.0

TEMPLATES: Final = {"base": "tpl-base-local", "code-interpreter": "tpl-code-interpreter-local"}
"""Official type -> template id. Both are the same here: this machine's programs and Python."""

_log: Final = logging.getLogger(__name__)


class SandboxLimitError(Exception):
    """As many sandboxes as allowed are there."""


class IsolationMissingError(Exception):
    """This machine cannot isolate a sandbox now."""

    def __init__(self, report: IsolationReport) -> None:
        self.report: Final = report
        super().__init__("isolation is not available")


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """A sandbox and its record.

    Attributes:
        access_token: Of its runtime. Secret.
        end_at: When its time to live ends, Unix time in seconds.
        changed: Replaced and set when `end_at` changes.
    """

    sandbox_id: str
    template_id: str
    new: NewSandbox
    sandbox: Sandbox
    home: Home
    previews: Previews
    access_token: str = field(repr=False)
    started_at: float
    end_at: float
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def info(self) -> SandboxInfo:
        return SandboxInfo(
            sandbox_id=self.sandbox_id,
            template_id=self.template_id,
            state="stopped" if self.sandbox.stopped.is_set() else "running",
            started_at=_rfc3339(self.started_at),
            end_at=_rfc3339(self.end_at),
            metadata=self.new.metadata,
        )

    def set_ttl(self, ttl_s: int) -> None:
        """Let it end `ttl_s` seconds from now."""
        self.end_at = time.time() + ttl_s
        self.changed.set()
        self.changed = anyio.Event()


class Registry:
    """All sandboxes."""

    def __init__(
        self, *, launcher: Launcher, state: State, limits: Limits, max_sandboxes: int, background: Background
    ) -> None:
        self._launcher = launcher
        self._limits = limits
        self._state = state
        self._background = background
        self._entries: dict[str, Entry] = {}
        self._starting = 0
        self._report: IsolationReport | None = None
        self._testing = anyio.Lock()
        self._pool = Pool(self._launch, background=background)
        self.max_sandboxes: Final = max_sandboxes

    async def isolation(self) -> IsolationReport:
        """Return the self-test's result; it runs until it has passed once: a full disk, say, is not for ever."""
        async with self._testing:
            if self._report is None or self._report.level == "none":
                self._report = self._limits.report(await probe(self._launcher))
                if self._report.level != "none":
                    self._pool.fill()
            return self._report

    @property
    def report(self) -> IsolationReport:
        """What the self-test said last."""
        return self._report or unavailable("the self-test has not ended yet")

    async def create(self, new: NewSandbox, template_id: str) -> Entry:
        """Start a sandbox.

        Raises:
            IsolationMissingError: This machine cannot isolate one.
            SandboxLimitError: There are as many as allowed.
        """
        report = await self.isolation()
        if report.level == "none":
            raise IsolationMissingError(report)
        if len(self._entries) + self._starting >= self.max_sandboxes:
            raise SandboxLimitError
        self._starting += 1
        try:
            entry = await self._create(new, template_id)
        finally:
            self._starting -= 1
        self._entries[entry.sandbox_id] = entry
        self._background.start(partial(self._end_in_time, entry))
        return entry

    def get(self, sandbox_id: str) -> Entry | None:
        return self._entries.get(sandbox_id)

    def entries(self) -> list[Entry]:
        """All of them, the oldest first."""
        return list(self._entries.values())

    async def delete(self, entry: Entry) -> None:
        """End a sandbox and delete its files."""
        if self._entries.pop(entry.sandbox_id, None) is None:
            return
        with anyio.CancelScope(shield=True):
            entry.changed.set()
            await entry.previews.close()
            await entry.sandbox.close()
            await anyio.to_thread.run_sync(entry.home.remove)

    async def delete_all(self) -> None:
        """End all sandboxes at once."""
        async with anyio.create_task_group() as deletions:
            deletions.start_soon(self._pool.close)
            for entry in self.entries():
                deletions.start_soon(self.delete, entry)

    async def _create(self, new: NewSandbox, template_id: str) -> Entry:
        try:
            ready = self._pool.take() or await self._launch()
        except LaunchError as error:
            _log.warning("a sandbox could not be started: %s", error)
            raise IsolationMissingError(unavailable(str(error))) from None
        ready.sandbox.add_envs(new.envs)
        now = time.time()
        return Entry(
            sandbox_id=ready.sandbox_id,
            template_id=template_id,
            new=new,
            sandbox=ready.sandbox,
            home=ready.home,
            previews=Previews(ready.sandbox),
            access_token=secrets.token_urlsafe(32),
            started_at=now,
            end_at=now + (new.ttl_s or DEFAULT_TTL_S),
        )

    async def _launch(self) -> Ready:
        sandbox_id = f"sb-{secrets.token_hex(10)}"
        uid = spare_uid()
        home = self._state.new_home(sandbox_id, uid)
        sandbox = None
        try:
            launched = await self._launcher.launch(home.workspace, uid)
            group = await self._limits.confine(f"{sandbox_id}-{secrets.token_hex(4)}", launched)
            sandbox = Sandbox(launched, background=self._background)
            self._background.start(partial(self._limits.serve, sandbox, group))
            with anyio.fail_after(READY_TIMEOUT_S):
                await sandbox.channel.wait_until_ready()
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                if sandbox is not None:
                    await sandbox.close()
                await anyio.to_thread.run_sync(home.remove)
            if isinstance(error, (ChannelError, TimeoutError)):
                raise LaunchError("the agent ended early") from None
            raise
        return Ready(sandbox_id=sandbox_id, home=home, sandbox=sandbox)

    async def _end_in_time(self, entry: Entry) -> None:
        while entry.sandbox_id in self._entries and (left := entry.end_at - time.time()) > 0:
            with anyio.move_on_after(left):
                await entry.changed.wait()
        await self.delete(entry)


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
