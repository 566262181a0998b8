"""One sandbox of the registry: its record, and, unless it is paused, what runs."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Final

import anyio

from sandbox_tools.local.eventlog import EventLog
from sandbox_tools.local.paused import PausedRecord
from sandbox_tools.local.preview import Previews
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.state import Home
from sandbox_tools.wire.control import NewSandbox
from sandbox_tools.wire.records import SandboxInfo

DEFAULT_TTL_S: Final = 300
"""When a create request names none, or 0 (the service documents no default; templates have 300)."""

KEEP_PAUSED_S: Final = 7 * 86_400
"""How long a paused sandbox is kept (the contract names no time)."""


@dataclass(frozen=True, slots=True)
class Running:
    """The processes of a sandbox, and the connections to its ports."""

    sandbox: Sandbox
    previews: Previews


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """A sandbox and its record.

    Attributes:
        running: None while it is paused.
        access_token: Of its runtime; a new one when a connect resumes it. Secret.
        started_at: Unix time in seconds, as are the others.
        activated_at: When it was created or last resumed.
        end_at: When its time to live ends, or, while it is paused, when its files are deleted.
        ttl_s: The time to live that it was last given.
        lost_envs: Names of `envVars` whose values ended with the service that knew them.
        changing: Held while it is paused, resumed or ended.
        changed: Replaced and set when `end_at` changes.
    """

    sandbox_id: str
    template_id: str
    new: NewSandbox
    home: Home
    log: EventLog
    running: Running | None
    access_token: str = field(repr=False, default_factory=lambda: secrets.token_urlsafe(32))
    started_at: float = field(default_factory=time.time)
    activated_at: float = field(default_factory=time.time)
    end_at: float = 0
    ttl_s: int = DEFAULT_TTL_S
    lost_envs: tuple[str, ...] = ()
    changing: anyio.Lock = field(default_factory=anyio.Lock)
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def sandbox(self) -> Sandbox:
        """Its processes.

        Raises:
            LookupError: It is paused.
        """
        return self._running().sandbox

    @property
    def previews(self) -> Previews:
        """The connections to its ports.

        Raises:
            LookupError: It is paused.
        """
        return self._running().previews

    @property
    def state(self) -> str:
        """`running`, `stopped` (its processes ended by themselves) or `paused`."""
        if self.running is None:
            return "paused"
        return "stopped" if self.running.sandbox.stopped.is_set() else "running"

    @property
    def end_reason(self) -> str:
        """Why the service ended its processes although nobody asked; "" when it did not."""
        return self.running.sandbox.end_reason if self.running else ""

    @property
    def info(self) -> SandboxInfo:
        return SandboxInfo(
            sandbox_id=self.sandbox_id,
            template_id=self.template_id,
            state=self.state,
            started_at=rfc3339(self.started_at),
            end_at=rfc3339(self.end_at),
            metadata=self.new.metadata,
        )

    @property
    def paused_record(self) -> PausedRecord:
        """What is kept of it on disk while it is paused."""
        return PausedRecord(
            template_id=self.template_id,
            new=self.new,
            env_names=(*self.lost_envs, *self.new.envs),
            started_at=self.started_at,
            end_at=self.end_at,
            ttl_s=self.ttl_s,
        )

    def set_ttl(self, ttl_s: int) -> None:
        """Let it end `ttl_s` seconds from now."""
        self.ttl_s = ttl_s or self.ttl_s
        self.end_in(ttl_s)

    def end_in(self, seconds: float) -> None:
        """Set `end_at`, and tell who waits for it."""
        self.end_at = time.time() + seconds
        self.changed.set()
        self.changed = anyio.Event()

    def _running(self) -> Running:
        if self.running is None:
            raise LookupError("the sandbox is paused")
        return self.running


def paused_entry(record: PausedRecord, home: Home) -> Entry:
    """Return the entry of a sandbox that an earlier service paused."""
    return Entry(
        sandbox_id=home.path.name,
        template_id=record.template_id,
        new=record.new,
        home=home,
        log=EventLog(),
        running=None,
        started_at=record.started_at,
        activated_at=record.started_at,
        end_at=record.end_at,
        ttl_s=record.ttl_s,
        lost_envs=record.env_names,
    )


def rfc3339(moment: float) -> str:
    """Return a Unix time in seconds as the contract writes it."""
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
