"""`sandbox-tools sandbox ...`: sandboxes from a shell. What the commands do: sandbox_work.py and its neighbours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from sandbox_tools.cli.sandbox_session import Session

app = typer.Typer(help="Create sandboxes, run commands in them, look after them, delete them.", no_args_is_help=True)


class Form(str, Enum):
    """How a result is printed."""

    table = "table"
    json = "json"


class Direction(str, Enum):
    """Which log entries come first."""

    forward = "forward"
    backward = "backward"


class Level(str, Enum):
    """Severity of a log entry."""

    debug = "debug"
    info = "info"
    warn = "warn"
    error = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Which control plane to use, as it was said on the command line."""

    base_url: str | None
    api_key_file: Path | None


_Id = Annotated[str, typer.Argument(metavar="SANDBOX_ID", help="Of the sandbox.", show_default=False)]
_Ids = Annotated[list[str], typer.Argument(metavar="SANDBOX_ID...", help="Of the sandboxes.", show_default=False)]
_Output = Annotated[Form, typer.Option("--output", "-o", help="How to print the result.")]
_Metadata = Annotated[list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="Label. Repeatable.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")]


@app.callback()
def choose_service(
    context: typer.Context,
    base_url: Annotated[
        str | None, typer.Option(help="API base URL; default: SEACLOUD_BASE_URL.", show_default=False)
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the API key; default: SEACLOUD_API_KEY, or for a service on this machine the key that "
            "`sandbox-tools local` made. A key is never an argument: others could read it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Create sandboxes, run commands in them, look after them, delete them."""
    context.obj = Service(base_url=base_url, api_key_file=api_key_file)


@app.command()
def create(
    context: typer.Context,
    template: Annotated[str, typer.Argument(help="Template id or name.")] = "base",
    *,
    ttl_s: Annotated[int | None, typer.Option(help="Time to live in seconds; default: the service's.")] = None,
    metadata: _Metadata = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:public]",
            help="Variable to pass on from this environment. One named like a secret is redacted, unless it is said to "
            "be public. Repeatable.",
        ),
    ] = None,
    volume_mount: Annotated[
        list[str] | None, typer.Option(metavar="NAME:/PATH", help="Volume to mount. Repeatable.")
    ] = None,
    internet: Annotated[bool, typer.Option("--internet", help="Let it reach the internet.")] = False,
    auto_pause: Annotated[bool, typer.Option("--auto-pause", help="Pause it at the end of its time to live.")] = False,
    auto_resume: Annotated[bool, typer.Option("--auto-resume", help="Resume it when its runtime is called.")] = False,
    output: _Output = Form.table,
) -> None:
    """Create a sandbox and wait until it runs. It stays until it is deleted or its time to live ends."""
    from sandbox_tools.cli import sandbox_work as work  # noqa: PLC0415 - heavy, only when a command runs

    wanted = work.new_sandbox(
        template,
        ttl_s=ttl_s,
        labels=metadata or [],
        variables=env or [],
        volumes=volume_mount or [],
        internet=internet,
        auto_pause=auto_pause,
        auto_resume=auto_resume,
    )
    _run(context, lambda session: work.create(session, wanted, output.value))


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[str, typer.Option(help="States to list, such as running,paused; default: all.")] = "",
    metadata: _Metadata = None,
    limit: Annotated[int, typer.Option(min=1, help="Sandboxes at most.")] = 1000,
    output: _Output = Form.table,
) -> None:
    """List sandboxes."""
    from sandbox_tools.cli import sandbox_work as work  # noqa: PLC0415 - heavy, only when a command runs

    labels, states = work.pairs(metadata or [], "--metadata"), [name for name in state.split(",") if name]
    _run(context, lambda session: work.list_all(session, states, labels, limit, output.value))


@app.command()
def info(context: typer.Context, sandbox_id: _Id, output: _Output = Form.table) -> None:
    """Show what is known about a sandbox."""
    from sandbox_tools.cli import sandbox_work as work  # noqa: PLC0415 - heavy, only when a command runs

    _run(context, lambda session: work.info(session, sandbox_id, output.value))


@app.command(
    "exec", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True}, no_args_is_help=True
)
def exec_(
    context: typer.Context,
    sandbox_id: _Id,
    command: Annotated[list[str], typer.Argument(help="One argument: a shell line. Several: a program and its own.")],
    *,
    cwd: Annotated[str | None, typer.Option(help="Working directory.")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:public]",
            help="Variable to pass on from this environment. One named like a secret is redacted, unless it is said to "
            "be public. Repeatable.",
        ),
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Seconds until it is killed.")] = 3600,
) -> None:
    """Run a command in a sandbox, with its output as it comes, and end with its exit code.

    124: it ran out of time. 125: it could not be run. 128 + N: signal N ended it.
    """
    from sandbox_tools.cli import sandbox_exec as work  # noqa: PLC0415 - heavy, only when a command runs

    wanted = work.Line(command=work.shell_line(command), cwd=cwd, variables=tuple(env or ()), timeout_s=timeout_s)
    _run(context, lambda session: work.run(session, sandbox_id, wanted), failed=125)


@app.command()
def logs(
    context: typer.Context,
    sandbox_id: _Id,
    *,
    limit: Annotated[int, typer.Option(min=0, max=1000, help="Entries at most.")] = 100,
    direction: Annotated[Direction, typer.Option(help="Which entries come first: the oldest, or the newest.")] = (
        Direction.forward
    ),
    level: Annotated[Level | None, typer.Option(help="Least severity.")] = None,
    search: Annotated[str | None, typer.Option(help="Text that a message contains.")] = None,
    cursor: Annotated[int, typer.Option(min=0, help="Where to begin, in milliseconds of Unix time.")] = 0,
    output: _Output = Form.table,
) -> None:
    """Show the log of a sandbox."""
    from sandbox_tools.cli import sandbox_work as work  # noqa: PLC0415 - heavy, only when a command runs

    wanted = work.Logs(
        limit=limit,
        backward=direction is Direction.backward,
        level=level.value if level else None,
        search=search,
        cursor=cursor,
    )
    _run(context, lambda session: work.logs(session, sandbox_id, wanted, output.value))


@app.command()
def metrics(context: typer.Context, sandbox_id: _Ids, output: _Output = Form.table) -> None:
    """Show what sandboxes use of their machines now."""
    from sandbox_tools.cli import sandbox_work as work  # noqa: PLC0415 - heavy, only when a command runs

    _run(context, lambda session: work.metrics(session, sandbox_id, output.value))


@app.command()
def connect(
    context: typer.Context,
    sandbox_id: _Id,
    shell: Annotated[str, typer.Option(help="Program to run in the terminal; default: bash, else sh.")] = "",
    output: Annotated[
        Form | None, typer.Option("--output", "-o", help="Print the state instead of opening a terminal.")
    ] = None,
) -> None:
    """Open a terminal in a sandbox, resuming it if it is paused. Without a terminal here: print its state."""
    from sandbox_tools.cli import sandbox_terminal as work  # noqa: PLC0415 - heavy, only when a command runs

    _run(context, lambda session: work.connect(session, sandbox_id, shell, output.value if output else None))


@app.command()
def pause(context: typer.Context, sandbox_id: _Ids) -> None:
    """Pause sandboxes; their files stay."""
    from sandbox_tools.cli import sandbox_work as work  # noqa: PLC0415 - heavy, only when a command runs

    _run(context, lambda session: work.pause(session, sandbox_id))


@app.command()
def resume(context: typer.Context, sandbox_id: _Ids) -> None:
    """Resume paused sandboxes; their times to live stay as they are."""
    from sandbox_tools.cli import sandbox_work as work  # noqa: PLC0415 - heavy, only when a command runs

    _run(context, lambda session: work.resume(session, sandbox_id))


@app.command()
def timeout(
    context: typer.Context,
    sandbox_id: _Id,
    seconds: Annotated[int, typer.Option(min=0, max=86_400, help="Time to live from now.", show_default=False)],
) -> None:
    """Set the time to live of a sandbox."""
    from sandbox_tools.cli import sandbox_work as work  # noqa: PLC0415 - heavy, only when a command runs

    _run(context, lambda session: work.set_timeout(session, sandbox_id, seconds))


@app.command()
def kill(context: typer.Context, sandbox_id: _Ids, dry_run: _DryRun = False, output: _Output = Form.table) -> None:
    """Delete sandboxes with their files."""
    from sandbox_tools.cli import sandbox_work as work  # noqa: PLC0415 - heavy, only when a command runs

    _run(context, lambda session: work.kill(session, sandbox_id, dry_run=dry_run, form=output.value))


@app.command()
def prune(
    context: typer.Context,
    older_than_s: Annotated[
        int | None, typer.Option(min=60, help="Also those of other hosts that were created longer ago, in seconds.")
    ] = None,
    dry_run: _DryRun = False,
    output: _Output = Form.table,
) -> None:
    """Delete sandboxes whose toolset has ended without deleting them."""
    from sandbox_tools.cli import sandbox_work as work  # noqa: PLC0415 - heavy, only when a command runs

    _run(context, lambda session: work.prune(session, older_than_s, dry_run=dry_run, form=output.value))


@app.command()
def usage(context: typer.Context, output: _Output = Form.table) -> None:
    """Show how much of the account's limits is used."""
    from sandbox_tools.cli import sandbox_work as work  # noqa: PLC0415 - heavy, only when a command runs

    _run(context, lambda session: work.usage(session, output.value))


def _run(context: typer.Context, work: Callable[[Session], Awaitable[int]], *, failed: int = 1) -> NoReturn:
    from sandbox_tools.cli.sandbox_session import run_session  # noqa: PLC0415 - heavy, only when a command runs

    service: Service = context.obj
    raise typer.Exit(run_session(work, base_url=service.base_url, key_file=service.api_key_file, failed=failed))
