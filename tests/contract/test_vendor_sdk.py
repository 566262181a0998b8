"""The vendor's own SDK, unchanged, as an independent client of the local service.

It runs in a process of its own: it reads its settings from the environment, and its warnings are not ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.local.service import LocalServer

SCRIPT = """
import json
from sandbox import Sandbox

seen = {}
sandbox = Sandbox.create("code-interpreter", timeout=120, metadata={"app": "contract"})


def shell(line, cmd="sh", **options):
    return sandbox.commands.run(cmd, args=["-c", line], **options)


try:
    seen["state"] = sandbox.get_info()["state"]
    seen["listed"] = [item["sandboxID"] for item in Sandbox.list(metadata={"app": "contract"}).next_items()]
    sandbox.files.write("/root/workspace/a.txt", "hello é")
    seen["read"] = sandbox.files.read("/root/workspace/a.txt")
    seen["exists"] = [sandbox.files.exists("/root/workspace/a.txt"), sandbox.files.exists("/root/workspace/b.txt")]
    sandbox.files.make_dir("/root/workspace/d")
    seen["names"] = sorted(entry["name"] for entry in sandbox.files.list("/root/workspace"))
    seen["ran"] = shell("echo out; echo err >&2; exit 3")
    seen["streamed"] = []
    seen["callback"] = shell("echo live", on_stdout=seen["streamed"].append)
    first = sandbox.run_code("x = 20\\nprint('printed')")
    second = sandbox.run_code("x + 1")
    seen["code"] = [first.logs.stdout, second.text]
    seen["error"] = sandbox.run_code("1/0").error.name
    handle = shell("sleep 1000", background=True)
    seen["processes"] = [process["pid"] == handle.pid for process in sandbox.commands.list()].count(True)
    seen["killed"] = [sandbox.commands.kill(handle.pid), sandbox.commands.kill(4_000_000)]
    shell("python3 -m http.server 8123 >/dev/null 2>&1 &")
    shell("until (: </dev/tcp/127.0.0.1/8123) 2>/dev/null; do sleep 0.05; done", cmd="bash")
    seen["host"] = sandbox.get_host(8123)
    seen["id"] = sandbox.sandbox_id
    print(json.dumps(seen), flush=True)
    input()
finally:
    print(json.dumps([sandbox.kill(), sandbox.kill()]), flush=True)
"""


@pytest.fixture(scope="module")
def seen(local_server: LocalServer) -> dict[str, Any]:
    """What the SDK saw, from creation to deletion."""
    environment = {**os.environ, "SEACLOUD_BASE_URL": local_server.base_url, "SEACLOUD_API_KEY": local_server.api_key}
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with script:
        assert script.stdin is not None
        assert script.stdout is not None
        line = script.stdout.readline()
        assert line.startswith("{"), "the SDK failed; its traceback is above"
        result: dict[str, Any] = json.loads(line)
        with urllib.request.urlopen(result["host"], timeout=10) as page:
            result["page"] = page.read().decode()
        script.stdin.write("\n")
        script.stdin.flush()
        result["deleted"] = json.loads(script.stdout.readline())
    return result


def test_it_creates_a_running_sandbox_and_lists_it_by_metadata(seen: dict[str, Any]) -> None:
    assert seen["state"] == "running"
    assert seen["listed"] == [seen["id"]]


def test_it_writes_reads_and_lists_files(seen: dict[str, Any]) -> None:
    assert seen["read"] == "hello é"
    assert seen["exists"] == [True, False]
    assert {"a.txt", "d"} <= set(seen["names"])


def test_it_runs_commands_blocking_and_streaming(seen: dict[str, Any]) -> None:
    assert (seen["ran"]["stdout"], seen["ran"]["stderr"], seen["ran"]["exit_code"]) == ("out\n", "err\n", 3)
    assert seen["streamed"] == ["live\n"]
    assert (seen["callback"]["stdout"], seen["callback"]["exit_code"]) == ("live\n", 0)


def test_it_runs_code_that_keeps_its_state(seen: dict[str, Any]) -> None:
    assert seen["code"] == [["printed\n"], "21"]
    assert seen["error"] == "ZeroDivisionError"


def test_it_lists_and_kills_processes(seen: dict[str, Any]) -> None:
    assert seen["processes"] == 1
    assert seen["killed"] == [True, False]


def test_its_preview_url_works_in_a_browser_without_a_token(seen: dict[str, Any]) -> None:
    assert seen["host"].endswith("/proxy/8123/")
    assert "a.txt" in seen["page"]


def test_deleting_is_true_once(seen: dict[str, Any], local_server: LocalServer) -> None:
    assert seen["deleted"] == [True, False]
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(seen["host"], timeout=10)
