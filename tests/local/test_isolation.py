"""What a sandbox offers, and that the self-test can tell a sandbox from none."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_tools.local import canary, launcher
from sandbox_tools.local.isolation import probe
from sandbox_tools.local.state import State
from tests.local.service import Box


def test_the_canary_finds_something_where_nothing_is_isolated(tmp_path: Path) -> None:
    """The control of the self-test: the same program, run on the host."""
    (tmp_path / "file").write_text("x")
    host = {"level": "namespaces", "user": "own", "file": str(tmp_path / "file"), "port": "1", "abstract": "none"}
    ran = subprocess.run([sys.executable, canary.__file__, json.dumps(host)], capture_output=True, check=True)
    found = json.loads(ran.stdout)
    assert "a file of the host is visible" in found
    assert "Seccomp is 0" in found
    assert "unshare is not refused" in found


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a sandbox a user id of its own")
def test_a_user_id_that_somebody_has_is_not_given_to_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name, a process, the files of another sandbox."""
    monkeypatch.setattr(launcher, "_SPARE_UIDS", ((64_990, 4),))  # 64991 to 64994
    with subprocess.Popen(["sleep", "60"], user=64_992) as running:
        monkeypatch.setattr(pwd, "getpwuid", lambda uid: {64_991: "somebody"}[uid])
        assert {launcher.spare_uid() for _ in range(20)} == {64_993, 64_994}
        assert {launcher.spare_uid({64_993}) for _ in range(20)} == {64_994}
        with pytest.raises(launcher.LaunchError, match="no spare user id"):
            launcher.spare_uid({64_993, 64_994})
        running.kill()


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a sandbox a user id of its own")
def test_the_user_ids_of_sandboxes_are_known_as_long_as_their_files_are_there(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.prepare()
    homes = [state.new_home(f"sb-{uid}", uid) for uid in (64_991, 64_992)]
    assert state.uids() == {64_991, 64_992}
    for home in homes:
        home.remove()
    assert state.uids() == set()


async def test_the_self_test_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("SANDBOX_TOOLS_MIN_ISOLATION", raising=False)
    report = await probe()
    assert (report.level, report.launcher) == ("namespaces", "native")
    assert list((tmp_path / "sandbox-tools/sandboxes").iterdir()) == []
    monkeypatch.setenv("XDG_STATE_HOME", "/proc")
    assert (await probe()).reason.startswith("/proc/sandbox-tools: ")


@pytest.mark.parametrize("path", ["/tmp", "/dev/shm", "/root/workspace"])
def test_the_places_for_work_can_be_written(box: Box, path: str) -> None:
    assert box.sh(f"echo x > {path}/x && cat {path}/x").stdout == "x\n"


def test_the_hosts_python_and_its_packages_work(box: Box) -> None:
    program = "import sys, anyio, ssl, sqlite3, ctypes; print(sys.base_prefix, anyio.__name__)"
    assert box.python(program).stdout == f"{sys.base_prefix} anyio\n"
