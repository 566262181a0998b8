"""What every command on sandboxes does: find the service, run, print through the redactor, say what failed."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sandbox_tools.cli.secret_files import secret_file
from sandbox_tools.client.control import ControlPlane
from sandbox_tools.errors import ConfigurationError, SandboxToolsError
from sandbox_tools.redaction import Redactor, default_registry
from sandbox_tools.sandboxes.source import BASE_URL_VARIABLES, SandboxSource, open_source

_NO_SERVICE: Final = (
    "There is no service to ask. Set SEACLOUD_API_KEY and SEACLOUD_BASE_URL. Or run one on this machine: start "
    "`sandbox-tools local` in another terminal, and pass the URL that it prints with `sandbox-tools sandbox "
    "--base-url URL ...`."
)

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

_WIDE: Final = 500
"""Columns of a table that no person reads: nothing is cut for a pipe."""


class Session:
    """A client of the control plane, and the only way to stdout."""

    def __init__(self, control: ControlPlane, redactor: Redactor) -> None:
        self.control: Final = control
        self.redactor: Final = redactor

    def show(self, form: str, value: object, columns: Sequence[str]) -> None:
        """Print a value, or a list of them.

        Args:
            form: "json": all of it; "table": a row for each of a list, a line for each field of a single one.
            columns: The fields of a table.
        """
        plain = self.redactor.walk(_plain(value))
        if form == "json":
            sys.stdout.write(json.dumps(plain, indent=2) + "\n")
            return
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDE)
        console.print(_rows(plain, columns) if isinstance(plain, list) else _fields(plain, columns))

    def say(self, text: str) -> None:
        """Print a sentence to stderr: stdout belongs to the result."""
        sys.stderr.write(f"{_visible(self.redactor.text(text))}\n")

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show that something takes long, on a terminal only."""
        console = Console(stderr=True)
        if not console.is_terminal:
            yield
            return
        with console.status(text):
            yield


def run_session(
    work: Callable[[Session], Awaitable[int]], *, base_url: str | None, key_file: Path | None, failed: int
) -> int:
    """Run a command; return its exit code: `failed` when the service or the sandbox did not do it, 2 for a setting."""
    registry = default_registry()
    redactor = Redactor(registry)
    try:
        return anyio.run(_run, work, _source(base_url, key_file), redactor)
    except ConfigurationError as exc:
        problem, code = str(exc), 2
    except SandboxToolsError as exc:
        problem, code = str(exc), failed
    except (KeyboardInterrupt, CancelledError):  # the second one in Python 3.10
        problem, code = "interrupted", 130
    sys.stderr.write(f"sandbox-tools: {_visible(redactor.text(problem))}\n")
    return code


async def _run(work: Callable[[Session], Awaitable[int]], source: SandboxSource, redactor: Redactor) -> int:
    if source.base_url is None or source.api_key is None:
        raise ConfigurationError(_NO_SERVICE)
    control = ControlPlane(source.base_url, source.api_key, source.registry)
    try:
        return await work(Session(control, redactor))
    finally:
        with anyio.CancelScope(shield=True):
            await control.aclose()


def _source(base_url: str | None, key_file: Path | None) -> SandboxSource:
    url = base_url or next((os.environ[name] for name in BASE_URL_VARIABLES if os.environ.get(name, "").strip()), "")
    return open_source(base_url=base_url, api_key=_api_key(url, key_file), registry=default_registry())


def _api_key(url: str, key_file: Path | None) -> str | None:
    """A service on this machine has the key that `sandbox-tools local` left, unless another one is set."""
    if key_file is None:
        is_local = (urlsplit(url if "://" in url else f"//{url}").hostname or "") in _LOOPBACK
        key_file = secret_file("api-key")
        if os.environ.get("SEACLOUD_API_KEY", "").strip() or not is_local or not key_file.exists():
            return None
    try:
        return key_file.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as exc:
        problem = type(exc).__name__
    raise ConfigurationError(f"The API key cannot be read from {key_file} ({problem}).")


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _rows(items: list[object], columns: Sequence[str]) -> Table:
    table = Table(*columns, box=None, pad_edge=False)
    for item in items:
        row = item if isinstance(item, dict) else {}
        table.add_row(*[_cell(row.get(column)) for column in columns])
    return table


def _fields(item: object, columns: Sequence[str]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    row = item if isinstance(item, dict) else {}
    for column in columns:
        if row.get(column) not in (None, "", [], {}):
            table.add_row(column, _cell(row[column]))
    return table


def _cell(value: object) -> Text:
    if isinstance(value, dict):
        return Text(" ".join(f"{_visible(str(key))}={_cell(item)}" for key, item in value.items()))
    if isinstance(value, list):
        return Text(",".join(str(_cell(item)) for item in value) or "none")
    return Text(_visible("" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)))


def _visible(text: str) -> str:
    """What a service says must not drive the terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
