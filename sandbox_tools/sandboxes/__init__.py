"""Which sandbox a call uses: created on first use, adopted by id, kept alive, deleted at the end."""

from __future__ import annotations

from sandbox_tools.client.preview_mount import PreviewMount
from sandbox_tools.client.preview_site import PreviewSite
from sandbox_tools.sandboxes.options import DEFAULT_TEMPLATE, DEFAULT_TTL_S, SandboxOptions
from sandbox_tools.sandboxes.provider import Sandboxes
from sandbox_tools.sandboxes.source import SandboxSource, open_source

__all__ = [
    "DEFAULT_TEMPLATE",
    "DEFAULT_TTL_S",
    "PreviewMount",
    "PreviewSite",
    "SandboxOptions",
    "SandboxSource",
    "Sandboxes",
    "open_source",
]
