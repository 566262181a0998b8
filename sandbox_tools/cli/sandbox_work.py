"""What the commands on sandboxes do with the control plane. Each returns the exit code."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
import typer

from sandbox_tools.cli.sandbox_session import Session
from sandbox_tools.environment import register_variable, variables_by_name
from sandbox_tools.errors import ConfigurationError, SandboxNotFoundError, SandboxToolsError
from sandbox_tools.redaction import default_registry
from sandbox_tools.sandboxes import owner
from sandbox_tools.wire.control import MAX_TTL_S, NewSandbox, VolumeMount
from sandbox_tools.wire.network import NetworkRules
from sandbox_tools.wire.observe import LogLevel
from sandbox_tools.wire.records import SandboxInfo

FACTS: Final = (
    "sandbox_id",
    "template_id",
    "state",
    "started_at",
    "end_at",
    "on_timeout",
    "cpu_count",
    "memory_mb",
    "disk_size_mb",
    "metadata",
    "isolation",
    "diagnostic",
)

_LISTED: Final = ("sandbox_id", "template_id", "state", "started_at", "end_at", "metadata")
_LOGGED: Final = ("timestamp", "level", "message", "fields")
_MEASURED: Final = (
    "sandbox_id",
    "cpu_user_rate",
    "cpu_system_rate",
    "memory_usage_percent",
    "memory_available_bytes",
    "task_current",
    "load1",
    "error",
)
_QUOTA: Final = ("scope", "resource", "metric", "used", "limit", "remaining")

_AT_ONCE: Final = 8
"""Requests that a command has under way at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """Which entries of a log."""

    limit: int
    backward: bool
    level: LogLevel | None
    search: str | None
    cursor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one sandbox."""

    sandbox_id: str
    outcome: str


def new_sandbox(
    template: str,
    *,
    ttl_s: int | None,
    labels: Sequence[str],
    variables: Sequence[str],
    volumes: Sequence[str],
    internet: bool,
    auto_pause: bool,
    auto_resume: bool,
) -> NewSandbox:
    """Return what to create; raises `typer.BadParameter`."""
    if ttl_s is not None and not 0 <= ttl_s <= MAX_TTL_S:
        raise typer.BadParameter(f"It must be from 0 to {MAX_TTL_S} seconds.", param_hint="--ttl-s")
    mounts = [volume.partition(":") for volume in volumes]
    if not all(name and path.startswith("/") for name, _, path in mounts):
        raise typer.BadParameter("A volume is given as NAME:/PATH.", param_hint="--volume-mount")
    return NewSandbox(
        template=template,
        ttl_s=ttl_s,
        metadata=pairs(labels, "--metadata"),
        envs=environment(variables),
        network=NetworkRules(internet=internet),
        auto_pause=auto_pause,
        auto_resume=auto_resume,
        volume_mounts=tuple(VolumeMount(name=name, path=path) for name, _, path in mounts),
    )


def pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """Read KEY=VALUE items; raises `typer.BadParameter`."""
    split = [item.partition("=") for item in items]
    if not all(key and equals for key, equals, _ in split):
        raise typer.BadParameter("It is given as KEY=VALUE.", param_hint=option)
    return {key: value for key, _, value in split}


def environment(names: Sequence[str]) -> Mapping[str, str]:
    """Return variables of this process: a value on the command line would be readable by everybody here.

    Those whose names say that they are secret are redacted from now on, but for `NAME:public`.
    """
    problem = ""
    try:
        variables = variables_by_name(names)
    except ConfigurationError as exc:
        problem = str(exc)
    if problem:
        raise typer.BadParameter(problem, param_hint="--env")
    for name, value in variables.items():
        register_variable(default_registry(), name, value, on_notice=partial(print, file=sys.stderr))
    return variables


async def create(session: Session, wanted: NewSandbox, form: str) -> int:
    with session.waiting("Creating a sandbox"):
        info, _ = await session.control.create(wanted)
    session.show(form, info, FACTS)
    return 0


async def list_all(session: Session, states: Sequence[str], labels: Mapping[str, str], limit: int, form: str) -> int:
    found = session.control.list_all(states=states, metadata=labels, max_items=limit)
    session.show(form, [info async for info in found], _LISTED)
    return 0


async def info(session: Session, sandbox_id: str, form: str) -> int:
    session.show(form, await session.control.get(sandbox_id), FACTS)
    return 0


async def logs(session: Session, sandbox_id: str, wanted: Logs, form: str) -> int:
    page = await session.control.observe.logs(
        sandbox_id,
        cursor=wanted.cursor,
        limit=wanted.limit,
        backward=wanted.backward,
        level=wanted.level,
        search=wanted.search,
    )
    session.show(form, page.entries, _LOGGED)
    return 0


async def metrics(session: Session, sandbox_ids: Sequence[str], form: str) -> int:
    if len(sandbox_ids) == 1:
        session.show(form, await session.control.observe.metrics(sandbox_ids[0]), _MEASURED)
    else:
        session.show(form, await session.control.observe.metrics_of(sandbox_ids), _MEASURED)
    return 0


async def usage(session: Session, form: str) -> int:
    session.show(form, await session.control.observe.usage_limits(), _QUOTA)
    return 0


async def pause(session: Session, sandbox_ids: Sequence[str]) -> int:
    async def one(sandbox_id: str) -> str:
        if (await session.control.get(sandbox_id)).state == "paused":
            return "is paused already"
        await session.control.pause(sandbox_id)
        return "is paused"

    return await _each_said(session, sandbox_ids, one)


async def resume(session: Session, sandbox_ids: Sequence[str]) -> int:
    async def one(sandbox_id: str) -> str:
        _, access = await session.control.connect(sandbox_id)
        return "is resumed" if access.resumed else "runs already"

    return await _each_said(session, sandbox_ids, one)


async def set_timeout(session: Session, sandbox_id: str, seconds: int) -> int:
    await session.control.set_timeout(sandbox_id, seconds)
    end = f"at {(await session.control.get(sandbox_id)).end_at}" if seconds else "now"
    session.say(f"{sandbox_id}: its time to live ends {end}")
    return 0


async def kill(session: Session, sandbox_ids: Sequence[str], *, dry_run: bool, form: str) -> int:
    async def one(sandbox_id: str) -> str:
        if dry_run:
            await session.control.get(sandbox_id)
            return "would be deleted"
        return "deleted" if await session.control.delete(sandbox_id) else "not found"

    outcomes = await _each(session, sandbox_ids, one)
    session.show(form, outcomes, ("sandbox_id", "outcome"))
    return int(any(outcome.outcome not in ("deleted", "would be deleted") for outcome in outcomes))


async def prune(session: Session, older_than_s: int | None, *, dry_run: bool, form: str) -> int:
    found = session.control.list_all(metadata=owner.MADE_BY)
    orphans = [info.sandbox_id async for info in found if _is_left_behind(info, older_than_s)]
    return await kill(session, orphans, dry_run=dry_run, form=form)


def _is_left_behind(info: SandboxInfo, older_than_s: int | None) -> bool:
    age_s = owner.age_s(info)
    is_old = older_than_s is not None and age_s is not None and age_s > older_than_s
    return owner.is_orphan(info) or (is_old and not owner.is_of_this_host(info))


async def _each(session: Session, sandbox_ids: Sequence[str], work: Callable[[str], Awaitable[str]]) -> list[Outcome]:
    """Do something with sandboxes, a few at a time; what fails is the outcome of that one."""
    outcomes: dict[str, str] = {}
    limit = anyio.CapacityLimiter(_AT_ONCE)

    async def one(sandbox_id: str) -> None:
        async with limit:
            try:
                outcomes[sandbox_id] = await work(sandbox_id)
            except SandboxNotFoundError:
                outcomes[sandbox_id] = "not found"
            except SandboxToolsError as exc:
                outcomes[sandbox_id] = str(exc)

    async with anyio.create_task_group() as tasks:
        for sandbox_id in dict.fromkeys(sandbox_ids):
            tasks.start_soon(one, sandbox_id)
    return [Outcome(sandbox_id=sandbox_id, outcome=outcomes[sandbox_id]) for sandbox_id in dict.fromkeys(sandbox_ids)]


async def _each_said(session: Session, sandbox_ids: Sequence[str], work: Callable[[str], Awaitable[str]]) -> int:
    outcomes = await _each(session, sandbox_ids, work)
    for outcome in outcomes:
        session.say(f"{outcome.sandbox_id}: {outcome.outcome}")
    return int(any(not outcome.outcome.startswith(("is ", "runs ")) for outcome in outcomes))
