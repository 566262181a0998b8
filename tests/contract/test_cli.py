"""The command `sandbox-tools`, as a shell sees it."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.local.service import LocalServer

COMMAND = [sys.executable, "-m", "sandbox_tools"]


def environment(**extra: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("SEACLOUD_")}, **extra}


def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(**extra), capture_output=True, text=True, timeout=60, check=False
    )


def cloud(server: LocalServer) -> dict[str, str]:
    """The settings with which a command uses a service as if it were the cloud."""
    return {"SEACLOUD_BASE_URL": server.base_url, "SEACLOUD_API_KEY": server.api_key}


def test_call_prints_exactly_the_text_that_a_model_reads(local_server: LocalServer) -> None:
    done = run("call", "exec", '{"command": "echo hi; exit 3"}', **cloud(local_server))
    assert (done.returncode, done.stdout) == (0, "exit_code: 3\n--- stdout ---\nhi\n")
    assert local_server.api_key not in done.stdout + done.stderr
    assert f"The tools run in SeaCloud at {local_server.base_url}." in done.stderr


@pytest.mark.parametrize(("flags", "shown"), [((), False), (("--show-unknown-tokens",), True)], ids=["", "shown"])
def test_what_only_looks_like_a_token_is_shown_when_asked_for(
    local_server: LocalServer, flags: tuple[str, ...], shown: bool
) -> None:
    token = f"npm_{secrets.token_hex(18)}"
    done = run("call", "exec", json.dumps({"command": f"echo {token}"}), *flags, **cloud(local_server))
    assert (token in done.stdout, "[REDACTED:unknown-token]" in done.stdout) == (shown, not shown)


def test_call_exits_with_1_when_the_tool_failed(local_server: LocalServer) -> None:
    done = run("call", "read_file", '{"path": "/missing"}', **cloud(local_server))
    assert done.returncode == 1
    assert done.stdout.startswith("/missing does not exist.")


@pytest.mark.parametrize("arguments", ["{", "[]", "null", '"text"'])
def test_call_refuses_arguments_that_are_not_a_json_object(arguments: str) -> None:
    done = run("call", "exec", arguments)
    assert done.returncode == 2
    assert "must be one JSON object" in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_call_says_what_is_missing_when_half_of_the_settings_are_there() -> None:
    done = run("call", "exec", '{"command": "true"}', SEACLOUD_API_KEY="a-key-without-a-service-1")
    assert done.returncode == 2
    assert "SEACLOUD_BASE_URL is not. Set it to the API base URL." in done.stderr
    assert "a-key-without" not in done.stderr


def test_a_wrong_key_is_told_without_the_key(local_server: LocalServer) -> None:
    wrong = {**cloud(local_server), "SEACLOUD_API_KEY": "this-is-not-the-key-4711"}
    done = run("call", "exec", '{"command": "true"}', **wrong)
    assert done.returncode == 1
    assert "Could not create a sandbox: authentication, HTTP 401" in done.stdout
    assert "4711" not in done.stdout + done.stderr


@contextmanager
def local_service(*arguments: str, **extra: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*COMMAND, "local", *arguments],
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_local_takes_the_key_from_a_file_and_stops_on_sigterm(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("a-key-from-a-file-0815\n")
    with local_service("--api-key-file", str(file)) as (process, url):
        assert httpx.get(f"{url}/sandboxes", headers={"X-API-Key": "a-key-from-a-file-0815"}).json() == []
        assert httpx.get(f"{url}/sandboxes", headers={"X-API-Key": "another-key"}).status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0


def test_local_takes_the_key_from_the_environment() -> None:
    with local_service(SEACLOUD_API_KEY="a-key-from-the-environment") as (_, url):
        assert httpx.get(f"{url}/sandboxes", headers={"X-API-Key": "a-key-from-the-environment"}).status_code == 200


def test_local_makes_a_key_that_only_the_user_can_read_and_does_not_print_it(tmp_path: Path) -> None:
    with local_service(XDG_STATE_HOME=str(tmp_path)) as (process, url):
        file = tmp_path / "sandbox-tools" / "api-key"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert httpx.get(f"{url}/sandboxes", headers={"X-API-Key": file.read_text()}).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert file.read_text() not in process.stderr.read()
        assert process.wait(timeout=5) == 0


def test_a_second_local_service_uses_the_key_of_the_first(tmp_path: Path) -> None:
    with local_service(XDG_STATE_HOME=str(tmp_path)) as (_, first):
        headers = {"X-API-Key": (tmp_path / "sandbox-tools" / "api-key").read_text()}
        with local_service(XDG_STATE_HOME=str(tmp_path)) as (_, second):
            for url in (first, second):
                assert httpx.get(f"{url}/sandboxes", headers=headers).status_code == 200


def test_local_refuses_an_empty_key_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.touch()
    done = run("local", "--api-key-file", str(file))
    assert done.returncode == 2
    assert "is empty" in done.stderr


def test_doctor_says_what_this_machine_can_isolate() -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stdout
    assert "isolation level  namespaces" in done.stdout
    assert "launcher         native" in done.stdout
    assert "hard limits      processes, open_files" in done.stdout
    assert re.search(r"soft limits +(memory, )?cpu, disk", done.stdout)
    assert "Ready." in done.stdout


def test_doctor_says_it_to_a_program_too() -> None:
    done = run("doctor", "--output", "json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ready"], told["problem"]) == (0, True, "")
    isolation = told["isolation"]
    assert (isolation["level"], isolation["launcher"], isolation["weakerWorks"]) == ("namespaces", "native", False)
    assert "processes" in isolation["hardLimits"]
    assert told["where"].startswith("the local sandbox")


def test_doctor_fails_on_settings_that_cannot_work() -> None:
    for settings in ({"SEACLOUD_API_KEY": "a-key-without-a-service-1"}, {"SANDBOX_TOOLS_MIN_ISOLATION": "none"}):
        done = run("doctor", **settings)
        assert done.returncode == 1
        assert "Not ready." in done.stdout


def test_the_demo_succeeds() -> None:
    done = run("demo")
    assert done.returncode == 0, done.stdout
    assert "isolation level in force: namespaces" in done.stdout
    assert "No token is in the" in done.stdout
    assert "Every step succeeded." in done.stdout


def test_an_interrupted_demo_ends_without_a_traceback() -> None:
    with subprocess.Popen(
        [*COMMAND, "demo"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "service runs at" in line:
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the service and the server as well
                break
        errors = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("local", "--port", str(taken.getsockname()[1]), XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "already in use" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
