"""Builds of templates: what is asked for, and what the service says about one (wire contract 2.10)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.fields import mapping, objects, text, texts, whole
from sandbox_tools.wire.observe import LogLevel

StepType = Literal["COPY", "RUN", "ENV", "WORKDIR", "USER"]

LogSource = Literal["temporary", "persistent"]
"""Where the log of a build is kept: while it runs, and afterwards."""

MAX_PAGE: Final = 100
"""Entries of one answer about builds and templates (wire contract 2.10)."""

MAX_ENTRIES: Final = 1000
"""What is kept of one answer, whatever was asked for."""

_BUILD_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_OVER: Final = ("ready", "error", "failed", "cancelled")
_NEEDS_CONTEXT: Final = "uploaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildStep:
    """One step of a build, as a line of a Dockerfile.

    Attributes:
        args: COPY: source in the context, and destination. ENV: names and values in turn. RUN, WORKDIR, USER: the
            value. Secret-bearing: not in `repr`.
        files_hash: SHA-256 of the context that COPY takes from (`Builds.upload_context` returns it).
        force: Do it again although its result is cached.

    Raises:
        ValueError: The service would refuse it.
    """

    type: StepType
    args: tuple[str, ...] = field(repr=False)
    files_hash: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        problems = {
            f"The type of a step is one of {', '.join(get_args(StepType))}.": self.type not in get_args(StepType),
            "A step has arguments.": not self.args or not self.args[0].strip(),
            "ENV has names and values in turn.": self.type == "ENV" and len(self.args) % 2 == 1,
            "COPY has a source, a destination and the hash of its context.": self.type == "COPY"
            and (len(self.args) < 2 or self.files_hash is None),
        }
        if problem := next((problem for problem, found in problems.items() if found), None):
            raise ValueError(problem)
        if self.files_hash is not None:
            checked_hash(self.files_hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBuild:
    """What to build. What is None is the service's default.

    Attributes:
        from_template: Template to begin with; or `from_image`, an image of a registry.
        force: Build all steps again.
        start_cmd: Runs when a sandbox starts.
        ready_cmd: Succeeds when the sandbox is ready.
    """

    from_template: str | None = None
    from_image: str | None = None
    force: bool | None = None
    steps: tuple[BuildStep, ...] = ()
    start_cmd: str | None = field(default=None, repr=False)
    ready_cmd: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLogEntry:
    """One line of the log of a build, which is what programs print: redact before use.

    Attributes:
        timestamp: RFC 3339 UTC, or "".
        step: Which step it is of, in the service's words.
    """

    message: str
    timestamp: str = ""
    level: str = ""
    step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress:
    """How far a build is. `steps` and `timeline` of the answer are left out: their shape is not documented.

    Attributes:
        status: Lower case: waiting, building, ready, error, failed, cancelled; uploaded: it waits for a context.
        reason: Why it failed, in the service's words: redact before use.
        entries: Of its log.
    """

    build_id: str
    template_id: str
    status: str
    reason: str = field(default="", repr=False)
    entries: tuple[BuildLogEntry, ...] = field(default=(), repr=False)

    @property
    def is_ready(self) -> bool:
        return self.status == "ready"

    @property
    def is_over(self) -> bool:
        """Nothing more happens by itself: it succeeded, it failed, or a context must be uploaded and it be started
        again. A status that is not documented is not the end.
        """
        return self.status in _OVER or self.status == _NEEDS_CONTEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextState:
    """Whether the service has a context. Where to upload it is kept apart: see `upload_url_from_json`.

    Attributes:
        max_bytes: Of the archive; None: no limit is said.
    """

    is_present: bool
    max_bytes: int | None = None


def checked_build_id(build_id: str) -> str:
    """Return an id of a build.

    Raises:
        ValueError: It is not a lower-case DNS label of at most 63 characters.
    """
    if not _BUILD_ID.fullmatch(build_id):
        raise ValueError("The id of a build is a lower-case DNS label of at most 63 characters.")
    return build_id


def checked_hash(files_hash: str) -> str:
    """Return a SHA-256.

    Raises:
        ValueError: It is not 64 lower-case hexadecimal digits.
    """
    if not _HASH.fullmatch(files_hash):
        raise ValueError("The hash of a context is 64 lower-case hexadecimal digits.")
    return files_hash


def checked_limit(limit: int) -> str:
    """Return a number of entries for a query.

    Raises:
        ValueError: It is not 0..`MAX_PAGE`.
    """
    if not 0 <= limit <= MAX_PAGE:
        raise ValueError(f"limit is 0 to {MAX_PAGE}.")
    return str(limit)


def build_to_json(new: NewBuild) -> dict[str, object]:
    """Return the body that starts a build, without what logs in to a registry; empty when all is the default."""
    body: dict[str, object | None] = {
        "fromTemplate": new.from_template,
        "fromImage": new.from_image,
        "force": new.force,
        "steps": [_step_to_json(step) for step in new.steps] or None,
        "startCmd": new.start_cmd,
        "readyCmd": new.ready_cmd,
    }
    return {key: value for key, value in body.items() if value is not None}


def status_query(*, logs_offset: int, limit: int, level: LogLevel | None) -> dict[str, str]:
    """Return the query of `.../status`; raises ValueError as `checked_limit`."""
    query = {"logsOffset": str(logs_offset), "limit": checked_limit(limit)}
    return query | ({"level": level} if level else {})


def progress_from_json(message: Mapping[str, object]) -> BuildProgress:
    """Read the answer of `.../status`.

    Raises:
        WireError: It says no status.
    """
    status = text(message, "status").lower()
    if not status:
        raise WireError("a build has no status")
    entries = tuple(_entry(entry) for entry in objects(message, "logEntries")[:MAX_ENTRIES])
    return BuildProgress(
        build_id=text(message, "buildID"),
        template_id=text(message, "templateID"),
        status=status,
        reason=text(message, "reason") or text(mapping(message, "reason"), "message"),
        entries=entries or tuple(BuildLogEntry(message=line) for line in texts(message, "logs")[:MAX_ENTRIES]),
    )


def build_logs_from_json(message: Mapping[str, object]) -> tuple[BuildLogEntry, ...]:
    """Read the answer of `.../logs`."""
    return tuple(_entry(entry) for entry in objects(message, "logs")[:MAX_ENTRIES])


def context_from_json(message: Mapping[str, object]) -> ContextState:
    """Read the answer about a context."""
    return ContextState(is_present=message.get("present") is True, max_bytes=whole(message, "maxContextBytes") or None)


def upload_url_from_json(message: Mapping[str, object]) -> str | None:
    """Read where to upload a context: a capability. Register it before anything else sees it."""
    return text(message, "url") or None


def _entry(message: Mapping[str, object]) -> BuildLogEntry:
    return BuildLogEntry(
        message=text(message, "message"),
        timestamp=text(message, "timestamp"),
        level=text(message, "level"),
        step=text(message, "step"),
    )


def _step_to_json(step: BuildStep) -> dict[str, object]:
    body: dict[str, object] = {"type": step.type, "args": list(step.args)}
    return body | ({"filesHash": step.files_hash} if step.files_hash else {}) | ({"force": True} if step.force else {})
