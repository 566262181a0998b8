"""A real local service in a process of its own, and what tests do with it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from sandbox_tools.wire.envelope import FrameDecoder

ROOT = Path(__file__).parents[2]
API_KEY = "local-test-key"
HOST_SECRET = "canary-of-the-host-environment"

SERVER = """
import json, os, sys
sys.path[:0] = sys.argv[4:5]
sys.path += sys.argv[5:]
import anyio
from pathlib import Path
from sandbox_tools.local.server import serve
from sandbox_tools.local.watchdog import Bounds

async def main():
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_at_end_of_input, stop)
        await serve(port=0, api_key=sys.argv[1], on_ready=lambda url: print(url, flush=True), stop=stop,
                    max_sandboxes=int(sys.argv[3]), state_dir=Path(sys.argv[2]),
                    launchers=os.environ.get("LAUNCHERS", "native bwrap").split(),
                    keep_paused=os.environ.get("KEEP_PAUSED") != "no",
                    bounds=Bounds(**json.loads(os.environ.get("BOUNDS", "{}"))))

async def stop_at_end_of_input(stop):
    await anyio.wait_readable(0)
    stop.set()

anyio.run(main)
"""

EVENT_TIMEOUT_S = 15

T = TypeVar("T")


@dataclass(frozen=True)
class LocalServer:
    """A running service.

    Attributes:
        state: Its state directory.
    """

    base_url: str
    api_key: str
    pid: int
    state: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def client(self) -> httpx.Client:
        """Return a client of the control plane."""
        return httpx.Client(base_url=self.base_url, headers={"X-API-Key": self.api_key}, timeout=30)

    @contextmanager
    def sandbox(self, **body: Any) -> Iterator[Box]:
        """Create a sandbox, and delete it at the end."""
        with self.client() as control:
            record = control.post("/sandboxes", json=body)
            assert record.status_code == 201, record.text
            fields = record.json()
            with httpx.Client(
                base_url=fields["envdUrl"], headers={"X-Access-Token": fields["envdAccessToken"]}, timeout=30
            ) as runtime:
                yield Box(fields["sandboxID"], fields, runtime, control)
            with suppress(httpx.TransportError):  # a test may have killed the service
                control.delete(f"/sandboxes/{fields['sandboxID']}")


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Box:
    """A sandbox: its record and a client of its runtime."""

    sandbox_id: str
    record: Mapping[str, Any] = field(repr=False)
    http: httpx.Client
    control: httpx.Client

    def run(self, cmd: str, *args: str, **more: Any) -> Ran:
        """Run a program through /run."""
        answer = self.http.post("/run", json={"cmd": cmd, "args": list(args), **more})
        assert answer.status_code == 200, answer.text
        fields = answer.json()
        return Ran(fields["exit_code"], fields["stdout"], fields["stderr"])

    def sh(self, line: str, **more: Any) -> Ran:
        """Run a shell line."""
        return self.run("sh", "-c", line, **more)

    def python(self, program: str, *args: str) -> Ran:
        """Run a Python program."""
        return self.run("python3", "-c", program, *args)

    def rpc(self, method: str, message: Mapping[str, Any]) -> httpx.Response:
        """Call a unary RPC."""
        return self.http.post(f"/{method}", json=message)

    @contextmanager
    def start(self, cmd: str, *args: str, stdin: bool = False, **more: Any) -> Iterator[Stream]:
        """Start a process and read its events."""
        body = {"process": {"cmd": cmd, "args": list(args)}, "stdin": stdin, **more}
        with self.stream("Start", body) as stream:
            yield stream

    @contextmanager
    def stream(self, method: str, body: Mapping[str, Any]) -> Iterator[Stream]:
        """Call a streaming RPC with bare JSON."""
        with self.http.stream("POST", f"/process.Process/{method}", json=body) as response:
            if response.status_code != 200:
                response.read()
            assert response.status_code == 200, response.text
            yield Stream(response)

    def state(self) -> str:
        """Return the state of its record."""
        found: str = self.control.get(f"/sandboxes/{self.sandbox_id}").json()["state"]
        return found

    def agent_pid(self) -> int:
        """Return the host's process id of its PID 1."""
        workspace = f"/{self.sandbox_id}/workspace"
        for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
            try:
                inside = Path(mounts.parent, "status").read_text()
                if workspace in mounts.read_text() and "\nNSpid:" in inside and _is_pid_1(inside):
                    return int(mounts.parent.name)
            except OSError:
                continue
        raise AssertionError("the agent of the sandbox was not found")


def _is_pid_1(status: str) -> bool:
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    return line.split()[-1] == "1"


class Stream:
    """The frames of a process stream, as messages."""

    def __init__(self, response: httpx.Response) -> None:
        decoder = FrameDecoder()
        self._frames = (frame for chunk in response.iter_raw() for frame in decoder.feed(chunk))
        self.started = self.event()["start"]
        self.pid: int = self.started["pid"]

    def event(self) -> dict[str, Any]:
        """Return the next event that is not a keepalive, or fail after a while."""
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        for frame in self._frames:
            assert time.monotonic() < deadline, f"no event within {EVENT_TIMEOUT_S} s"
            message = json.loads(frame.payload)
            if frame.end_stream:
                raise EOFError
            if "keepalive" not in message["event"]:
                event: dict[str, Any] = message["event"]
                return event
        raise AssertionError("the stream broke off")

    def until_end(self) -> dict[str, Any]:
        """Skip output; return the end event."""
        while True:
            event = self.event()
            if "end" in event:
                end: dict[str, Any] = event["end"]
                return end


def wait_for(condition: Callable[[], T], *, what: str, within_s: float = 10) -> T:
    """Return the first true value of `condition`, or fail."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)
    return value


@contextmanager
def running_service(
    state: Path,
    *,
    max_sandboxes: int = 50,
    prefix: tuple[str, ...] = (),
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
) -> Iterator[LocalServer]:
    """Run a service; `prefix` is a command that starts another, such as setpriv."""
    command = [*prefix, python, "-c", SERVER, API_KEY, str(state), str(max_sandboxes), str(ROOT)]
    command += [path for path in sys.path if path.endswith("site-packages")]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(state), "HOST_SECRET": HOST_SECRET, **(env or {})},
        cwd="/",
    )
    with process:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], 20)
        base_url = process.stdout.readline().decode().strip() if readable else ""
        try:
            assert base_url.startswith("http://127.0.0.1:"), "the service did not start; its error is above"
            yield LocalServer(base_url, API_KEY, process.pid, state, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            finally:
                process.kill()
