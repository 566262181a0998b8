"""Which sandbox a call uses: created on first use, adopted by id, kept alive, deleted at the end."""

from __future__ import annotations

from sandbox_tools.sandboxes.provider import DEFAULT_TEMPLATE, DEFAULT_TTL_S, Sandboxes
from sandbox_tools.sandboxes.source import SandboxSource, open_source

__all__ = ["DEFAULT_TEMPLATE", "DEFAULT_TTL_S", "SandboxSource", "Sandboxes", "open_source"]
