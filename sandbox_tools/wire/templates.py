"""Templates, as a user of them sees them (wire contract 2.10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.fields import objects, text, texts, whole

Visibility = Literal["personal", "team", "official"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateBuild:
    """One build of a template. Times are RFC 3339 UTC, or ""."""

    build_id: str
    status: str
    created_at: str = ""
    finished_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What sandboxes are made from. Who made it is left out: that is personal.

    Attributes:
        template_id: Opaque.
        type: Official type ("base", "code-interpreter"), or "".
        names: What it can be asked for by, as can `aliases`.
        memory_mb: In MiB; so is `disk_size_mb`.
        created_at: RFC 3339 UTC; so are the other times.
        spawn_count: Sandboxes made from it.
        builds: Its latest builds; only `Templates.get` says.
    """

    template_id: str
    build_id: str = ""
    build_status: str = ""
    type: str = ""
    version: str = ""
    public: bool = False
    names: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    cpu_count: int | None = None
    memory_mb: int | None = None
    disk_size_mb: int | None = None
    created_at: str = ""
    updated_at: str = ""
    last_spawned_at: str = ""
    spawn_count: int | None = None
    build_count: int | None = None
    builds: tuple[TemplateBuild, ...] = ()


def template_from_json(message: object) -> Template:
    """Read a template.

    Raises:
        WireError: It is not an object with a template id.
    """
    if not isinstance(message, dict):
        raise WireError("a template is not an object")
    return Template(
        template_id=template_id_from_json(message),
        build_id=text(message, "buildID"),
        build_status=text(message, "buildStatus"),
        type=text(message, "type"),
        version=text(message, "version"),
        public=message.get("public") is True,
        names=texts(message, "names"),
        aliases=texts(message, "aliases"),
        cpu_count=whole(message, "cpuCount"),
        memory_mb=whole(message, "memoryMB"),
        disk_size_mb=whole(message, "diskSizeMB"),
        created_at=text(message, "createdAt"),
        updated_at=text(message, "updatedAt"),
        last_spawned_at=text(message, "lastSpawnedAt"),
        spawn_count=whole(message, "spawnCount"),
        build_count=whole(message, "buildCount"),
        builds=tuple(_build(build) for build in objects(message, "builds")),
    )


def template_id_from_json(message: Mapping[str, object]) -> str:
    """Read the id of a template, or of what resolving a name answers.

    Raises:
        WireError: There is none.
    """
    template_id = text(message, "templateID")
    if not template_id:
        raise WireError("a template has no templateID")
    return template_id


def _build(message: Mapping[str, object]) -> TemplateBuild:
    return TemplateBuild(
        build_id=text(message, "buildID"),
        status=text(message, "status"),
        created_at=text(message, "createdAt"),
        finished_at=text(message, "finishedAt"),
    )
