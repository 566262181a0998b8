"""Where isolation is missing nothing is created; an ordinary user gets the same isolation as root."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_tools.errors import ConfigurationError
from sandbox_tools.local import bwrap, layout
from tests.local.service import ROOT, LocalServer, running_service, wait_for
from tests.local.test_bombs import BOUNDS, FORK, MEMORY, is_usable_or_stopped
from tests.local.users import ORDINARY_UID, as_ordinary_user, passable_directory, processes_of, readable_python

ONLY_SMALL_STEPS = """
import os, struct, sys
sys.path.insert(0, sys.argv[1])
from sandbox_tools.local import native, seccomp
unshare = {"x86_64": 272, "aarch64": 97}[seccomp.machine()]
code = [(0x20, 0, 0, 0), (0x15, 0, 3, unshare), (0x20, 0, 0, 16), (0x45, 0, 1, 0x20000000), (0x06, 0, 0, 0x50001)]
code.append((0x06, 0, 0, 0x7FFF0000))
native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(b"".join(struct.pack("=HBBI", *instruction) for instruction in code))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Run a program under a filter that refuses unshare with a pid namespace: native needs it, bwrap calls clone."""

DENIED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from sandbox_tools.local import native, seccomp
native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(seccomp.program(seccomp.machine()))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Run a program under a filter that denies new namespaces, as a default container does."""


def test_nothing_is_created_where_namespaces_are_denied(tmp_path: Path) -> None:
    prefix = (sys.executable, "-c", DENIED, str(ROOT))
    with running_service(tmp_path, prefix=prefix) as service, service.client() as control:
        for _ in range(2):
            answer = control.post("/sandboxes", json={})
            assert answer.status_code == 503
            assert "isolation is not available" in answer.json()["message"]
            assert "unshare: Operation not permitted" in answer.json()["details"]["reason"]
            assert "SEACLOUD_API_KEY" in answer.json()["details"]["remedy"]
        assert control.get("/sandboxes").json() == []
        assert list((tmp_path / "sandboxes").iterdir()) == []


def test_the_probe_says_why(tmp_path: Path) -> None:
    program = """
import anyio, dataclasses, json, sys
from sandbox_tools.local.isolation import probe
print(json.dumps(dataclasses.asdict(anyio.run(probe))))
"""
    command = [sys.executable, "-c", DENIED, str(ROOT), sys.executable, "-c", program]
    denied = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert denied["level"] == "none"
    assert denied["reason"].startswith("native: unshare: Operation not permitted; bwrap: ")
    assert denied["remedy"]
    assert denied["hard_limits"] == []
    allowed = json.loads(subprocess.run(command[-3:], capture_output=True, check=True).stdout)
    assert (allowed["level"], allowed["launcher"], allowed["reason"]) == ("namespaces", "native", "")


@pytest.mark.skipif(not Path(bwrap.PROGRAM).exists() and "CI" not in os.environ, reason="bubblewrap is not installed")
def test_bwrap_is_used_where_native_does_not_work(tmp_path: Path) -> None:
    prefix = (sys.executable, "-c", ONLY_SMALL_STEPS, str(ROOT))
    with running_service(tmp_path, prefix=prefix) as service, service.sandbox() as box:
        assert (box.record["isolation"]["level"], box.record["isolation"]["launcher"]) == ("namespaces", "bwrap")
        assert "sysv_shm" in box.record["isolation"]["softLimits"] + box.record["isolation"]["hardLimits"]
        assert box.sh("id -u").stdout == "1000\n"


@pytest.fixture(scope="module")
def passable() -> Iterator[Path]:
    with passable_directory() as directory:
        yield directory


@pytest.mark.parametrize("launcher", ["native", "bwrap"])
def test_an_ordinary_user_gets_the_same(passable: Path, launcher: str) -> None:
    if launcher == "bwrap" and not Path(bwrap.PROGRAM).exists() and "CI" not in os.environ:
        pytest.skip("bubblewrap is not installed")
    python = readable_python()
    state = passable / launcher
    state.mkdir()
    if os.getuid() == 0:
        os.chown(state, ORDINARY_UID, ORDINARY_UID)
    user = as_ordinary_user()
    env = {"LAUNCHERS": launcher}
    with running_service(state, prefix=user, python=python, env=env) as service, service.sandbox() as box:
        assert (box.record["isolation"]["level"], box.record["isolation"]["launcher"]) == ("namespaces", launcher)
        assert box.sh("id -u; echo x > f; cat f; touch /usr/x").stdout == "1000\nx\n"
        assert box.run("cat", str(passable)).exit_code == 1
        box.sh("mkdir -p a/b; touch a/b/f; chmod 000 a/b a")
        assert box.control.delete(f"/sandboxes/{box.sandbox_id}").status_code == 204
        assert not (state / "sandboxes" / box.sandbox_id).exists()


@pytest.mark.parametrize("prefix", ["/", "/root", "/root/workspace", "/root/workspace/venv", "/etc/python", "/proc"])
def test_a_python_where_the_sandbox_has_its_own_files_is_refused(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", prefix)
    with pytest.raises(ConfigurationError, match="cannot show"):
        layout.host_layout()


@pytest.fixture(scope="module")
def weaker(passable: Path) -> Iterator[LocalServer]:
    """A service whose user accepts the landlock level, on a machine that denies namespaces."""
    if os.getuid() != 0:
        pytest.skip("the landlock level needs a service that runs as root")
    python = readable_python()
    prefix = (sys.executable, "-c", DENIED, str(ROOT))
    env = {"LAUNCHERS": "native bwrap landlock", "BOUNDS": json.dumps(BOUNDS)}
    with running_service(passable / "weaker", prefix=prefix, python=python, env=env) as service:
        yield service


def test_the_weaker_level_is_used_only_where_it_was_asked_for_and_says_so(weaker: LocalServer) -> None:
    with weaker.sandbox() as box:
        assert (box.record["isolation"]["level"], box.record["isolation"]["launcher"]) == ("landlock", "landlock")
        assert "memory" in {*box.record["isolation"]["softLimits"], *box.record["isolation"]["hardLimits"]}
        assert box.sh("echo x > $HOME/f; cat /root/workspace/f; pwd").stderr != ""  # a path in a line is not translated
        assert box.run("cat", "/root/workspace/f").stdout == "x\n"
        assert box.http.get("/file", params={"path": "/root/workspace/f"}).text == "x\n"
        assert box.sh("echo $TMPDIR; touch $TMPDIR/x /tmp/x").exit_code == 1
        assert box.run("ls", "/tmp/").stdout == "x\n"


def test_the_weaker_level_keeps_the_files_and_processes_of_the_host(weaker: LocalServer, tmp_path: Path) -> None:
    readable = Path("/etc/passwd")
    with weaker.sandbox() as box, weaker.sandbox() as other:
        assert "Permission denied" in box.run("cat", str(readable)).stderr
        assert "Permission denied" in box.run("cat", "/proc/1/environ").stderr
        assert box.sh(f"kill -0 {os.getpid()}").exit_code == 1
        assert box.run("ls", "/").exit_code != 0
        other.sh("echo secret > mine; chmod 777 . mine")
        (path,) = weaker.state.glob(f"sandboxes/{other.sandbox_id}/workspace/mine")
        assert path.read_text() == "secret\n"
        assert "Permission denied" in box.sh(f"cat {path}").stderr
        assert "PermissionError" in box.python("import socket; socket.socket()").stderr
        assert box.sh("setpriv --no-new-privs true; id -u").stdout != "0\n"


def test_the_weaker_level_says_what_it_does_not_have(weaker: LocalServer) -> None:
    with weaker.sandbox() as box, weaker.client() as control:
        answers = [
            (502, box.http.get("/proxy/8000/")),
            (409, control.post("/sandboxes", json={"allowInternetAccess": True})),
            (409, control.put(f"/sandboxes/{box.sandbox_id}/network", json={"allowInternetAccess": True})),
            (400, control.post("/sandboxes", json={"volumeMounts": [{"name": "shared", "path": "/cache"}]})),
        ]
        for status, answer in answers:
            assert answer.status_code == status, answer.text
            assert "need sandboxes of the isolation level namespaces" in answer.json()["message"]
            assert "sandbox-tools doctor" in answer.json()["message"]


def test_a_terminal_works_at_the_weaker_level_and_those_of_others_are_closed(weaker: LocalServer) -> None:
    others, ours = os.openpty()
    with weaker.sandbox() as box:
        line = f"test -t 0 && echo a terminal; echo x > {os.ttyname(ours)} || echo refused"
        with box.start("sh", "-c", line, pty={"size": {"cols": 80, "rows": 24}}) as stream:
            shown = b""
            while b"refused" not in shown:
                shown += base64.b64decode(stream.event()["data"]["pty"])
    assert b"a terminal" in shown
    for fd in (others, ours):
        os.close(fd)


def test_the_commands_say_where_the_weaker_level_is_and_take_it_when_asked_to(passable: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("the landlock level needs a service that runs as root")
    ran = denied(passable, "demo")
    assert ran.returncode == 0, ran.stdout
    said = " ".join(ran.stdout.split())
    assert "This machine denies namespaces, so this demo uses the weaker isolation level landlock." in said
    assert "isolation level in force: landlock" in said
    assert "at the isolation level landlock no program can listen" in said
    assert "Every step succeeded." in said
    ran = denied(passable, "doctor")
    said = " ".join(ran.stdout.split())
    assert (ran.returncode, "No local sandbox here: native: unshare: Operation not permitted" in said) == (1, True)
    assert "The weaker isolation level landlock works here. To accept it: `--min-isolation landlock`" in said
    ran = denied(passable, "call", "exec", '{"command": "id -u"}', "--min-isolation", "landlock")
    assert (ran.returncode, ran.stdout.startswith("exit_code: 0")) == (0, True)
    assert "isolation: landlock" in ran.stderr


def denied(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run our command on a machine that denies namespaces, with a Python that every user can read."""
    environment = directory / "venv"
    subprocess.run([readable_python(), "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    ours = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    (packages / "ours.pth").write_text("\n".join(ours))
    command = [sys.executable, "-c", DENIED, str(ROOT), str(environment / "bin/python"), "-m", "sandbox_tools"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("program", [FORK, MEMORY], ids=["fork", "memory"])
def test_a_bomb_at_the_weaker_level_leaves_the_others_alone(weaker: LocalServer, program: str) -> None:
    with weaker.sandbox() as other, weaker.sandbox() as box:
        with box.start("python3", "-c", program):
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                assert other.run("true").exit_code == 0
        assert is_usable_or_stopped(box)
        assert other.run("true").exit_code == 0


def test_the_weaker_level_leaves_no_process(weaker: LocalServer) -> None:
    daemon = "(trap '' TERM HUP; exec setsid sleep 4321) & setsid sleep 4321 & sleep 4321"
    with weaker.sandbox() as box:
        uid = box.sh("id -u").stdout.strip()
        with box.start("sh", "-c", daemon):
            wait_for(lambda: len(processes_of(uid)) >= 4, what="the daemons")
            assert box.control.delete(f"/sandboxes/{box.sandbox_id}").status_code == 204
            assert processes_of(uid) == []


def test_killing_the_supervisor_at_the_weaker_level_ends_its_own_sandbox_only(weaker: LocalServer) -> None:
    """As the machine may do when memory runs out; code in the sandbox cannot."""
    with weaker.sandbox() as box, weaker.sandbox() as other:
        uid = other.sh("id -u").stdout.strip()
        with other.start("sh", "-c", "setsid sleep 4321 & sleep 4321"):
            wait_for(lambda: len(processes_of(uid)) >= 3, what="the sleepers")
            status = Path(f"/proc/{min(processes_of(uid))}/status").read_text()
            os.kill(int(status.split("PPid:")[1].split()[0]), 9)
            wait_for(lambda: not processes_of(uid), what="the end of every process")
        wait_for(lambda: other.state() == "stopped", what="the state")
        assert box.run("true").exit_code == 0


def test_killing_the_agent_at_the_weaker_level_ends_its_own_sandbox_only(weaker: LocalServer) -> None:
    with weaker.sandbox() as box, weaker.sandbox() as other:
        uid = other.sh("id -u").stdout.strip()
        with other.start("sh", "-c", "setsid sleep 4321 & sleep 4321"):
            wait_for(lambda: len(processes_of(uid)) >= 3, what="the sleepers")
            other.control.post(f"/sandboxes/{other.sandbox_id}/timeout", json={"timeout": 300})
            os.kill(min(processes_of(uid)), 9)
            wait_for(lambda: not processes_of(uid), what="the end of every process")
        wait_for(lambda: other.state() == "stopped", what="the state")
        assert box.run("true").exit_code == 0
