"""The watchdog: a sandbox that takes too much is ended and says why, and the others go on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox_tools.local import measure
from sandbox_tools.local.watchdog import Bounds, Watchdog, Watched
from tests.local.service import Box, LocalServer, running_service, wait_for
from tests.local.users import ORDINARY_UID, as_ordinary_user, passable_directory, readable_python

LIMIT_BYTES = 96 << 20

IN_MANY_PROCESSES = """
import os, time
for _ in range(16):
    if os.fork() == 0:
        x = b"x" * (10 << 20)
        time.sleep(1000)
time.sleep(1000)
"""

IN_MEMORY_FILES = """
import os, time
for number in range(4):
    os.write(os.memfd_create("x"), bytes(40 << 20))
time.sleep(1000)
"""

ON_DISK = "for i in 1 2 3 4; do head -c 40M /dev/zero > f$i; done; sleep 1000"


@pytest.fixture(scope="module")
def service() -> Iterator[LocalServer]:
    """A service of a user who has no control groups, so that the watchdog is alone."""
    with passable_directory() as directory:
        state = directory / "state"
        state.mkdir(mode=0o700)
        if os.getuid() == 0:
            os.chown(state, ORDINARY_UID, ORDINARY_UID)
        env = {"BOUNDS": json.dumps({"memory": LIMIT_BYTES, "disk": LIMIT_BYTES})}
        with running_service(state, prefix=as_ordinary_user(), python=readable_python(), env=env) as running:
            yield running


def says_why(box: Box, reason: str) -> bool:
    if box.state() != "stopped":
        return False
    answer = box.http.post("/run", json={"cmd": "true"})
    assert answer.status_code == 404
    assert reason in answer.json()["message"]
    assert reason in box.control.get(f"/sandboxes/{box.sandbox_id}").json()["diagnostic"]["message"]
    return True


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        pytest.param(("python3", "-c", IN_MANY_PROCESSES), "more than 96 MiB of memory", id="memory of many processes"),
        pytest.param(("python3", "-c", IN_MEMORY_FILES), "more than 96 MiB of memory", id="memory files"),
        pytest.param(("sh", "-c", ON_DISK), "more than 96 MiB of disk", id="disk"),
    ],
)
def test_a_sandbox_that_takes_too_much_is_ended(service: LocalServer, program: tuple[str, ...], reason: str) -> None:
    with service.sandbox() as other, service.sandbox(autoPause=True) as box:
        assert "memory" in box.record["isolation"]["softLimits"]
        with box.start(*program):
            wait_for(lambda: says_why(box, reason), what="the end of the sandbox")
        workspace = service.state / "sandboxes" / box.sandbox_id / "workspace"
        wait_for(lambda: not workspace.exists(), what="the removal of its files")
        path = f"/sandboxes/{box.sandbox_id}"
        assert box.control.post(f"{path}/timeout", json={"timeout": 0}).status_code == 204
        wait_for(lambda: box.control.get(path).status_code == 404, what="its end: there is nothing to pause")
        assert other.run("true").exit_code == 0


def test_a_volume_counts_for_who_has_it(service: LocalServer) -> None:
    mounts = [{"name": "big", "path": "/big"}]
    with service.sandbox() as other, service.sandbox(volumeMounts=mounts) as box:
        with box.start("sh", "-c", f"cd /big; {ON_DISK}"):
            wait_for(lambda: says_why(box, "more than 96 MiB of disk"), what="the end of the sandbox")
        assert other.run("true").exit_code == 0


def test_a_sandbox_within_its_limits_is_left_alone(service: LocalServer) -> None:
    program = "import time; x = b'x' * (20 << 20); open('f', 'wb').write(x); time.sleep(1)"
    with service.sandbox() as box:
        assert box.run("python3", "-c", program).exit_code == 0
        assert box.state() == "running"


@contextmanager
def process_with(megabytes: int, children: int = 0) -> Iterator[int]:
    program = f"""
import os, time
x = b"x" * ({megabytes} << 20)
for _ in range({children}):
    if os.fork() == 0:
        time.sleep(1000)
print("ready", flush=True)
time.sleep(1000)
"""
    with subprocess.Popen(["python3", "-c", program], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        os.killpg(process.pid, 9)


def test_pages_that_processes_share_count_once() -> None:
    with process_with(50, children=5) as pid:
        pids = measure.process_tree(pid)
        assert len(pids) == 6
        assert measure.resident_bytes(pids) > 250 << 20
        assert 50 << 20 < measure.exact_bytes(pids) < 100 << 20


def test_when_the_machine_is_nearly_full_the_biggest_ends(tmp_path: Path) -> None:
    everything = 1 << 60
    reasons: list[str] = []
    with process_with(10) as small, process_with(80) as big:
        watched = [Watched(pid, tmp_path / str(pid), reasons.append) for pid in (small, big)]
        for floor in (0, everything):
            watchdog = Watchdog(Bounds(memory_floor=floor))
            full = measure.Host(memory_total=everything, memory_available=everything // 21, shared_memory=0)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(measure, "host", lambda full=full: full)
                found = watchdog.look(watched)
            assert [one.pid for one in found] == ([big] if floor else [])


def test_who_is_gone_uses_nothing() -> None:
    with process_with(1) as pid:
        pass
    assert measure.process_tree(pid) == [pid]
    assert (measure.resident_bytes([pid]), measure.exact_bytes([pid])) == (0, 0)
    assert measure.disk_bytes([Path("/nonexistent")]) == {}
