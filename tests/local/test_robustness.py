"""When the machine runs out of something, callers get an error that says so, nothing is corrupt, and it passes."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.local.service import Box, LocalServer, running_service, wait_for

as_root = pytest.mark.skipif(os.getuid() != 0 and "CI" not in os.environ, reason="mounts a small file system")


@contextmanager
def on_small_disk(tmp_path: Path, mount_point: Path, size: str, **options: str) -> Iterator[LocalServer]:
    """Run a service that alone sees a small file system at `mount_point`."""
    mount_point.mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o size={size},mode=700 small "{mount_point}" && exec "$@"'
    prefix = ("unshare", "-m", "sh", "-c", mount, "sh")
    with running_service(tmp_path / "state", prefix=prefix, env=options) as service:
        yield service


def root_of(service: LocalServer) -> Path:
    return Path(f"/proc/{service.pid}/root")


@as_root
def test_a_full_disk_is_an_error_and_the_old_file_stays(tmp_path: Path) -> None:
    with on_small_disk(tmp_path, tmp_path / "state", "8m") as service, service.sandbox() as box:
        assert box.http.post("/file", params={"path": "f"}, content=b"old").status_code == 204
        box.sh("head -c 100M /dev/zero > filler")
        for path in ("f", "new"):
            refused = box.http.post("/file", params={"path": path}, content=b"x" * 1_000_000)
            assert (refused.status_code, "No space left on device" in refused.json()["message"]) == (507, True)
        assert box.http.get("/file", params={"path": "f"}).content == b"old"
        assert box.http.get("/file", params={"path": "new"}).status_code == 404
        assert box.sh("ls -A | grep -v -e filler -e '^f$'").stdout == ""
        box.sh("rm filler")
        assert box.http.post("/file", params={"path": "f"}, content=b"x" * 1_000_000).status_code == 204


@as_root
def test_a_disk_without_room_for_another_sandbox_is_an_error(tmp_path: Path) -> None:
    with on_small_disk(tmp_path, tmp_path / "state", "8m,nr_inodes=30") as service, service.sandbox() as box:
        box.sh("i=0; while : > $i; do i=$((i+1)); done")
        with service.client() as control:
            created = [control.post("/sandboxes", json={}) for _ in range(5)]  # some are ready already
            assert created[-1].status_code == 507
            assert "no space left on the disk of this machine" in created[-1].json()["message"]
            box.sh("rm *")
            wait_for(lambda: control.post("/sandboxes", json={}).status_code == 201, what="a sandbox")


@as_root
def test_a_full_temporary_directory_keeps_nobody_from_working(tmp_path: Path) -> None:
    full = tmp_path / "tmp"
    with on_small_disk(tmp_path, full, "64k", TMPDIR=str(full)) as service:
        inside = root_of(service) / full.relative_to("/")
        fill(inside / "filler")
        assert os.statvfs(inside).f_bavail == 0
        with service.sandbox() as box:
            assert box.run("true").exit_code == 0
            form = {"file": ("a.txt", b"x" * 3_000_000)}
            assert box.http.post("/files", params={"path": "a.txt"}, files=form).status_code == 200
            assert len(box.http.get("/file", params={"path": "a.txt"}).content) == 3_000_000


def fill(path: Path) -> None:
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_too_many_open_files_are_an_error_and_pass(tmp_path: Path) -> None:
    with (
        running_service(tmp_path, prefix=("prlimit", "--nofile=128:128")) as service,
        service.sandbox() as box,
        service.sandbox() as other,
        ExitStack() as held,
    ):
        assert box.http.post("/file", params={"path": "f"}, content=b"old").status_code == 204
        problems = []
        for _ in range(64):
            try:
                held.enter_context(box.start("sleep", "1000"))
            except AssertionError as error:
                problems.append(str(error))
                break
        assert "too many open files" in problems[0]
        answer = box.http.post("/file", params={"path": "f"}, content=b"new")
        assert answer.status_code in (204, 503)
        held.close()
        box.sh("pkill sleep")
        wait_for(lambda: works(box) and works(other), what="recovery")
        assert box.http.get("/file", params={"path": "f"}).content in (b"old", b"new")
        with service.sandbox() as third:
            assert works(third)


def works(box: Box) -> bool:
    try:
        return box.http.post("/run", json={"cmd": "true"}).status_code == 200
    except httpx.TransportError:
        return False


def test_connections_that_take_all_files_do_not_end_the_service(tmp_path: Path) -> None:
    with running_service(tmp_path, prefix=("prlimit", "--nofile=128:128")) as service, service.sandbox() as box:
        port = int(service.base_url.rpartition(":")[2])
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(150)]
        for one in idle:
            one.close()
        wait_for(lambda: works(box), what="recovery")


def test_two_hundred_clients_at_once(local_server: LocalServer) -> None:
    problems: list[str] = []
    with ExitStack() as stack:
        boxes = [stack.enter_context(local_server.sandbox()) for _ in range(8)]

        def use(number: int) -> None:
            box, content = boxes[number % len(boxes)], f"content {number}".encode()
            wrote = call(box, f"/file?path=dir/{number}", content)
            ran = run_cat(box, number)
            while ran[0] == 429:  # as many processes as the service looks after in one sandbox
                ran = run_cat(box, number)
            if wrote[0] != 204 or json.loads(ran[1]).get("stdout") != content.decode():
                problems.append(f"{number}: {wrote} {ran}")

        threads = [threading.Thread(target=use, args=(number,)) for number in range(200)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert problems == []
    assert time.monotonic() - began < 60


def run_cat(box: Box, number: int) -> tuple[int, bytes]:
    return call(box, "/run", json.dumps({"cmd": "cat", "args": [f"dir/{number}"]}).encode())


def call(box: Box, path: str, body: bytes) -> tuple[int, bytes]:
    """Call the runtime on a connection of its own, with a client that costs little."""
    base = urlsplit(box.record["envdUrl"])
    connection = http.client.HTTPConnection(base.netloc, timeout=60)
    with closing(connection):
        connection.request("POST", base.path + path, body, {"X-Access-Token": box.record["envdAccessToken"]})
        answer = connection.getresponse()
        return answer.status, answer.read()
