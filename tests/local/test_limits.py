"""What a sandbox cannot exceed, and what its output costs the host."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.local.service import Box, LocalServer


def memory_mb(pid: int, name: str = "VmRSS") -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) // 1024


def test_a_fork_bomb_stops_and_another_sandbox_goes_on(local_server: LocalServer, box: Box) -> None:
    program = """
import os, time
count = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(1000)
    except OSError:
        break
    count += 1
print(count, flush=True)
time.sleep(1000)
"""
    with local_server.sandbox() as other, box.start("python3", "-c", program) as bomb:
        assert "data" in bomb.event()  # it cannot fork any more
        slowest = 0.0
        for _ in range(10):
            began = time.monotonic()
            assert other.run("true").exit_code == 0
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 5
        refused = box.http.post("/run", json={"cmd": "true"})
        assert (refused.status_code, "temporarily unavailable" in refused.json()["message"]) == (503, True)
        selector = {"process": {"pid": bomb.pid}, "signal": "SIGNAL_SIGKILL"}
        assert box.rpc("process.Process/SendSignal", selector).status_code == 200
        bomb.until_end()
    assert box.run("true").exit_code == 0


def test_the_number_of_processes_is_bounded(box: Box) -> None:
    program = "import os, time\nfor _ in range(1000):\n    if os.fork() == 0: time.sleep(1000)"
    ran = box.python(program)
    assert "BlockingIOError" in ran.stderr
    box.sh("exec pkill -KILL python3")


def test_processes_that_the_service_looks_after_are_bounded(box: Box) -> None:
    for _ in range(64):
        assert box.sh("sleep 1000 &").exit_code == 0
    refused = box.http.post("/run", json={"cmd": "true"})
    assert refused.status_code == 429


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("head -c 600M /dev/zero > /tmp/f", "No space left on device"),
        ("head -c 70M /dev/zero > /dev/shm/f", "No space left on device"),
        ("fallocate -l 2G /root/workspace/f", "File too large"),
        ("i=0; mkdir /dev/shm/d; while : > /dev/shm/d/$i; do i=$((i+1)); done", "No space left on device"),
    ],
)
def test_files_are_bounded(box: Box, line: str, phrase: str) -> None:
    assert phrase in box.run("bash", "-c", f"ulimit -c 0; trap '' XFSZ; {line}").stderr


def test_memory_of_one_process_is_bounded(box: Box) -> None:
    assert "MemoryError" in box.python("x = bytearray(3 << 30)").stderr


def test_shared_memory_segments_are_bounded(box: Box) -> None:
    program = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.shmget(0, ctypes.c_size_t(128 << 20), 0o1600), ctypes.get_errno())
"""
    assert box.python(program).stdout == "-1 28\n"  # ENOSPC


def test_open_files_are_bounded(box: Box) -> None:
    assert box.sh("ulimit -n; ulimit -Hn; ulimit -c").stdout == "1024\n1024\n0\n"


def test_a_sandbox_too_many_is_refused_with_the_limit(tmp_path: Path) -> None:
    """Wire contract 2.9."""
    from tests.local.service import running_service

    with running_service(tmp_path, max_sandboxes=1) as service, service.sandbox() as only:
        answer = only.control.post("/sandboxes", json={})
        details = answer.json()["details"]
        assert (answer.status_code, details["reason"]) == (429, "usage_limit")
        assert (details["used"], details["limit"], details["remaining"]) == (1, 1, 0)


def test_much_output_costs_the_service_little_memory(local_server: LocalServer, box: Box) -> None:
    before = memory_mb(local_server.pid, "VmHWM")
    body = {"process": {"cmd": "head", "args": ["-c", "200000000", "/dev/zero"]}, "stdin": False}
    with box.http.stream("POST", "/process.Process/Start", json=body) as response:
        total = sum(len(chunk) for chunk in response.iter_raw())
    assert total > 200_000_000 * 4 // 3
    assert memory_mb(local_server.pid, "VmHWM") - before < 32


def test_a_reader_that_stops_slows_the_program_and_not_the_service(local_server: LocalServer, box: Box) -> None:
    before = memory_mb(local_server.pid)
    with box.start("sh", "-c", "head -c 200000000 /dev/zero; touch written") as stream:
        stream.event()
        assert box.sh("sleep 0.5; ls written").exit_code == 2
        assert memory_mb(local_server.pid) - before < 32
    assert box.sh("for i in 1 2 3 4 5 6 7 8 9; do sleep 1; ls written && exit; done").stdout == "written\n"


def test_output_that_nobody_wants_is_drained_and_its_head_kept(box: Box) -> None:
    with box.start("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x") as stream:
        cmd_id = stream.started["cmdId"]
    result = {}
    for _ in range(100):
        answer = box.rpc("process.Process/GetResult", {"cmdId": cmd_id})
        if answer.status_code == 200:
            result = answer.json()
            break
        box.run("sleep", "0.05")
    assert (result["exitCode"], len(result["stdout"])) == (0, 1 << 20)


def test_a_program_that_writes_for_ever_unheard_leaves_the_service_responsive(box: Box) -> None:
    with box.start("yes"):
        pass
    times = []
    for _ in range(20):
        began = time.monotonic()
        box.run("true")
        times.append(time.monotonic() - began)
    assert sorted(times)[10] < 1


def test_many_sandboxes_at_once(local_server: LocalServer) -> None:
    """As many as are allowed by default are for the benchmark; here, that they do not get in each other's way."""
    outputs: list[str] = []

    def use(number: int) -> None:
        with local_server.sandbox() as sandbox:
            sandbox.http.post("/file", params={"path": "f"}, content=str(number).encode())
            outputs.append(sandbox.run("cat", "f").stdout)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs) == [str(number) for number in range(10)]
