"""Control groups: made where they can be, one a sandbox, and none is left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_tools.local import cgroups
from sandbox_tools.local.cgroups import Cgroups, find_hierarchies, hard_limits
from tests.local.service import Box, LocalServer, running_service, wait_for

needs_cgroups = pytest.mark.skipif(
    not hard_limits(find_hierarchies()),
    reason="this machine gives us no control groups: then the watchdog's tests count",
)

MANY_WITH_LITTLE = """
import os, time
for _ in range(40):
    if os.fork() == 0:
        x = b"x" * (10 << 20)
        time.sleep(1000)
time.sleep(1000)
"""
LOWERED_BYTES = 128 << 20


@pytest.fixture
def own() -> Iterator[Cgroups]:
    groups = Cgroups.open()
    yield groups
    groups.close()


def groups_of(pid: int) -> set[str]:
    return {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}


@needs_cgroups
def test_every_process_of_a_sandbox_is_in_its_group(box: Box) -> None:
    assert "memory" in box.record["isolation"]["hardLimits"]
    inside = {path for path in groups_of(box.agent_pid()) if f"/{box.sandbox_id}" in path}
    assert inside
    with box.start("sh", "-c", "sleep 1000 & sleep 1000"):
        for path in find_hierarchies()[0].base.glob(f"sandbox-tools-*/{box.sandbox_id}*/cgroup.procs"):
            wait_for(lambda path=path: len(path.read_text().split()) >= 3, what="the processes in the group")


@needs_cgroups
def test_all_processes_together_cannot_have_more_memory_than_allowed(local_server: LocalServer, box: Box) -> None:
    """Each of them has little. The kernel ends some: the sandbox goes on, or is reported as stopped."""
    [usage] = usage_files(box.sandbox_id)
    limit = usage.parent / ("memory.max" if usage.name == "memory.current" else "memory.limit_in_bytes")
    assert int(limit.read_text()) == cgroups.MEMORY_BYTES
    limit.write_text(str(LOWERED_BYTES))
    with local_server.sandbox() as other, box.start("python3", "-c", MANY_WITH_LITTLE):
        wait_for(lambda: box.state() == "stopped" or oom_kills(usage.parent) > 0, what="the limit")
        assert other.run("true").exit_code == 0
        assert not usage.exists() or int(usage.read_text()) <= LOWERED_BYTES


def usage_files(sandbox_id: str) -> list[Path]:
    names = ("memory.usage_in_bytes", "memory.current")
    bases = [hierarchy.base for hierarchy in find_hierarchies()]
    found = [path for base in bases for name in names for path in base.glob(f"sandbox-tools-*/{sandbox_id}*/{name}")]
    assert found
    return found


def oom_kills(group: Path) -> int:
    for name in ("memory.oom_control", "memory.events"):
        if (group / name).exists():
            fields = dict(line.split() for line in (group / name).read_text().splitlines())
            return int(fields["oom_kill"])
    return 0


@needs_cgroups
def test_no_group_is_left_by_a_service(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        with service.sandbox() as box:
            assert box.run("true").exit_code == 0
            used = usage_files(box.sandbox_id)
        wait_for(lambda: not any(path.exists() for path in used), what="the removal of the sandbox's group")
        own = used[0].parent.parent
        assert own.exists()
    assert not own.exists()


@needs_cgroups
def test_groups_of_a_killed_service_are_removed_by_the_next_and_no_others(tmp_path: Path, own: Cgroups) -> None:
    group = own.new("in-use")
    assert group is not None
    with running_service(tmp_path) as killed, killed.sandbox() as box:
        files = usage_files(box.sandbox_id)
        os.kill(killed.pid, signal.SIGKILL)
        killed.process.wait()
        wait_for(lambda: not (files[0].parent / "cgroup.procs").read_text(), what="the end of its processes")
    again = Cgroups.open()
    again.close()
    assert not files[0].parent.parent.exists()
    assert all(directory.exists() for directory in group.directories)


@needs_cgroups
def test_a_group_takes_a_process_and_goes_with_it(own: Cgroups) -> None:
    group = own.new("one")
    assert group is not None
    with subprocess.Popen(["sleep", "1000"]) as process:
        group.add(process.pid)
        assert any(path.endswith("/one") for path in groups_of(process.pid))
        process.kill()
    group.remove()
    assert not any(directory.exists() for directory in group.directories)


def version_2_tree(root: Path, *, controllers: str) -> Path:
    """Make the files of a delegated session as systemd makes them; this machine has version 1."""
    service = root / "user.slice" / "user@1000.service"
    terminal = service / "app.slice" / "terminal.scope"
    terminal.mkdir(parents=True)
    for directory in (terminal, terminal.parent, service):
        (directory / "cgroup.procs").touch()
        (directory / "cgroup.controllers").write_text(controllers)
        (directory / "cgroup.subtree_control").write_text("" if directory == terminal else controllers)
    (root / "proc").mkdir()
    (root / "proc/cgroup").write_text("0::/user.slice/user@1000.service/app.slice/terminal.scope\n")
    (root / "proc/mountinfo").write_text(f"30 23 0:26 / {root} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n")
    return terminal


def test_in_a_delegated_session_groups_are_made_beside_our_own(tmp_path: Path) -> None:
    terminal = version_2_tree(tmp_path, controllers="memory pids")
    (terminal / "cgroup.subtree_control").chmod(0o444)  # it holds processes, so the kernel refuses to write there
    (terminal / "cgroup.subtree_control").unlink()
    (terminal / "cgroup.subtree_control").symlink_to("/proc/self/status")
    [hierarchy] = find_hierarchies(tmp_path / "proc")
    assert hierarchy.base == terminal.parent
    assert hierarchy.limits == {"memory.max": "2147483648", "memory.swap.max": "0", "pids.max": "256"}


def test_without_a_memory_controller_there_are_no_groups(tmp_path: Path) -> None:
    version_2_tree(tmp_path, controllers="")
    assert find_hierarchies(tmp_path / "proc") == []
