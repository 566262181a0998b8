"""Where sandboxes come from: SeaCloud, when there is an API key, else this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from sandbox_tools.errors import ConfigurationError
from sandbox_tools.injection import Injection
from sandbox_tools.local.isolation import MinIsolation, least_isolation
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.wire.control import cli_base_url, normalize_base_url
from sandbox_tools.wire.envelope import WireError

API_KEY_VARIABLE: Final = "SEACLOUD_API_KEY"

BASE_URL_VARIABLES: Final = ("SEACLOUD_BASE_URL", "SEACLOUD_API_BASE_URL", "SEACLOUD_SANDBOX_URL")
"""The first that is set counts: the SDK's name, the one of the documented curl calls, the one of the vendor's CLI
(wire contract 1.1, 8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSource:
    """Where sandboxes come from.

    Attributes:
        where: For people; no secret.
        base_url: API root; None: the local service, started when it is first needed.
        min_isolation: The least that the local service may give a sandbox.
        adopt: Whether a call may name a sandbox of the account that was not created here.
        injections: Secrets that the local service puts into requests which leave its sandboxes.
    """

    where: str
    registry: Registry
    base_url: str | None = None
    api_key: Secret | None = None
    min_isolation: MinIsolation = "namespaces"
    adopt: bool = True
    injections: tuple[Injection, ...] = ()


def open_source(
    *, base_url: str | None, api_key: str | None, registry: Registry, min_isolation: str | None = None
) -> SandboxSource:
    """Choose between SeaCloud and this machine: an API key, given or in `SEACLOUD_API_KEY`, means SeaCloud.

    Raises:
        ConfigurationError: There is a key and no usable base URL, or the other way round; or no such level.
    """
    minimum = least_isolation(min_isolation)
    key = api_key or os.environ.get(API_KEY_VARIABLE, "").strip()
    if not key:
        if base_url:
            raise ConfigurationError("base_url is set but there is no API key. Set SEACLOUD_API_KEY as well.")
        where = "the local sandbox on this machine (SEACLOUD_API_KEY is not set)"
        return SandboxSource(where=where, registry=registry, min_isolation=minimum)
    secret = registry.register(API_KEY_VARIABLE, key)
    root = _api_root(base_url)
    return SandboxSource(where=f"SeaCloud at {root}", registry=registry, base_url=root, api_key=secret)


def _api_root(base_url: str | None) -> str:
    variable = next((name for name in BASE_URL_VARIABLES if os.environ.get(name, "").strip()), BASE_URL_VARIABLES[0])
    name, value = ("base_url", base_url) if base_url else (variable, os.environ.get(variable, "").strip())
    if not value:
        raise ConfigurationError("SEACLOUD_API_KEY is set but SEACLOUD_BASE_URL is not. Set it to the API base URL.")
    problem = ""
    try:
        return cli_base_url(value) if name == "SEACLOUD_SANDBOX_URL" else normalize_base_url(value)
    except WireError as exc:
        problem = str(exc)
    raise ConfigurationError(f"{name} cannot be used: {problem}.")
