"""The vendor's SDK, unchanged, through all that it documents, as an independent client of the local service.

It runs in a process of its own: it reads its settings from the environment, and its warnings are not ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.local.service import LocalServer


@pytest.fixture(scope="module")
def seen(local_server: LocalServer) -> dict[str, Any]:
    """What the SDK saw, from creation to deletion."""
    settings = {"SEACLOUD_BASE_URL": local_server.base_url, "SEACLOUD_API_KEY": local_server.api_key}
    walk = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("vendor_walk.py"))],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert walk.returncode == 0, walk.stderr
    result: dict[str, Any] = json.loads(walk.stdout)
    return result


EXPECTED: dict[str, Any] = {
    "info": ["running", {"app": "walk"}, True],
    "extended": True,
    "listed": [[True], []],
    "paused": [True, "paused", False],
    "resumed": ["running", "kept\n"],
    "batch": ["/root/workspace/d/a.txt", "/root/workspace/d/b.bin"],
    "bytes": [0, 255],
    "renamed": "/root/workspace/d/c.txt",
    "names": ["b.bin", "c.txt"],
    "stat": ["file", 3],
    "removed": False,
    "made": [True, False],
    "range": [206, "hello"],
    "content": "hello world",
    "downloaded": "hello world",
    "uploaded": "signed",
    "watched": True,
    "given": "at-create now\n",
    "stdin": "typed",
    "users": ["it's 1000\n", "it's 1000\n"],
    "callback": [0, "live\nmore\n"],
    "listed processes": True,
    "connected": True,
    "killed": [True, True, False],
    "answered": "got a line\n",
    "cloned": 0,
    "code": "21",
    "contexts": ["1", "False", 1],
    "restarted": "NameError",
    "bash": "from bash\n",
    "error": "ZeroDivisionError",
    "host": "kept\n",
    "proxied": [200, "kept\n"],
    "metrics": ["cpu_count", "disk_total", "mem_total", "mem_used"],
    "logs": True,
    "deleted": [True, False],
}


@pytest.mark.parametrize("what", EXPECTED)
def test_the_sdk_sees_what_it_documents(seen: dict[str, Any], what: str) -> None:
    assert seen[what] == EXPECTED[what]


def test_the_sdk_runs_a_command_with_all_its_outcome(seen: dict[str, Any]) -> None:
    ran = seen["ran"]
    assert (ran["stdout"], ran["stderr"], ran["exit_code"]) == ("out\n", "err\n", 3)


def test_the_sdk_has_a_terminal_of_the_size_that_it_asked_for(seen: dict[str, Any]) -> None:
    assert "40 120" in seen["pty"]
    assert "/dev/pts/" in seen["pty"]


def test_the_sdk_uses_git(seen: dict[str, Any]) -> None:
    assert "nothing to commit" in seen["status"]
