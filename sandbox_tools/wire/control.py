"""The control plane: its base URL, its paths, and what to create (wire contract 1, 2). Its answers: records.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.files import whole_number
from sandbox_tools.wire.network import NetworkRules, network_rules_of_create, network_rules_to_json

MAX_TTL_S: Final = 86_400
"""Longest time to live of a sandbox, in seconds (wire contract 2.2, 2.13)."""

FORBIDDEN_CREATE_FIELDS: Final[Mapping[str, str]] = {
    "timeoutMs": "timeoutMs is no longer supported in sandbox create requests; use timeout seconds",
    "secure": "secure is not supported in sandbox create requests",
    "mcp": "mcp is not supported in sandbox create requests",
    "volume_mounts": "volume_mounts is not supported in sandbox create requests; use volumeMounts",
}
"""Field -> the message of its 400 answer (wire contract 2.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMount:
    """A directory that outlives sandboxes, by its name, and its absolute path inside."""

    name: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSandbox:
    """What to create.

    Attributes:
        template: Template id or official type; None is the service's default (`base`).
        ttl_s: Time to live in seconds, 0..86400; None is the service's default.
        wait_ready: Answer only when the sandbox runs.
        envs: Environment of every process in it. Secret-bearing: not in `repr`.
        network: What it may reach, and whether its previews are public.
        auto_pause: Pause it at the end of its time to live; else it is deleted.
        auto_resume: Resume it, when it is paused, for a call of its runtime.
    """

    template: str | None = None
    ttl_s: int | None = None
    wait_ready: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    envs: Mapping[str, str] = field(default_factory=dict, repr=False)
    network: NetworkRules = field(default_factory=NetworkRules)
    auto_pause: bool = False
    auto_resume: bool = False
    volume_mounts: tuple[VolumeMount, ...] = ()


def normalize_base_url(value: str) -> str:
    """Return an API root: trimmed, with a scheme, without trailing slash (wire contract 1.1).

    Raises:
        WireError: It is empty, or has user information, a query or a fragment.
    """
    url = value.strip().rstrip("/")
    if not url:
        raise WireError("the base URL is empty")
    if "://" not in url:
        url = f"https://{url}"
    if not url.startswith(("https://", "http://")) or any(c in url for c in "?#@\\") or not url.isprintable():
        raise WireError("the base URL must be http(s)://host[:port]/path, without user, query or fragment")
    return url


def cli_base_url(value: str) -> str:
    """Return the API root that the vendor's CLI makes of `SEACLOUD_SANDBOX_URL`: its own path is added to a host (1.1).

    Raises:
        WireError: As `normalize_base_url`.
    """
    url = normalize_base_url(value)
    return url if any(f"{part}/" in f"{url}/" for part in ("/api/v1", "/api/sandbox/v1")) else f"{url}/api/sandbox/v1"


def sandbox_path(sandbox_id: str, *rest: str) -> str:
    """Return `/sandboxes/{id}/...`, the id percent-encoded with nothing safe (wire contract 1.1)."""
    return "/".join(["/sandboxes", quote(sandbox_id, safe=""), *rest])


def create_request_json(new: NewSandbox) -> dict[str, object]:
    """Return the body of `POST /sandboxes`."""
    body: dict[str, object] = {"waitReady": new.wait_ready}
    if new.template:
        body["templateID"] = new.template
    if new.ttl_s is not None:
        body["timeout"] = new.ttl_s
    if new.metadata:
        body["metadata"] = dict(new.metadata)
    if new.envs:
        body["envVars"] = dict(new.envs)
    if network := network_rules_to_json(new.network):
        if (internet := network.pop("allowInternetAccess", None)) is not None:
            body["allowInternetAccess"] = internet
        body |= {"network": network} if network else {}
    if new.auto_pause:
        body["autoPause"] = True
    if new.auto_resume:
        body["autoResume"] = True
    if new.volume_mounts:
        body["volumeMounts"] = volume_mounts_to_json(new.volume_mounts)
    return body


def volume_mounts_to_json(mounts: Iterable[VolumeMount]) -> list[dict[str, str]]:
    """Return the `volumeMounts` of a request or a record."""
    return [{"name": mount.name, "path": mount.path} for mount in mounts]


def create_request_from_json(message: Mapping[str, object]) -> NewSandbox:
    """Read the body of `POST /sandboxes`. Null is absent; unknown fields are ignored, forbidden ones are not.

    Raises:
        WireError: A forbidden field is there (with its documented message), or a field has the wrong type.
    """
    for name, refusal in FORBIDDEN_CREATE_FIELDS.items():
        if message.get(name) is not None:
            raise WireError(refusal)
    return NewSandbox(
        template=_text(message, "templateID") or None,
        ttl_s=None if message.get("timeout") is None else seconds_from_json(message, "timeout", maximum=MAX_TTL_S),
        wait_ready=message.get("waitReady") is True,
        metadata=_text_map(message, "metadata"),
        envs=environment_from_json(message, "envVars"),
        network=network_rules_of_create(message),
        auto_pause=_flag(message.get("autoPause")) is True,
        auto_resume=_flag(message.get("autoResume")) is True,
        volume_mounts=_volume_mounts(message.get("volumeMounts")),
    )


def seconds_from_json(message: Mapping[str, object], name: str, *, maximum: int) -> int:
    """Read a required number of seconds, 0..`maximum`; `timeoutMs` beside it is refused (wire contract 2.5).

    Raises:
        WireError: It is missing, not whole or out of range.
    """
    if message.get("timeoutMs") is not None:
        raise WireError(f"timeoutMs is not supported; use {name} in seconds")
    value = whole_number(message.get(name))
    if not 0 <= value <= maximum:
        raise WireError(f"{name} must be from 0 to {maximum} seconds")
    return value


def _flag(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise WireError("a switch is not true or false")
    return value


def _volume_mounts(value: object) -> tuple[VolumeMount, ...]:
    if value is None:
        return ()
    items = value if isinstance(value, list) else [None]
    mounts = tuple(
        VolumeMount(name=_text(item, "name"), path=_text(item, "path")) for item in items if isinstance(item, dict)
    )
    if len(mounts) != len(items) or not all(mount.name and mount.path for mount in mounts):
        raise WireError("volumeMounts is not a list of objects with a name and a path")
    return mounts


def _text_map(message: Mapping[str, object], name: str) -> dict[str, str]:
    value = message.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise WireError(f"{name} is not a map of texts")
    return dict(value)


def environment_from_json(message: Mapping[str, object], name: str) -> dict[str, str]:
    """Read a map of environment variables.

    Raises:
        WireError: It is none, or no process can be given such variables.
    """
    envs = _text_map(message, name)
    if any(not key or "=" in key or "\0" in key + value for key, value in envs.items()):
        raise WireError(f"{name} has a name or a value that no process can be given")
    return envs


def _text(message: Mapping[str, object], key: str) -> str:
    value = message.get(key)
    return value if isinstance(value, str) else ""
