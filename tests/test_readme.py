"""The README's quick starts, run as they are written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from tests.adapters.scripted_openai import ScriptedOpenAI

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, holding: str) -> str:
    """The one code block of the README that holds a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    [found] = [text for text in blocks if holding in text]
    return str(found)


def environment(**extra: str) -> dict[str, str]:
    """Without a key, and with the commands of this environment on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEACLOUD_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **extra}


def run(code: str, tmp_path: Path, **extra: str) -> str:
    script = tmp_path / "quick_start.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        check=False,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plain_python(tmp_path: Path) -> None:
    assert "Linux" in run(block("python", "uname -a"), tmp_path)


def test_langchain(tmp_path: Path) -> None:
    assert "45" in run(block("python", "SandboxToolkit"), tmp_path)


def test_openai(tmp_path: Path) -> None:
    code = "import math\nmath.comb(10, 3)"
    with ScriptedOpenAI([("run_code", json.dumps({"code": code}))], "It is 120.").serve() as server:
        printed = run(
            block("python", "chat.completions"), tmp_path, OPENAI_BASE_URL=server.base_url, OPENAI_API_KEY="none"
        )
    assert printed == "It is 120.\n"
    assert server.requests[1]["messages"][-1]["content"] == "--- result ---\n120"


async def test_the_mcp_configuration() -> None:
    config = json.loads(block("json", "mcpServers"))["mcpServers"]["sandbox"]
    command = Path(sys.executable).parent / config["command"]
    server = StdioServerParameters(command=str(command), args=config["args"], env=environment())
    async with Client(server) as client:
        result = await client.call_tool("exec", {"command": "echo hello"})
    assert "hello" in result.content[0].text  # type: ignore[union-attr]


def test_the_shell_command() -> None:
    line = block("bash", "sandbox-tools call").strip()
    done = subprocess.run(shlex.split(line), env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("exit_code: 0\n--- stdout ---\nLinux ")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("target", ["demo", "test"])
def test_every_make_command_is_there(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
