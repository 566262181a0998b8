"""The landlock level for a service that is not root: its sandboxes have the user id of their user.

So all that a user may do to files and processes of its own is tried from inside.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from sandbox_tools.local import landlock
from tests.local.service import Box, LocalServer, running_service, wait_for
from tests.local.users import ORDINARY_UID, as_ordinary_user, passable_directory, readable_python

MARK = str(secrets.randbelow(10**6) + 10**6)
"""Seconds that only the sleepers of this run sleep."""

DAEMON = f"(trap '' TERM HUP; exec setsid sleep {MARK}) & setsid sleep {MARK} & sleep {MARK}"


@pytest.fixture(scope="module")
def owner() -> int:
    return os.getuid() or ORDINARY_UID


@pytest.fixture(scope="module")
def home(owner: int) -> Iterator[Path]:
    """A directory of the user."""
    with passable_directory() as directory:
        os.chown(directory, owner, -1)
        yield directory


@pytest.fixture(scope="module")
def local_server(home: Path) -> Iterator[LocalServer]:
    with running_in(home / "state") as service:
        yield service


@pytest.fixture(scope="module")
def box(local_server: LocalServer) -> Iterator[Box]:
    with local_server.sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def bystander(owner: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the user that has nothing to do with us."""
    with subprocess.Popen(["sleep", "4321"], user=owner if os.getuid() == 0 else None) as process:
        yield process
        process.kill()


def running_in(state: Path) -> AbstractContextManager[LocalServer]:
    env = {"LAUNCHERS": "landlock"}
    return running_service(state, prefix=as_ordinary_user(), python=readable_python(), env=env)


def test_a_sandbox_of_an_ordinary_user_says_what_it_is(box: Box, owner: int) -> None:
    isolation = box.record["isolation"]
    assert (isolation["level"], isolation["hardLimits"]) == ("landlock", ["open_files", "file_size"])
    assert "processes" in isolation["softLimits"]
    assert box.sh("id -u").stdout == f"{owner}\n"
    refused = box.rpc("process.Process/Start", {"process": {"cmd": "true"}, "pty": {"size": {"cols": 80, "rows": 24}}})
    assert "terminals (pty), where the service is not root, need sandboxes of the isolation level" in refused.text
    watcher = box.rpc("filesystem.Filesystem/CreateWatcher", {"path": "."})
    assert (watcher.status_code, "not permitted" in watcher.text) == (403, True)


def test_the_usual_work_with_files_works(box: Box) -> None:
    assert box.sh("touch a && cp -p a b && tar cf t b && mkdir o && tar xf t -C o && ls o").stdout == "b\n"
    box.python("import shutil; shutil.copy2('a', 'c'); open('d', 'w').write('x')")
    box.python("import os, pathlib; pathlib.Path('new').touch(); pathlib.Path('a').touch(); os.utime('a', (1, 1))")
    assert box.sh("ls new").exit_code == 0
    repository = "git init -q r && cd r && git config user.name x && git status"
    assert shutil.which("git") is None or box.sh(repository).exit_code == 0
    assert [box.run("touch", path).exit_code for path in ("/usr/x", "/etc/x", "/proc/x", "a")] == [1, 1, 1, 0]
    assert box.http.get("/file", params={"path": "/root/workspace/d"}).text == "x"
    assert box.http.post("/file", params={"path": "/root/workspace/e"}, content=b"y").status_code == 204
    assert box.sh("cat e; nice -n 1 true && ulimit -n").stdout == "y1024\n"


@pytest.mark.parametrize(
    "attempt",
    [
        "cat {file}",
        "echo x > {file}",
        "truncate -s 0 {file}",
        "rm {file}",
        "mv {file} moved",
        "ln {file} linked",
        "ls {directory}",
        "mkdir {directory}/new",
        "touch -d 2001-01-01 {file}",
        "chmod 777 {directory} {file}",
        "chgrp {group} {file}",
        'python3 -c \'import os; os.chmod("{file}", 0o777); os.utime("{file}", (1, 1))\'',
        'python3 -c \'import os; print(os.getxattr("{file}", "user.kept"))\'',
        'python3 -c \'import os; os.setxattr("{file}", "user.x", b"y")\'',
    ],
)
def test_a_file_of_the_user_stays_as_it_is(box: Box, home: Path, owner: int, attempt: str) -> None:
    file = home / "secret"
    file.write_text("canary")
    file.chmod(0o600)
    if os.getuid() == 0:
        os.chown(file, owner, owner)
    with suppress(OSError):  # not on every file system
        os.setxattr(file, "user.kept", b"canary")
    attributes = os.listxattr(file)
    before = [(path.stat().st_mode, path.stat().st_mtime_ns, path.stat().st_uid) for path in (file, home)]
    ran = box.sh(attempt.format(file=file, directory=home, group=owner))
    assert "canary" not in ran.stdout + box.sh("cat moved linked").stdout
    assert file.read_text() == "canary"
    assert os.listxattr(file) == attributes
    after = [(path.stat().st_mode, path.stat().st_mtime_ns, path.stat().st_uid) for path in (file, home)]
    assert after == before


@pytest.mark.parametrize(
    "attempt",
    [
        "kill -0 {pid}",
        "kill -9 {pid}",
        "renice -n 19 {pid}",
        "ionice -c 3 -p {pid}",
        "taskset -p 1 {pid}",
        "prlimit --pid {pid} --nofile=1:1",
        "cat /proc/{pid}/environ",
        "ls /proc/{pid}/cwd/",
        "readlink /proc/{pid}/fd/0",
        "cat /proc/{pid}/fd/0",
        "cat /proc/{pid}/fdinfo/0",
        "head -c 1 /proc/{pid}/mem",
        "cat /proc/{pid}/maps",
        "echo 1000 > /proc/{pid}/oom_score_adj",
    ],
)
def test_a_process_of_the_user_is_out_of_reach(box: Box, bystander: subprocess.Popen[bytes], attempt: str) -> None:
    before = state_of(bystander.pid)
    for pid in (bystander.pid, "$PPID") if "/proc" in attempt else (bystander.pid,):
        ran = box.sh(attempt.format(pid=pid))
        assert ran.exit_code != 0, pid
        assert "/proc" not in attempt or ran.stdout == "", pid
    assert bystander.poll() is None
    assert state_of(bystander.pid) == before


def state_of(pid: int) -> tuple[object, ...]:
    limits = Path(f"/proc/{pid}/limits").read_text()
    return os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid), limits


def test_a_sandbox_of_the_same_user_is_out_of_reach(local_server: LocalServer, box: Box) -> None:
    box.sh("echo secret > mine")
    path = box.sh("echo $HOME/mine").stdout.strip()
    with local_server.sandbox() as other, box.start("sleep", "4321") as stream:
        pid = stream.pid
        assert box.sh(f"kill -0 {pid}").exit_code == 0  # the control
        for attempt in (f"cat {path}", f"echo x > {path}", f"kill -0 {pid}", f"cat /proc/{pid}/environ"):
            assert other.sh(attempt).exit_code != 0, attempt
        other.http.post("/run", json={"cmd": "sh", "args": ["-c", "kill -9 -1"]})
        wait_for(lambda: other.state() == "stopped", what="the end of the one that killed all it could reach")
        assert box.sh(f"kill -0 {pid}").exit_code == 0


def test_ending_a_sandbox_ends_its_processes_and_no_other(
    local_server: LocalServer, bystander: subprocess.Popen[bytes]
) -> None:
    with local_server.sandbox() as box, box.start("sh", "-c", DAEMON):
        wait_for(lambda: sleepers() == 3, what="the daemons")
        assert box.control.delete(f"/sandboxes/{box.sandbox_id}").status_code == 204
        assert sleepers() == 0
    assert bystander.poll() is None


def test_killing_the_service_ends_its_sandboxes_and_no_other(home: Path, bystander: subprocess.Popen[bytes]) -> None:
    with running_in(home / "killed") as service, service.sandbox() as box, box.start("sh", "-c", DAEMON):
        wait_for(lambda: sleepers() == 3, what="the daemons")
        os.kill(service.pid, signal.SIGKILL)
        wait_for(lambda: sleepers() == 0, what="the end of every process", within_s=2)
    assert bystander.poll() is None


def test_killing_the_supervisor_ends_its_sandbox_and_no_other(
    local_server: LocalServer, box: Box, bystander: subprocess.Popen[bytes]
) -> None:
    with local_server.sandbox() as other, other.start("sh", "-c", DAEMON):
        wait_for(lambda: sleepers() == 3, what="the daemons")
        agent = other.sh("echo $PPID").stdout.strip()
        os.kill(int(Path(f"/proc/{agent}/status").read_text().split("PPid:")[1].split()[0]), signal.SIGKILL)
        wait_for(lambda: sleepers() == 0, what="the end of every process")
        wait_for(lambda: other.state() == "stopped", what="the state")
    assert (box.sh("echo alive").stdout, bystander.poll()) == ("alive\n", None)


def sleepers() -> int:
    """Return how many of our daemons run."""
    found = 0
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += command.read_bytes() == f"sleep\0{MARK}\0".encode()
    return found


def test_a_kernel_that_cannot_keep_signals_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 5)
    with pytest.raises(PermissionError, match=r"Linux 6\.12 or newer"):
        landlock.keep_signals_inside()
