"""Templates, as a user of them sees them (wire contract 2.10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from sandbox_tools.wire.control import VolumeMount, volume_mounts_to_json
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.fields import objects, text, texts, whole

Visibility = Literal["personal", "team", "official"]

OwnVisibility = Literal["personal", "team"]
"""Of a template that a user makes: "official" is refused (wire contract 2.10)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateBuild:
    """One build of a template. Times are RFC 3339 UTC, or "".

    Attributes:
        status: Lower case; `BuildProgress.status` has the words.
        image: What it made, in the service's words.
        error_message: Why it failed, in the service's words: redact before use.
        memory_mb: In MiB; so is `disk_size_mb`.
    """

    build_id: str
    status: str
    template_id: str = ""
    image: str = ""
    error_message: str = field(default="", repr=False)
    created_at: str = ""
    updated_at: str = ""
    finished_at: str = ""
    cpu_count: int | None = None
    memory_mb: int | None = None
    disk_size_mb: int | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTemplate:
    """A template to make. What is None is the service's default.

    Attributes:
        memory_mb: In MiB.
        base_template: Id of the template that it extends.
        envs: Environment of every process of its sandboxes. Secret-bearing: not in `repr`.
        workdir: Absolute path that its sandboxes begin in.

    Raises:
        ValueError: Its visibility is none that a user may give.
    """

    name: str | None = None
    tags: tuple[str, ...] = ()
    cpu_count: int | None = None
    memory_mb: int | None = None
    base_template: str | None = None
    visibility: OwnVisibility | None = None
    envs: Mapping[str, str] = field(default_factory=dict, repr=False)
    volume_mounts: tuple[VolumeMount, ...] = ()
    workdir: str | None = None

    def __post_init__(self) -> None:
        if self.visibility not in (None, *get_args(OwnVisibility)):
            raise ValueError(f"The visibility of a template is {' or '.join(get_args(OwnVisibility))}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedTemplate:
    """A template that was made, and the build that it waits for (`Builds.start`)."""

    template_id: str
    build_id: str
    public: bool = False
    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateTag:
    """A name for one build of a template: `name:tag`. `created_at` is RFC 3339 UTC, or ""."""

    tag: str
    build_id: str
    created_at: str = ""


def new_template_to_json(new: NewTemplate) -> dict[str, object]:
    """Return the body of `POST /templates`."""
    extensions = _given(
        baseTemplateID=new.base_template,
        visibility=new.visibility,
        envs=dict(new.envs) or None,
        volumeMounts=volume_mounts_to_json(new.volume_mounts) or None,
        workdir=new.workdir,
    )
    return _given(
        name=new.name,
        tags=list(new.tags) or None,
        cpuCount=new.cpu_count,
        memoryMB=new.memory_mb,
        extensions=extensions or None,
    )


def created_template_from_json(message: Mapping[str, object]) -> CreatedTemplate:
    """Read the answer of `POST /templates`.

    Raises:
        WireError: It names no template or no build.
    """
    build_id = text(message, "buildID")
    if not build_id:
        raise WireError("a new template has no buildID")
    return CreatedTemplate(
        template_id=template_id_from_json(message),
        build_id=build_id,
        public=message.get("public") is True,
        names=texts(message, "names"),
        tags=texts(message, "tags"),
        aliases=texts(message, "aliases"),
    )


def tag_from_json(message: object) -> TemplateTag:
    """Read a tag.

    Raises:
        WireError: It is not an object with a tag.
    """
    fields = message if isinstance(message, dict) else {}
    if not text(fields, "tag"):
        raise WireError("a tag has no name")
    return TemplateTag(tag=text(fields, "tag"), build_id=text(fields, "buildID"), created_at=text(fields, "createdAt"))


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
        builds=tuple(template_build_from_json(build) for build in objects(message, "builds")),
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


def template_build_from_json(message: Mapping[str, object]) -> TemplateBuild:
    """Read a build."""
    return TemplateBuild(
        build_id=text(message, "buildID"),
        status=text(message, "status").lower(),
        template_id=text(message, "templateID"),
        image=text(message, "image"),
        error_message=text(message, "errorMessage"),
        created_at=text(message, "createdAt"),
        updated_at=text(message, "updatedAt"),
        finished_at=text(message, "finishedAt"),
        cpu_count=whole(message, "cpuCount"),
        memory_mb=whole(message, "memoryMB"),
        disk_size_mb=whole(message, "diskSizeMB"),
    )


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
