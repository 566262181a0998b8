"""`sandbox-tools sandbox`, as a shell sees it: real processes, one real service."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sandbox_tools.cli.app import app
from sandbox_tools.sandboxes import owner
from sandbox_tools.sandboxes.source import API_KEY_VARIABLE, BASE_URL_VARIABLES
from tests.contract.test_cli import COMMAND, cloud, environment
from tests.local.service import LocalServer

LABEL = "suite=cli-sandbox"


class Shell:
    """Runs commands, and keeps all that they print."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.settings = environment(**cloud(server))
        self.printed = ""

    def __call__(self, *arguments: str, code: int = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, "sandbox", *arguments],
            env={**self.settings, **extra},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.printed += done.stdout + done.stderr
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--output", "json", code=code).stdout)

    def at_once(self, *calls: tuple[int, tuple[str, ...]]) -> list[subprocess.CompletedProcess[str]]:
        """Run several commands, each given as its expected exit code and its arguments."""
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(lambda call: self(*call[1], code=call[0]), calls))


@pytest.fixture(scope="module")
def shell(local_server: LocalServer) -> Iterator[Shell]:
    """At the end: no command printed a key or a token."""
    opened = Shell(local_server)
    tokens: list[str] = []
    with local_server.client() as control:
        yield opened
        for record in control.get("/sandboxes", params={"metadata[suite]": "cli-sandbox"}).json():
            tokens.append(control.get(f"/sandboxes/{record['sandboxID']}").json()["envdAccessToken"] or "no-token")
            control.delete(f"/sandboxes/{record['sandboxID']}")
    assert tokens
    for secret in (local_server.api_key, *tokens):
        assert secret not in opened.printed


@pytest.fixture(scope="module")
def sandbox_id(shell: Shell) -> str:
    created = shell.json(
        "create", "code-interpreter", "--ttl-s", "600", "--metadata", LABEL, "--volume-mount", "cli-cache:/cache"
    )
    assert (created["state"], created["template_id"]) == ("running", "tpl-code-interpreter-local")
    assert created["volume_mounts"] == [{"name": "cli-cache", "path": "/cache"}]
    return str(created["sandbox_id"])


def test_exec_passes_output_apart_and_the_exit_code_on_and_redacts(shell: Shell, sandbox_id: str) -> None:
    line = 'echo "out $PWD"; echo err >&2; echo "$SEACLOUD_API_KEY"; exit 7'
    done = shell("exec", "--cwd", "/tmp", "--env", "SEACLOUD_API_KEY", sandbox_id, line, code=7)
    assert done.stdout == "out /tmp\n[REDACTED:SEACLOUD_API_KEY]\n"
    assert done.stderr == "err\n"


def test_exec_of_several_words_and_its_other_ends(shell: Shell, sandbox_id: str) -> None:
    words, late, _, unknown = shell.at_once(
        (0, ("exec", sandbox_id, "printf", "%s|", "a b", "-x", "$HOME")),
        (124, ("exec", "--timeout-s", "0.3", sandbox_id, "sleep 60")),
        (137, ("exec", sandbox_id, "kill -9 $$")),
        (125, ("exec", "nobody", "true")),
    )
    assert words.stdout == "a b|-x|$HOME|"
    assert "longer than 0.3 s and was killed" in late.stderr
    assert "not_found" in unknown.stderr
    endless = subprocess.run(
        ["sh", "-c", f'"$@" sandbox exec {sandbox_id} yes | head -1', "sh", *COMMAND],
        env=shell.settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (endless.stdout, endless.stderr) == ("y\n", "")


def test_an_interrupted_exec_ends_the_command(shell: Shell, sandbox_id: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, "sandbox", "exec", sandbox_id, "yes | head -c 200000; exec sleep 4242"],
        env=shell.settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"y\n"
            process.send_signal(signal.SIGINT)
            assert len(process.communicate(timeout=20)[0]) < 200_000
        finally:
            process.kill()
    assert process.returncode == 130
    assert shell("exec", sandbox_id, "cat /proc/[0-9]*/comm | grep -c ^sleep; true").stdout == "0\n"


def test_looking_at_sandboxes_as_tables_and_as_json(shell: Shell, sandbox_id: str) -> None:
    table, info, logs, metrics, usage = shell.at_once(
        (0, ("list", "--metadata", LABEL, "--state", "running,paused")),
        (0, ("info", sandbox_id)),
        (0, ("logs", sandbox_id, "--limit", "1", "--search", "created", "--direction", "backward")),
        (0, ("metrics", sandbox_id, "-o", "json")),
        (0, ("usage",)),
    )
    assert table.stdout.split()[:3] == ["sandbox_id", "template_id", "state"]
    assert [line.split()[0] for line in table.stdout.splitlines()[1:]] == [sandbox_id]
    assert f"sandbox_id {sandbox_id}" in " ".join(info.stdout.split())
    assert "level=namespaces" in info.stdout
    assert "created" in logs.stdout
    assert json.loads(metrics.stdout)["task_max"] > 0
    assert "concurrent" in usage.stdout


def test_pausing_resuming_and_the_time_to_live(shell: Shell, sandbox_id: str) -> None:
    assert shell("pause", sandbox_id, "nobody", code=1).stderr == f"{sandbox_id}: is paused\nnobody: not found\n"
    assert shell.json("connect", sandbox_id)["state"] == "running"
    assert shell("resume", sandbox_id).stderr == f"{sandbox_id}: runs already\n"
    assert "its time to live ends at 2" in shell("timeout", sandbox_id, "--seconds", "900").stderr


def test_connect_opens_a_terminal(shell: Shell, sandbox_id: str) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "sandbox", "connect", sandbox_id, "--shell", "sh"],
        env={**shell.settings, "TERM": "dumb"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    with process:
        os.close(terminal)
        try:
            read_until(controller, "$ ")
            os.write(controller, b"echo $((6 * 7)); tty; echo $SEACLOUD_API_KEY-\r")
            assert "/dev/pts/" in read_until(controller, "42", "\n-\r\n", "$ ")
            os.write(controller, b"exit 3\r")
            assert process.wait(20) == 3
        finally:
            process.kill()
            os.close(controller)


def read_until(descriptor: int, *texts: str) -> str:
    """Read from a terminal until it has shown some texts, in order."""
    shown = ""
    deadline = time.monotonic() + 20
    while True:
        at = 0
        for text in texts:
            at = shown.find(text, at) + len(text) if at >= 0 and text in shown[at:] else -1
        if at >= 0:
            return shown
        assert select.select([descriptor], [], [], max(0, deadline - time.monotonic()))[0], shown
        shown += os.read(descriptor, 65536).decode()


def test_kill_and_prune_delete_what_they_say_and_nothing_in_a_dry_run(shell: Shell, sandbox_id: str) -> None:
    made = dict(suite="cli-sandbox", **owner.MADE_BY)
    host, dead = owner.this_host(), 999_999_999
    with shell.server.client() as control:

        def made_by(host: str, pid: int, created: str = "2026-01-01T00:00:00Z") -> str:
            labels = {**made, owner.OWNER: f"{host}.{pid}", owner.CREATED: created}
            return str(control.post("/sandboxes", json={"metadata": labels}).json()["sandboxID"])

        orphan, used, elsewhere = made_by(host, dead), made_by(host, os.getpid()), made_by("0" * 12, dead)
        assert shell.json("prune", "--dry-run") == [{"sandbox_id": orphan, "outcome": "would be deleted"}]
        assert shell.json("prune") == [{"sandbox_id": orphan, "outcome": "deleted"}]
        assert shell.json("prune", "--older-than-s", "3600") == [{"sandbox_id": elsewhere, "outcome": "deleted"}]
        assert control.get(f"/sandboxes/{sandbox_id}").status_code == 200
        assert shell.json("kill", "--dry-run", used, "nobody", code=1) == [
            {"sandbox_id": used, "outcome": "would be deleted"},
            {"sandbox_id": "nobody", "outcome": "not found"},
        ]
        assert shell.json("kill", used) == [{"sandbox_id": used, "outcome": "deleted"}]
        left = [
            record["sandboxID"]
            for record in control.get("/sandboxes", params={"metadata[suite]": "cli-sandbox"}).json()
        ]
        assert left == [sandbox_id]


def test_the_key_of_a_local_service_is_found_and_what_is_missing_is_said(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "sandbox-tools" / "api-key"
    file.parent.mkdir()
    file.write_text(shell.server.api_key)
    without_key = {"SEACLOUD_API_KEY": "", "SEACLOUD_BASE_URL": "", "XDG_STATE_HOME": str(tmp_path)}
    url = shell.server.base_url
    assert "sandbox_id" in shell("--base-url", url, "list", "--metadata", "suite=none", **without_key).stdout
    assert "sandbox-tools local" in shell("list", code=2, **without_key).stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["exec", "sandbox", "--cwd", "/"], "come before SANDBOX_ID"),
        (["create", "--metadata", "app"], "KEY=VALUE"),
        (["create", "--env", "NOT_SET_ANYWHERE"], "is not set in the environment"),
        (["create", "--ttl-s", "86401"], "86400"),
        (["create", "--volume-mount", "cache:relative"], "NAME:/PATH"),
        (["timeout", "sandbox"], "--seconds"),
        (["--base-url", "https://sandboxes.example", "list"], "SEACLOUD_API_KEY"),
        (["--api-key-file", "/nowhere/key", "list"], "cannot be read"),
    ],
)
def test_wrong_arguments_are_explained_before_anything_is_asked(
    arguments: list[str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (API_KEY_VARIABLE, *BASE_URL_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, ["sandbox", *arguments], env={"COLUMNS": "200"})
    assert (done.exit_code, problem in done.output) == (2, True), done.output
