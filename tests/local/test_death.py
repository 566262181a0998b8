"""What happens when a part is killed: nothing survives it, and what is left says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.local.service import Box, LocalServer, running_service, wait_for

DAEMON = "setsid sh -c 'trap \"\" TERM HUP INT; sleep 1000' >/dev/null 2>&1 & sleep 1000 & sleep 1000"


def processes_of(box: Box) -> Callable[[], list[int]]:
    """Return a function that lists the host's ids of the sandbox's processes, by their pid namespace."""
    try:
        inode = Path(f"/proc/{box.agent_pid()}/ns/pid_for_children").stat().st_ino
    except PermissionError:  # not root: the workspace in their mounts tells as well
        inode = 0
    workspace = f"/{box.sandbox_id}/workspace"

    def belongs(process: Path) -> bool:
        try:
            if inode:
                return (process / "ns/pid_for_children").stat().st_ino == inode
            return workspace in (process / "mountinfo").read_text()
        except OSError:
            return False

    return lambda: [int(path.name) for path in Path("/proc").glob("[0-9]*") if belongs(path)]


def test_killing_the_service_leaves_no_process(tmp_path: Path) -> None:
    with running_service(tmp_path) as service, service.sandbox() as box, box.start("sh", "-c", DAEMON):
        processes = processes_of(box)
        wait_for(lambda: len(processes()) >= 5, what="the daemon and the sleepers")
        os.kill(service.pid, signal.SIGKILL)
        wait_for(lambda: not processes(), what="the end of every process", within_s=1)


def test_killing_the_agent_stops_its_sandbox_only(local_server: LocalServer, box: Box) -> None:
    with local_server.sandbox() as other:
        with box.start("sh", "-c", DAEMON) as stream:
            processes = processes_of(box)
            os.kill(box.agent_pid(), signal.SIGKILL)
            end = stream.until_end()
        assert (end["exitCode"], end["exited"], end["status"]) == (-1, False, "signal: killed")
        wait_for(lambda: not processes(), what="the end of every process", within_s=1)
        wait_for(lambda: box.state() == "stopped", what="the state")
        record = box.control.get(f"/sandboxes/{box.sandbox_id}").json()
        assert (record["envdUrl"], record["envdAccessToken"]) == (None, None)
        for method, path in [("POST", "/run"), ("GET", "/file?path=x"), ("GET", "/proxy/80/"), ("GET", "/health")]:
            answer = box.http.request(method, path, json={"cmd": "true"})
            assert (answer.status_code, "stopped" in answer.json()["message"]) == (404, True)
        refused = box.control.post(f"/sandboxes/{box.sandbox_id}/connect", json={"timeout": 0})
        assert refused.status_code == 409
        assert other.run("true").exit_code == 0


def test_killing_the_zygote_stops_the_sandboxes_and_the_next_one_works(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        with service.sandbox() as box:
            agent = Path(f"/proc/{box.agent_pid()}/status").read_text()
            zygote = int(next(line for line in agent.splitlines() if line.startswith("PPid:")).split()[1])
            os.kill(zygote, signal.SIGKILL)
            wait_for(lambda: box.state() == "stopped", what="the state")
        with service.sandbox() as box:
            assert box.run("true").exit_code == 0


def test_a_stopped_agent_does_not_stop_the_service(local_server: LocalServer, box: Box) -> None:
    """From the host, as from a broken kernel; from inside it cannot be done."""
    os.kill(box.agent_pid(), signal.SIGSTOP)
    with local_server.sandbox() as other:
        assert other.run("true").exit_code == 0
    assert box.control.delete(f"/sandboxes/{box.sandbox_id}").status_code == 204


def test_deleting_ends_every_process(box: Box) -> None:
    with box.start("sh", "-c", DAEMON):
        processes = processes_of(box)
        wait_for(lambda: len(processes()) >= 5, what="the daemon and the sleepers")
        assert box.control.delete(f"/sandboxes/{box.sandbox_id}").status_code == 204
        assert not processes()


def test_stopping_the_service_deletes_everything_at_once(tmp_path: Path) -> None:
    with running_service(tmp_path) as service, service.client() as control:
        for _ in range(5):
            assert control.post("/sandboxes", json={}).status_code == 201
        assert len(list((tmp_path / "sandboxes").iterdir())) >= 5  # and those that are ready for the next create
        assert service.process.stdin is not None
        service.process.stdin.close()
        assert service.process.wait(4) == 0
    assert list((tmp_path / "sandboxes").iterdir()) == []


def test_what_a_killed_service_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """And what another service uses is not."""
    with running_service(tmp_path) as killed, killed.client() as control:
        left = tmp_path / "sandboxes" / control.post("/sandboxes", json={}).json()["sandboxID"]
        with running_service(tmp_path) as alive, alive.sandbox() as box:
            os.kill(killed.pid, signal.SIGKILL)
            killed.process.wait()
            assert left.exists()
            with running_service(tmp_path):
                wait_for(lambda: not left.exists(), what="the removal")
            assert box.sh("echo x > f; cat f").stdout == "x\n"
