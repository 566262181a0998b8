"""`sandbox-tools doctor`: where tools would run, and what this machine can isolate."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from functools import partial
from importlib.metadata import version
from typing import Final

import anyio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sandbox_tools.errors import SandboxToolsError
from sandbox_tools.local.isolation import MIN_ISOLATION_VARIABLE, IsolationReport, probe
from sandbox_tools.redaction import default_registry
from sandbox_tools.sandboxes import open_source

_HARDER: Final = {
    ("memory",): "with control groups (as root, or in `systemd-run --user --scope`)",
    ("tmp_files", "sysv_shm"): "with the native launcher",
    ("processes", "tmp_size"): "with namespaces",
}
"""What would make a limit hard. Nothing here does so for CPU time and the disk."""


def run_doctor() -> int:
    """Print the report; return 0 when tools can run, 1 when they cannot."""
    console = Console(soft_wrap=True)
    report = _with_control_groups(anyio.run(probe))
    console.print(_table(report))
    problem = _source_problem(console)
    if report.level == "none":
        _explain(console, report)
    usable = not problem and (report.level != "none" or _uses_cloud())
    console.print("[green]Ready.[/]" if usable else "[red]Not ready.[/]")
    return 0 if usable else 1


def _explain(console: Console, report: IsolationReport) -> None:
    """Say why there is no local sandbox, what to change, and whether the weaker level would do."""
    console.print(f"[red]No local sandbox here:[/] {escape(report.reason)}\n{escape(report.remedy)}")
    if MIN_ISOLATION_VARIABLE not in os.environ and anyio.run(partial(probe, minimum="landlock")).level == "landlock":
        console.print(
            "The weaker isolation level landlock works here. To accept it: `--min-isolation landlock`, or "
            f"{MIN_ISOLATION_VARIABLE}=landlock. docs/local-sandbox.md says what it does not protect."
        )


def _with_control_groups(report: IsolationReport) -> IsolationReport:
    if report.level == "none":
        return report
    from sandbox_tools.local import cgroups, limits  # noqa: PLC0415 - Linux only

    return limits.strengthened(report, cgroups.hard_limits(cgroups.find_hierarchies()))


def _table(report: IsolationReport) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("sandbox-tools", version("sandbox-tools"))
    table.add_row("Python", f"{platform.python_version()} ({escape(sys.executable)})")
    table.add_row("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    table.add_row("isolation level", report.level)
    table.add_row("launcher", report.launcher or "none")
    table.add_row("hard limits", ", ".join(report.hard_limits) or "none")
    table.add_row("soft limits", ", ".join(report.soft_limits) or "none")
    for limits, what in _HARDER.items():
        if soft := [name for name in limits if name in report.soft_limits]:
            table.add_row("", f"[dim]hard {what}: {', '.join(soft)}[/]")
    for program in ("bash", "node"):
        table.add_row(program, "yes" if shutil.which(program) else "no: run_code cannot use it in the local sandbox")
    return table


def _source_problem(console: Console) -> str:
    try:
        source = open_source(base_url=None, api_key=None, registry=default_registry())
    except SandboxToolsError as exc:
        console.print(f"[red]Configuration:[/] {escape(str(exc))}")
        return str(exc)
    console.print(f"The tools would run in {escape(source.where)}.")
    return ""


def _uses_cloud() -> bool:
    return open_source(base_url=None, api_key=None, registry=default_registry()).base_url is not None
