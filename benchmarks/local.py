"""The local sandbox service: what each operation costs beside its floor, and how that grows with their number.

The floors are measured in the same run: a bare fork and exec on the host, other sandboxes that are on PATH, and plain
HTTP to a server on the host's own loopback.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

_BWRAP = "--unshare-all --ro-bind /usr /usr --symlink usr/lib64 /lib64 --symlink usr/lib /lib --proc /proc --dev /dev"
PEERS: dict[str, list[str]] = {
    "unshare": ["-Urmpfn", "--mount-proc", "/bin/true"],
    "bwrap": [*_BWRAP.split(), "/usr/bin/true"],
    "nsjail": ["-Mo", "-Q", "--chroot", "/", "--", "/bin/true"],
    "firejail": ["--quiet", "--noprofile", "--net=none", "/bin/true"],
    "srt": ["true"],
    "docker": ["run", "--rm", "--network=none", "debian:stable-slim", "true"],
}
"""Programs that make a sandbox, run `true` in it, and end it: what a create, a command and a delete do here."""

KEY = "key-of-the-local-benchmark"

SERVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 4096
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *args): pass
class Server(ThreadingHTTPServer):
    request_queue_size = 128
Server(("127.0.0.1", 8000), Page).serve_forever()
"""


class Service:
    """A service in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], base_url: str) -> None:
        self.process = process
        self.http = httpx.Client(base_url=base_url, headers={"X-API-Key": KEY}, trust_env=False, timeout=60)
        self.runtime = httpx.Client(trust_env=False, timeout=60)

    def create(self) -> Sandbox:
        answer = self.http.post("/sandboxes", json={"timeout": 3600, "waitReady": True})
        return Sandbox(self, answer.raise_for_status().json())


class Sandbox:
    """One sandbox, by plain HTTP."""

    def __init__(self, service: Service, record: dict[str, Any]) -> None:
        self.service = service
        self.id = record["sandboxID"]
        self.url = record["envdUrl"]
        self.headers = {"X-Access-Token": record["envdAccessToken"]}

    def run(self, command: str = "true") -> None:
        body = {"cmd": "/bin/sh", "args": ["-c", command]}
        self.service.runtime.post(f"{self.url}/run", json=body, headers=self.headers).raise_for_status()

    def start_server(self) -> None:
        self.service.runtime.post(
            f"{self.url}/file", params={"path": "server.py"}, content=SERVER.encode(), headers=self.headers
        ).raise_for_status()
        self.run("setsid python3 server.py >/dev/null 2>&1 </dev/null &")
        while 8000 not in [entry["port"] for entry in self.get("/ports").json()]:
            pass

    def get(self, path: str) -> httpx.Response:
        return self.service.runtime.get(f"{self.url}{path}", headers=self.headers).raise_for_status()

    def write(self) -> None:
        self.service.runtime.post(
            f"{self.url}/file", params={"path": "f"}, content=b"x" * 4096, headers=self.headers
        ).raise_for_status()

    def delete(self) -> None:
        self.service.http.delete(f"/sandboxes/{self.id}").raise_for_status()


@contextlib.contextmanager
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as state:
        key_file = Path(state) / "key"
        key_file.write_text(KEY)
        command = [sys.executable, "-m", "sandbox_tools", "local", "--api-key-file", str(key_file)]
        environment = {**os.environ, "XDG_STATE_HOME": state}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            try:
                yield Service(process, process.stdout.readline().strip())
            finally:
                process.terminate()


def timed(count: int, work: Callable[[], object]) -> list[float]:
    """Milliseconds of `count` runs, after one that does not count."""
    work()
    samples = []
    for _ in range(count):
        began = time.perf_counter()
        work()
        samples.append((time.perf_counter() - began) * 1000)
    return samples


def show(name: str, samples: list[float], floor: list[float] | None = None) -> None:
    p50, p95 = statistics.median(samples), sorted(samples)[int(len(samples) * 0.95)]
    ratio = f"   {p50 / statistics.median(floor):6.2f} x the floor" if floor else ""
    print(f"  {name:<46} p50 {p50:8.2f}   p95 {p95:8.2f} ms{ratio}")


def floors() -> list[float]:
    print("Floors on the host")
    bare = timed(50, lambda: subprocess.run(["/bin/true"], check=True))
    show("fork and exec true", bare)
    return bare


def peers(bare: list[float]) -> None:
    print("Other sandboxes: start, true, end")
    for name, arguments in PEERS.items():
        program = shutil.which(name)
        if program is None:
            print(f"  {name:<46} not installed")
            continue
        quiet = partial(subprocess.run, [program, *arguments], check=True, capture_output=True, timeout=60)
        try:
            show(name, timed(10, quiet), bare)
        except (subprocess.SubprocessError, OSError):
            print(f"  {name:<46} does not work here")


def operations(box: Sandbox, bare: list[float], loopback: list[float], count: int) -> None:
    show("exec true (POST /run)", timed(count, box.run), bare)
    show("health (the HTTP of the service alone)", timed(count, lambda: box.get("/health")), loopback)
    show("write 4 KB", timed(count, box.write))
    show("read 4 KB", timed(count, lambda: box.get("/file?path=f")))
    show("preview GET", timed(count, lambda: box.get("/proxy/8000/")), loopback)


def host_loopback() -> list[float]:
    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 4096  # head and body in one packet: apart, Nagle's delay costs 40 ms

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with httpx.Client(trust_env=False) as client:
        url = f"http://127.0.0.1:{server.server_port}/"
        samples = timed(100, lambda: client.get(url))
    server.shutdown()
    server.server_close()
    thread.join()
    show("HTTP GET from a server on the host", samples)
    return samples


def life(running: Service, count: int, floor: list[float]) -> None:
    """Create, first command, delete, one after the other."""
    created, ready, deleted = [], [], []
    for _ in range(count):
        began = time.perf_counter()
        box = running.create()
        created.append((time.perf_counter() - began) * 1000)
        box.run()
        ready.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        box.delete()
        deleted.append((time.perf_counter() - began) * 1000)
        time.sleep(0.15)  # the time of a person or a model: the pool fills again
    show("create", created)
    show("create -> first command done", ready, floor)
    show("delete", deleted)


def pss_kb(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            parents[int(path.parent.name)] = int(fields[1])
    found: list[int] = []
    wave = {root}
    while wave:
        wave = {pid for pid, parent in parents.items() if parent in wave}
        found += wave
    return found


def killed(running: Service) -> None:
    """kill -9 of the service: until no process of any sandbox is left."""
    pids = descendants(running.process.pid)
    began = time.perf_counter()
    running.process.send_signal(signal.SIGKILL)
    while any(Path(f"/proc/{pid}").exists() and _is_alive(pid) for pid in pids):
        pass
    print(f"  kill -9 of the service: {len(pids)} processes gone after {(time.perf_counter() - began) * 1000:.0f} ms")


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


def main() -> None:
    """Print every figure."""
    bare = floors()
    peers(bare)
    loopback = host_loopback()
    with service() as running:
        running.create().delete()  # the self-test
        boxes: list[Sandbox] = []
        before = 0
        for number in (1, 10, 50):
            began = time.perf_counter()
            while len(boxes) < number - 1:
                boxes.append(running.create())
            grown = (time.perf_counter() - began) * 1000
            print(f"With {number} sandboxes ({grown:.0f} ms for creating those that were missing)")
            box = running.create()
            box.start_server()
            operations(box, bare, loopback, 60)
            box.delete()
            life(running, 15, bare)
            if number == 1:
                before = pss_kb(descendants(running.process.pid))
        idle = pss_kb(descendants(running.process.pid)) - before
        print(f"  memory: {idle / len(boxes) / 1024:.2f} MB (PSS) for each of {len(boxes)} idle sandboxes")
        killed(running)


if __name__ == "__main__":
    main()
