"""What the control plane says about a sandbox (wire contract 2.2 to 2.5)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sandbox_tools.wire.control import VolumeMount, volume_mounts_to_json
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.fields import mapping, objects, text, texts, whole

_ID: Final = re.compile(r"[!-~]{1,256}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """How a local sandbox is isolated; not part of SeaCloud's records.

    Attributes:
        level: "namespaces" or "landlock".
        launcher: What started it.
        hard_limits: Names of the limits that the kernel enforces.
        soft_limits: Names of those that a watchdog enforces, after the fact, or that are not there.
    """

    level: str
    launcher: str = ""
    hard_limits: tuple[str, ...] = ()
    soft_limits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxInfo:
    """A sandbox, as the control plane describes it: public facts, no token, no URL.

    A list says less than `get` does: what is not said is empty or None.

    Attributes:
        template_id: The resolved template.
        state: Lower case: starting, running, paused, stopped, deleted.
        started_at: RFC 3339 UTC, as all times are.
        end_at: When its time to live ends.
        activated_at: When it was started or last resumed.
        isolation: Of a local sandbox; None from a service that does not say.
        metadata: Its labels.
        cpu_count: Processors.
        memory_mb: In MiB.
        disk_size_mb: In MiB.
        on_timeout: What the end of its time to live does: "kill" or "pause".
        volume_mounts: Directories that outlive it.
        diagnostic: The service's own words about its state, of no fixed shape: redact before use.
    """

    sandbox_id: str
    template_id: str
    state: str
    started_at: str = ""
    end_at: str = ""
    activated_at: str = ""
    isolation: Isolation | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    cpu_count: int | None = None
    memory_mb: int | None = None
    disk_size_mb: int | None = None
    on_timeout: str = ""
    volume_mounts: tuple[VolumeMount, ...] = ()
    diagnostic: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeCredentials:
    """How to reach a sandbox's runtime. Everything here is secret: nothing is in `repr`.

    Attributes:
        envd_url: Base of every runtime route, with its path prefix.
        access_token: `X-Access-Token` of every runtime call.
        traffic_token: Older servers' separate token for private previews (wire contract 5.2).
    """

    envd_url: str | None = field(repr=False)
    access_token: str | None = field(repr=False)
    traffic_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A directory that outlives sandboxes (wire contract 2.11)."""

    volume_id: str
    name: str


def volume_from_json(message: object) -> Volume:
    """Read a volume.

    Raises:
        WireError: It is not an object with an id that can be shown and sent back.
    """
    fields = message if isinstance(message, dict) else {}
    volume_id = text(fields, "volumeID")
    if not _ID.fullmatch(volume_id):
        raise WireError("a volume has no volumeID, or one that is not a short printable word")
    return Volume(volume_id=volume_id, name=text(fields, "name"))


def sandbox_from_json(message: object) -> SandboxInfo:
    """Read a sandbox record; `state` is preferred over `status` (wire contract 2.2).

    Raises:
        WireError: It is not an object with a sandbox id that can be shown and sent back.
    """
    if not isinstance(message, dict):
        raise WireError("a sandbox record is not an object")
    sandbox_id = message.get("sandboxID")
    if not isinstance(sandbox_id, str) or not _ID.fullmatch(sandbox_id):
        raise WireError("a sandbox record has no sandboxID, or one that is not a short printable word")
    state = text(message, "state") or text(message, "status")
    metadata = mapping(message, "metadata")
    return SandboxInfo(
        sandbox_id=sandbox_id,
        template_id=text(message, "templateID"),
        state=state.lower(),
        started_at=text(message, "startedAt"),
        end_at=text(message, "endAt"),
        activated_at=text(message, "activatedAt"),
        isolation=_isolation(message.get("isolation")),
        metadata={key: value for key, value in metadata.items() if isinstance(value, str)},
        cpu_count=whole(message, "cpuCount"),
        memory_mb=whole(message, "memoryMB"),
        disk_size_mb=whole(message, "diskSizeMB"),
        on_timeout=text(mapping(message, "lifecycle"), "onTimeout"),
        volume_mounts=_volume_mounts(message),
        diagnostic=mapping(message, "diagnostic"),
    )


def credentials_from_json(message: object) -> RuntimeCredentials:
    """Read how to reach the runtime. Register the tokens before anything else sees them."""
    fields = message if isinstance(message, dict) else {}
    return RuntimeCredentials(
        envd_url=text(fields, "envdUrl") or None,
        access_token=text(fields, "envdAccessToken") or None,
        traffic_token=text(fields, "trafficAccessToken") or None,
    )


def sandboxes_from_json(message: object) -> list[SandboxInfo]:
    """Read the bare array of `GET /sandboxes`.

    Raises:
        WireError: It is not an array of sandbox records.
    """
    if not isinstance(message, list):
        raise WireError("the list of sandboxes is not an array")
    return [sandbox_from_json(item) for item in message]


def sandbox_to_json(info: SandboxInfo) -> dict[str, object]:
    """Return a sandbox record without credentials, with every field that known clients read (wire contract 2.2)."""
    return {
        "sandboxID": info.sandbox_id,
        "templateID": info.template_id,
        "clientID": "local",
        "state": info.state,
        "status": info.state,
        "startedAt": info.started_at,
        "activatedAt": info.activated_at or info.started_at,
        "endAt": info.end_at,
        "metadata": dict(info.metadata),
        "volumeMounts": volume_mounts_to_json(info.volume_mounts),
        "timeline": [],
    }


def credentials_to_json(credentials: RuntimeCredentials) -> dict[str, object]:
    """Return the fields that only create, connect and detail answers carry (wire contract 2.2). Secret-bearing."""
    return {"envdUrl": credentials.envd_url, "envdAccessToken": credentials.access_token}


def _volume_mounts(message: Mapping[str, object]) -> tuple[VolumeMount, ...]:
    return tuple(
        VolumeMount(name=text(mount, "name"), path=text(mount, "path")) for mount in objects(message, "volumeMounts")
    )


def _isolation(message: object) -> Isolation | None:
    if not isinstance(message, dict) or not text(message, "level"):
        return None
    return Isolation(
        level=text(message, "level"),
        launcher=text(message, "launcher"),
        hard_limits=texts(message, "hardLimits"),
        soft_limits=texts(message, "softLimits"),
    )
