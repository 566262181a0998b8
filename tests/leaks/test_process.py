"""Real processes that log everything, use a real service, and break: nothing that they print holds a token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.service import LocalServer

SCRIPT = str(Path(__file__).with_name("crashing.py"))


def settings(server: LocalServer, tmp_path: Path) -> dict[str, str]:
    return {
        "SEACLOUD_BASE_URL": server.base_url,
        "SEACLOUD_API_KEY": server.api_key,
        "PYTHONPATH": str(Path.cwd()),
        "XDG_STATE_HOME": str(tmp_path),
    }


def run(server: LocalServer, tmp_path: Path, how: str) -> tuple[subprocess.CompletedProcess[bytes], list[str]]:
    """Run the script; return also the tokens that were at hand."""
    tokens = tmp_path / "tokens"
    done = subprocess.run(
        [sys.executable, "-X", "dev", SCRIPT, how, str(tokens)],
        env={**os.environ, **settings(server, tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    found = json.loads(tokens.read_text())
    assert len(found) == 4  # the API key, the token of the sandbox, one that the user gave to it, and one of two lines
    return done, found


def assert_none_seen(done: subprocess.CompletedProcess[bytes], tokens: list[str]) -> None:
    seen = done.stdout + done.stderr
    assert [line for token in tokens for line in token.splitlines() if line.encode() in seen] == []


def test_a_process_that_logs_everything_of_every_library_has_no_token_in_its_log(
    local_server: LocalServer, tmp_path: Path
) -> None:
    """Without any redaction of logs: this is a user's process, with a formatter of the user's own."""
    done, tokens = run(local_server, tmp_path, "is a library")
    assert done.returncode == 0, done.stderr.decode()
    loggers = {line.split(b"'name': '")[1].split(b".")[0] for line in done.stderr.splitlines() if b"'name': '" in line}
    assert {b"httpcore", b"mcp", b"openai"} <= loggers
    assert b"receive_response_headers" in done.stderr  # httpcore was at its most talkative
    assert_none_seen(done, tokens)


def test_our_own_process_shows_no_token_whatever_goes_wrong_in_it(local_server: LocalServer, tmp_path: Path) -> None:
    done, tokens = run(local_server, tmp_path, "goes on")
    assert done.returncode == 0, done.stderr.decode()
    assert_none_seen(done, tokens)
    parts = dict(part.split(b"\n", 1) for part in done.stderr.split(b"== ")[1:])
    assert len(parts) == 8
    assert done.stdout.count(b"[REDACTED:") == len(parts) * len(tokens)
    assert [name for name, printed in parts.items() if printed.count(b"[REDACTED:") < len(tokens)] == []


def test_our_own_process_shows_no_token_when_it_crashes(local_server: LocalServer, tmp_path: Path) -> None:
    done, tokens = run(local_server, tmp_path, "ends")
    assert done.returncode == 1
    assert done.stderr.count(b"[REDACTED:") >= len(tokens)
    assert b"The above exception was the direct cause" in done.stderr
    assert_none_seen(done, tokens)


CRASHES = {
    "local": "import anyio\nanyio.run = lambda serve, port, api_key, *rest: fail(api_key)\n",
    "call exec {}": "from sandbox_tools import BlockingToolset\nBlockingToolset.call = lambda self, *args: fail(key)\n",
}


@pytest.mark.parametrize("command", CRASHES)
def test_a_command_that_crashes_shows_no_key(local_server: LocalServer, tmp_path: Path, command: str) -> None:
    """The real command, with a fault put in where a key is at hand."""
    fault = "import os\nkey = os.environ['SEACLOUD_API_KEY']\ndef fail(key): raise RuntimeError(f'the key is {key}')\n"
    run_it = "from sandbox_tools.cli import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", fault + CRASHES[command] + run_it, *command.split()],
        env={**os.environ, **settings(local_server, tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert b"RuntimeError: the key is [REDACTED:" in done.stderr
    assert_none_seen(done, [local_server.api_key])
