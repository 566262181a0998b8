"""`sandbox-tools doctor`: where tools would run, and what this machine can isolate."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Final

import anyio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sandbox_tools.errors import SandboxToolsError
from sandbox_tools.local.isolation import MIN_ISOLATION_VARIABLE, IsolationReport, probe, report_to_json
from sandbox_tools.redaction import default_registry
from sandbox_tools.sandboxes import open_source

_HARDER: Final = {
    ("memory",): "with control groups (as root, or in `systemd-run --user --scope`)",
    ("tmp_files", "sysv_shm"): "with the native launcher",
    ("processes", "tmp_size"): "with namespaces",
}
"""What would make a limit hard. Nothing here does so for CPU time and the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    """What the report says.

    Attributes:
        where: The tools would run; "" when the settings cannot work, and `problem` says why.
        weaker_works: There is no local sandbox, but there would be one at the level landlock.
    """

    report: IsolationReport
    where: str
    problem: str
    is_cloud: bool
    weaker_works: bool

    @property
    def is_ready(self) -> bool:
        return not self.problem and (self.report.level != "none" or self.is_cloud)


def run_doctor(*, as_json: bool = False) -> int:
    """Print the report; return 0 when tools can run, 1 when they cannot."""
    findings = _find()
    if as_json:
        sys.stdout.write(json.dumps(_to_json(findings), indent=2) + "\n")
    else:
        _print(Console(soft_wrap=True), findings)
    return 0 if findings.is_ready else 1


def _find() -> _Findings:
    report = _with_control_groups(anyio.run(probe))
    where, problem, is_cloud = "", "", False
    try:
        source = open_source(base_url=None, api_key=None, registry=default_registry())
        where, is_cloud = source.where, source.base_url is not None
    except SandboxToolsError as error:
        problem = str(error)
    weaker_works = report.level == "none" and not problem and _weaker_works()
    return _Findings(report=report, where=where, problem=problem, is_cloud=is_cloud, weaker_works=weaker_works)


def _weaker_works() -> bool:
    if MIN_ISOLATION_VARIABLE in os.environ:
        return False
    return anyio.run(partial(probe, minimum="landlock")).level == "landlock"


def _to_json(findings: _Findings) -> dict[str, object]:
    report = findings.report
    return {
        "version": version("sandbox-tools"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "isolation": {
            **report_to_json(report),
            "reason": report.reason,
            "remedy": report.remedy,
            "weakerWorks": findings.weaker_works,
        },
        "where": findings.where,
        "problem": findings.problem,
        "ready": findings.is_ready,
    }


def _print(console: Console, findings: _Findings) -> None:
    report = findings.report
    console.print(_table(report))
    if findings.problem:
        console.print(f"[red]Configuration:[/] {escape(findings.problem)}")
    else:
        console.print(f"The tools would run in {escape(findings.where)}.")
    if report.level == "none":
        console.print(f"[red]No local sandbox here:[/] {escape(report.reason)}\n{escape(report.remedy)}")
    if findings.weaker_works:
        console.print(
            "The weaker isolation level landlock works here. To accept it: `--min-isolation landlock`, or "
            f"{MIN_ISOLATION_VARIABLE}=landlock. docs/local-sandbox.md says what it does not protect."
        )
    console.print("[green]Ready.[/]" if findings.is_ready else "[red]Not ready.[/]")


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
