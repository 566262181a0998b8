"""Our client, the vendor's SDK and bare httpx side by side: over TLS, with 0, 20 and 80 ms of delay added.

All three talk to the same local service through the same proxy (benchmarks/slow_tls.py), in turns. Bare httpx is the
floor: a pooled client, one plain request, no check of anything. Where the SDK cannot do something, what it said is
printed instead of a figure.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx

from benchmarks.local import KEY, service
from sandbox_tools.client.control import ControlPlane
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.client.transport import Transport
from sandbox_tools.redaction import Registry
from sandbox_tools.wire.control import NewSandbox

DELAYS_MS = (0, 20, 80)
AT_ONCE = 64
CPU_CALLS = 300
DATA = b"x" * 4096
TEMPLATE = "code-interpreter"

Work = Callable[[], Coroutine[Any, Any, object]]


@contextlib.contextmanager
def roads(service_url: str) -> Iterator[list[str]]:
    """One https URL of the service for each delay. The authority that made the certificate is in SSL_CERT_FILE."""
    with tempfile.TemporaryDirectory() as directory:
        key, certificate = Path(directory) / "key.pem", Path(directory) / "certificate.pem"
        request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=benchmark"
        extensions = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "keyUsage=digitalSignature,keyCertSign"]
        command = ["openssl", *request.split(), *extensions, "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        os.environ["SSL_CERT_FILE"] = str(certificate)
        arguments = [str(certificate), str(key), str(urlsplit(service_url).port), *map(str, DELAYS_MS)]
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks.slow_tls", *arguments], stdout=subprocess.PIPE, text=True
        ) as proxy:
            assert proxy.stdout is not None
            try:
                yield [f"https://127.0.0.1:{proxy.stdout.readline().strip()}" for _ in DELAYS_MS]
            finally:
                proxy.terminate()
                os.environ.pop("SSL_CERT_FILE", None)


class Ours:
    """Our client, in a sandbox of its own."""

    def __init__(self, control: ControlPlane, runtime: RemoteRuntime) -> None:
        self.control = control
        self.runtime = runtime

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Ours]:
        registry = Registry()
        control = ControlPlane(url, registry.register("KEY", KEY), registry)
        async with anyio.create_task_group() as tasks:
            info, access = await control.create(NewSandbox(template=TEMPLATE))
            runtime = RemoteRuntime(info.sandbox_id, access, tasks)
            try:
                yield cls(control, runtime)
            finally:
                await control.delete(info.sandbox_id)
                await runtime.aclose()
                await control.aclose()
                tasks.cancel_scope.cancel()

    async def exec(self) -> None:
        result = await self.runtime.exec("true", timeout_s=30, on_output=lambda stream, data: None)
        assert result.exit_code == 0

    async def read(self) -> None:
        assert await self.runtime.files.read("a.txt") == DATA

    async def write(self) -> None:
        await self.runtime.write_file("a.txt", DATA)

    async def run_code(self) -> None:
        result = await self.runtime.run_code("1+1", language="python", timeout_s=30, on_output=lambda s, d: None)
        assert result.results[0].text["text/plain"] == "2"


class Vendor:
    """The vendor's SDK, which blocks: each call in a thread."""

    def __init__(self, sandbox: Any) -> None:
        self.sandbox = sandbox

    @classmethod
    async def open(cls, url: str) -> Vendor:
        os.environ |= {"SEACLOUD_BASE_URL": url, "SEACLOUD_API_KEY": KEY}
        create = importlib.import_module("sandbox").Sandbox.create
        return cls(await anyio.to_thread.run_sync(lambda: create(TEMPLATE, timeout=600, waitReady=True)))

    async def exec(self) -> None:
        result = await anyio.to_thread.run_sync(lambda: self.sandbox.commands.run("true"))
        assert result["exit_code"] == 0

    async def read(self) -> None:
        assert await anyio.to_thread.run_sync(lambda: self.sandbox.files.read("a.txt", format="bytes")) == DATA

    async def write(self) -> None:
        await anyio.to_thread.run_sync(lambda: self.sandbox.files.write("a.txt", DATA))

    async def run_code(self) -> None:
        result = await anyio.to_thread.run_sync(lambda: self.sandbox.run_code("1+1"))
        assert result.text == "2"

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self.sandbox.kill)


class Bare:
    """httpx, used well: one pooled client, one request a call."""

    def __init__(self, client: httpx.AsyncClient, record: dict[str, Any]) -> None:
        self.client = client
        self.url = record["envdUrl"]
        self.headers = {"X-Access-Token": record["envdAccessToken"]}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Bare]:
        # Two clients: control plane and runtime are different hosts in the cloud.
        async with cls._client(url) as control, cls._client(url) as client:
            control.headers["X-API-Key"] = KEY
            body = {"templateID": TEMPLATE, "timeout": 600, "waitReady": True}
            record = (await control.post("/sandboxes", json=body)).raise_for_status().json()
            try:
                yield cls(client, record)
            finally:
                (await control.delete(f"/sandboxes/{record['sandboxID']}")).raise_for_status()

    @staticmethod
    def _client(url: str) -> httpx.AsyncClient:
        trust: ssl.SSLContext | bool = httpx.create_ssl_context() if url.startswith("https") else False
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
        return httpx.AsyncClient(base_url=url, verify=trust, trust_env=False, limits=limits, timeout=60)

    async def _post(self, path: str, **options: Any) -> None:
        (await self.client.post(self.url + path, headers=self.headers, **options)).raise_for_status()

    async def exec(self) -> None:
        await self._post("/run", json={"cmd": "/bin/sh", "args": ["-c", "true"]})

    async def exec_stream(self) -> None:
        """The request that our client makes, its answer read as it comes and thrown away."""
        body = json.dumps({"process": {"cmd": "/bin/sh", "args": ["-c", "true"]}}).encode()
        headers = {**self.headers, "Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
        frame = b"\0" + len(body).to_bytes(4, "big") + body
        url = f"{self.url}/process.Process/Start"
        async with self.client.stream("POST", url, headers=headers, content=frame) as answer:
            assert [piece async for piece in answer.raise_for_status().aiter_raw()]

    async def read(self) -> None:
        answer = await self.client.get(f"{self.url}/file?path=a.txt", headers=self.headers)
        assert answer.raise_for_status().content == DATA

    async def write(self) -> None:
        await self._post("/file?path=a.txt", content=DATA)

    async def run_code(self) -> None:
        await self._post("/run", json={"cmd": "python3", "args": ["-c", "print(1+1)"]})


async def timed_ms(work: Work) -> float:
    """Milliseconds; raises what the work raises."""
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1000


async def compared(name: str, count: int, works: dict[str, Work]) -> None:
    """Run all in turns, `count` times after one that does not count, and print medians and ratios to the last."""
    samples: dict[str, list[float]] = {who: [] for who in works}
    failures: dict[str, str] = {}
    for number in range(count + 1):
        for who, work in works.items():
            if who in failures:
                continue
            try:
                elapsed = await timed_ms(work)
            except Exception as exc:  # noqa: BLE001 - whatever it cannot do is what is printed
                first = next(iter(getattr(exc, "exceptions", [exc])))  # one of a group stands for all
                failures[who] = f"fails: {type(first).__name__}"
                continue
            if number:
                samples[who].append(elapsed)
    show(name, {who: failures.get(who) or statistics.median(samples[who]) for who in works})


def show(name: str, figures: dict[str, float | str]) -> None:
    """Print one line."""
    floor = figures["httpx"]
    parts = [f"{who} {_told(figure, None if who == 'httpx' else floor)}" for who, figure in figures.items()]
    print(f"  {name:<32} {'   '.join(parts)}")


def _told(figure: float | str, floor: float | str | None) -> str:
    if isinstance(figure, str):
        return figure
    return f"{figure:8.1f} ms{f' ({figure / floor:5.2f} x)' if isinstance(floor, float) else ''}"


def at_once(work: Work) -> Work:
    """Return the work of doing it many times at once."""

    async def many() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE):
                tasks.start_soon(work)

    return many


async def first_call(url: str, count: int) -> None:
    """From nothing to a sandbox that has run a command, with new clients."""

    async def ours() -> None:
        async with Ours.open(url) as client:
            await client.exec()
            ends.append(time.perf_counter())

    async def vendor() -> None:
        client = await Vendor.open(url)
        await client.exec()
        ends.append(time.perf_counter())
        await client.aclose()

    async def bare() -> None:
        async with Bare.open(url) as client:
            await client.exec()
            ends.append(time.perf_counter())

    ends: list[float] = []
    samples: dict[str, list[float]] = {"ours": [], "SDK": [], "httpx": []}
    for _ in range(count):
        for who, work in (("ours", ours), ("SDK", vendor), ("httpx", bare)):
            began = time.perf_counter()
            await work()
            samples[who].append((ends.pop() - began) * 1000)
    show("new sandbox -> first exec", {who: statistics.median(sample) for who, sample in samples.items()})


async def over(url: str, delay_ms: int) -> None:
    """Every comparison over one road."""
    print(f"TLS, a round trip takes {delay_ms} ms more: medians, and the ratio to bare httpx")
    count = 40 if delay_ms == 0 else 10
    vendor = await Vendor.open(url)
    async with Ours.open(url) as ours, Bare.open(url) as bare:
        clients: dict[str, Any] = {"ours": ours, "SDK": vendor, "httpx": bare}
        for name, method in (("exec true", "exec"), ("write 4 KB", "write"), ("read 4 KB", "read")):
            await compared(name, count, {who: getattr(client, method) for who, client in clients.items()})
        await compared(
            "run_code 1+1 (httpx: python3 -c)", count, {who: client.run_code for who, client in clients.items()}
        )
        await compared(f"{AT_ONCE} reads at once", 3, {who: at_once(client.read) for who, client in clients.items()})
        await compared(f"{AT_ONCE} execs at once", 3, {who: at_once(client.exec) for who, client in clients.items()})
    await vendor.aclose()
    await first_call(url, 5 if delay_ms == 0 else 3)


async def cpu_ms(work: Work) -> float:
    """CPU time of this process for a call, in milliseconds."""
    await work()
    began = time.process_time()
    for _ in range(CPU_CALLS):
        await work()
    return (time.process_time() - began) * 1000 / CPU_CALLS


async def cpu(url: str) -> None:
    """What a call costs this process, in turns; without TLS, which costs the same for all."""
    async with Ours.open(url) as ours, Bare.open(url) as bare:
        transport = ours.runtime._transport
        request: Work = lambda: Transport.request(transport, "GET", "/health", operation="measure")  # noqa: E731
        health: Work = lambda: bare.client.get(f"{bare.url}/health")  # noqa: E731
        await ours.write()
        await bare.write()
        print(f"CPU of this process per call, lowest of 3 times {CPU_CALLS}")
        for name, work, floor in (
            ("one request (GET /health)", request, health),
            ("exec true (httpx: POST /run)", ours.exec, bare.exec),
            ("exec true (httpx: same stream)", ours.exec, bare.exec_stream),
            ("write 4 KB", ours.write, bare.write),
            ("read 4 KB", ours.read, bare.read),
            ("run_code 1+1", ours.run_code, bare.exec),
        ):
            figures = [(await cpu_ms(work), await cpu_ms(floor)) for _ in range(3)]
            mine, theirs = (min(column) for column in zip(*figures, strict=True))
            print(f"  {name:<30} ours {mine:6.3f} ms   httpx {theirs:6.3f} ms ({mine / theirs:5.2f} x)")


def main() -> None:
    """Print every figure."""
    os.environ.pop("SEACLOUD_API_KEY", None)
    with service() as running:
        url = str(running.http.base_url).rstrip("/")
        anyio.run(cpu, url)
        with roads(url) as urls:
            for delay_ms, road in zip(DELAYS_MS, urls, strict=True):
                anyio.run(over, road, delay_ms)


if __name__ == "__main__":
    main()
