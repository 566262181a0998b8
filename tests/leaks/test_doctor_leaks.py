"""`sandbox-tools doctor --leaks`, as its user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

BLIND = """
from sandbox_tools.redaction.patterns import Patterns
from sandbox_tools.redaction.registry import Registry
Registry.patterns = lambda self: Patterns()
from sandbox_tools.cli import main
main()
"""


def run(*program: str) -> tuple[int, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SEACLOUD_")}
    command = [sys.executable, *program, "doctor", "--leaks", "--output", "json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout


def test_nothing_leaks_from_a_real_sandbox() -> None:
    code, report = run("-m", "sandbox_tools")
    rows = json.loads(report)
    assert [row for row in rows if row["verdict"] != "ok"] == []
    assert {row["way"] for row in rows} == {"toolset", "MCP", "MCP, older era", "this process"}
    assert (code, len(rows)) == (0, 3 * 17 + 3)


def test_a_deployment_that_redacts_nothing_is_found_out_without_showing_the_canary() -> None:
    code, report = run("-c", BLIND)
    leaked = {row["channel"] for row in json.loads(report) if row["verdict"] == "leaked"}
    assert {"standard output", "environment", "base64", "hexadecimal", "read_file", "exception of code"} <= leaked
    assert code == 1
    assert not re.search(r"[\w-]{40}", report)
