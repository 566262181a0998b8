"""`sandbox-tools mcp-http`: the tools for several callers, over Streamable HTTP."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import typer

from sandbox_tools.adapters.mcp.http import Caller, read_callers, serve_http
from sandbox_tools.adapters.mcp.stdio import log_to_stderr
from sandbox_tools.cli.secret_files import kept_secret
from sandbox_tools.cli.serving import serve_until_signal
from sandbox_tools.errors import SandboxToolsError
from sandbox_tools.redaction import Redactor, default_registry
from sandbox_tools.sandboxes import PreviewSite
from sandbox_tools.toolset import Toolset


def run_mcp_http(
    *,
    host: str,
    port: int,
    tokens_file: Path | None,
    public_url: str | None,
    internet: bool,
    min_isolation: str | None,
    redact_unknown_tokens: bool,
) -> None:
    """Serve until SIGTERM or SIGINT."""
    log_to_stderr(Redactor(default_registry()))

    def open_toolset(previews: PreviewSite) -> AbstractAsyncContextManager[Toolset]:
        """A caller uses the sandboxes that it made, and no others of the account."""
        return Toolset.open(
            internet=internet,
            min_isolation=min_isolation,
            adopt=False,
            private_previews=True,
            preview_site=previews,
            redact_unknown_tokens=redact_unknown_tokens,
        )

    try:
        anyio.run(_serve, host, port, _callers(tokens_file), public_url, open_toolset)
    except (SandboxToolsError, OSError) as error:
        raise typer.BadParameter(str(error)) from None


def _callers(tokens_file: Path | None) -> tuple[Caller, ...]:
    if tokens_file is not None:
        return read_callers(tokens_file.read_text(encoding="utf-8"), default_registry())
    file, token = kept_secret("mcp-token")
    print(f"The token is in {file}: clients send `Authorization: Bearer TOKEN`.", file=sys.stderr)  # noqa: T201
    return read_callers(f"default {token}", default_registry())


async def _serve(
    host: str,
    port: int,
    callers: tuple[Caller, ...],
    public_url: str | None,
    open_toolset: Callable[[PreviewSite], AbstractAsyncContextManager[Toolset]],
) -> None:
    async def serve(stop: anyio.Event) -> None:
        await serve_http(
            open_toolset,
            callers,
            host=host,
            port=port,
            public_url=public_url,
            on_ready=lambda url: print(url, flush=True),  # noqa: T201
            stop=stop,
        )

    await serve_until_signal(serve)
