"""The control plane: sandboxes and their records (wire contract 1, 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from sandbox_tools.wire.envelope import WireError

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
class NewSandbox:
    """What to create.

    Attributes:
        template: Template id or official type; None is the service's default (`base`).
        ttl_s: Time to live in seconds, 0..86400; None is the service's default.
        wait_ready: Answer only when the sandbox runs.
        envs: Environment of every process in it. Secret-bearing: not in `repr`.
    """

    template: str | None = None
    ttl_s: int | None = None
    wait_ready: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    envs: Mapping[str, str] = field(default_factory=dict, repr=False)
    allow_internet_access: bool | None = None
    allow_public_traffic: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxInfo:
    """A sandbox, as the control plane describes it: public facts, no token, no URL.

    Attributes:
        state: Lower case: starting, running, paused, stopped, deleted.
        started_at: RFC 3339 UTC.
        end_at: RFC 3339 UTC; when its time to live ends.
        isolation: Level of a local sandbox ("namespaces"); "" from a service that does not say.
    """

    sandbox_id: str
    template_id: str
    state: str
    started_at: str = ""
    end_at: str = ""
    isolation: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


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
    if new.allow_internet_access is not None:
        body["allowInternetAccess"] = new.allow_internet_access
    if new.allow_public_traffic is not None:
        body["network"] = {"allowPublicTraffic": new.allow_public_traffic}
    return body


def sandbox_from_json(message: object) -> SandboxInfo:
    """Read a sandbox record; `state` is preferred over `status` (wire contract 2.2).

    Raises:
        WireError: It is not an object with a sandbox id.
    """
    if not isinstance(message, dict):
        raise WireError("a sandbox record is not an object")
    sandbox_id = message.get("sandboxID")
    if not isinstance(sandbox_id, str) or not sandbox_id:
        raise WireError("a sandbox record has no sandboxID")
    state = _text(message, "state") or _text(message, "status")
    metadata = message.get("metadata")
    isolation = message.get("isolation")
    return SandboxInfo(
        sandbox_id=sandbox_id,
        template_id=_text(message, "templateID"),
        state=state.lower(),
        started_at=_text(message, "startedAt"),
        end_at=_text(message, "endAt"),
        isolation=_text(isolation, "level") if isinstance(isolation, dict) else "",
        metadata={k: v for k, v in metadata.items() if isinstance(v, str)} if isinstance(metadata, dict) else {},
    )


def credentials_from_json(message: object) -> RuntimeCredentials:
    """Read how to reach the runtime. Register the tokens before anything else sees them."""
    fields = message if isinstance(message, dict) else {}
    return RuntimeCredentials(
        envd_url=_text(fields, "envdUrl") or None,
        access_token=_text(fields, "envdAccessToken") or None,
        traffic_token=_text(fields, "trafficAccessToken") or None,
    )


def sandboxes_from_json(message: object) -> list[SandboxInfo]:
    """Read the bare array of `GET /sandboxes`.

    Raises:
        WireError: It is not an array of sandbox records.
    """
    if not isinstance(message, list):
        raise WireError("the list of sandboxes is not an array")
    return [sandbox_from_json(item) for item in message]


def _text(message: Mapping[str, object], key: str) -> str:
    value = message.get(key)
    return value if isinstance(value, str) else ""
