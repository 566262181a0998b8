"""What a sandbox offers, and that the self-test can tell a sandbox from none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_tools.local import canary
from tests.local.service import Box


def test_the_canary_finds_something_where_nothing_is_isolated(tmp_path: Path) -> None:
    """The control of the self-test: the same program, run on the host."""
    (tmp_path / "file").write_text("x")
    host = {"level": "namespaces", "file": str(tmp_path / "file"), "port": "1", "abstract": "none"}
    ran = subprocess.run([sys.executable, canary.__file__, json.dumps(host)], capture_output=True, check=True)
    found = json.loads(ran.stdout)
    assert "a file of the host is visible" in found
    assert "Seccomp is 0" in found
    assert "unshare is not refused" in found


@pytest.mark.parametrize("path", ["/tmp", "/dev/shm", "/root/workspace"])
def test_the_places_for_work_can_be_written(box: Box, path: str) -> None:
    assert box.sh(f"echo x > {path}/x && cat {path}/x").stdout == "x\n"


def test_the_hosts_python_and_its_packages_work(box: Box) -> None:
    program = "import sys, anyio, ssl, sqlite3, ctypes; print(sys.base_prefix, anyio.__name__)"
    assert box.python(program).stdout == f"{sys.base_prefix} anyio\n"
