"""Every example runs as written, without a key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "01_toolset.py": ["12", "exit_code: 2"],
    "02_blocking.py": ["1\n", "4\n", "9\n"],
    "03_mcp_client.py": ["exec: ", "'Linux'"],
    "04_langchain.py": ["success", str(2**100), "error Invalid arguments for run_code"],
    "05_openai.py": ["168", "The model says:"],
}


def test_every_example_is_tested() -> None:
    assert sorted(EXAMPLES) == sorted(path.name for path in (ROOT / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_runs(name: str) -> None:
    no_keys = {key: value for key, value in os.environ.items() if not key.endswith(("_API_KEY", "_BASE_URL"))}
    with anyio.fail_after(60):
        ended = await anyio.run_process(
            [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
            check=False,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=no_keys,
        )
    assert ended.returncode == 0, ended.stderr.decode()
    for expected in EXAMPLES[name]:
        assert expected in ended.stdout.decode()
