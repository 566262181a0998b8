"""What the sandboxes of a toolset are like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sandbox_tools.environment import Environment
from sandbox_tools.errors import ConfigurationError
from sandbox_tools.wire.control import MAX_TTL_S, NewSandbox
from sandbox_tools.wire.network import NetworkRules

DEFAULT_TEMPLATE: Final = "code-interpreter"
"""The official template that can run code (wire contract 6)."""

DEFAULT_TTL_S: Final = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """What the sandboxes of a toolset are like.

    Attributes:
        template: What they are made from.
        ttl_s: Their time to live, in seconds; extended while they are used.
        internet: They reach the internet; otherwise they reach nothing.
        private_previews: Their previews need a token, which a proxy of ours adds.
        envs: Variables of every process in them.

    Raises:
        ConfigurationError: `ttl_s` is out of range.
    """

    template: str = DEFAULT_TEMPLATE
    ttl_s: int = DEFAULT_TTL_S
    internet: bool = False
    private_previews: bool = False
    envs: Environment = field(default_factory=Environment)

    def __post_init__(self) -> None:
        if not 1 <= self.ttl_s <= MAX_TTL_S:
            raise ConfigurationError(f"ttl_s must be from 1 to {MAX_TTL_S} seconds.")

    def new_sandbox(self) -> NewSandbox:
        """Return what to ask the control plane for."""
        network = NetworkRules(
            internet=self.internet,  # said in either case: SeaCloud's own default is open
            public_previews=False if self.private_previews else None,
        )
        return NewSandbox(template=self.template, ttl_s=self.ttl_s, network=network, envs=self.envs.values())
