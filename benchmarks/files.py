"""What a big file costs, each way: throughput beside bare httpx on the same server, and how this process grows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import httpx

from benchmarks.local import service
from sandbox_tools.client.files import RemoteFiles
from sandbox_tools.client.transport import Transport
from sandbox_tools.redaction import Registry

SIZE = 1_000_000_000
"""Below the 1 GiB that a file in a local sandbox may have."""

TEXT_SIZE = 100_000_000

_PIECE = 1 << 18
_LINE = b"2026-11-22T00:00:00Z INFO request handled path=/api/v1/items status=200 elapsed_ms=12 id=%08d\n"

Work = Callable[[], Awaitable[object]]


def resident_kib(field: str) -> int:
    """`VmRSS` or `VmHWM` (the most there was) of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(field)))


async def measured(name: str, size: int, work: Work, floor_s: float | None = None) -> float:
    """Time it, print throughput and growth, and return the seconds."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = resident_kib("VmRSS")
    began, cpu = time.perf_counter(), time.process_time()
    await work()
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    grown = (resident_kib("VmHWM") - before) / 1024
    ratio = f"   {seconds / floor_s:5.2f} x bare httpx" if floor_s else ""
    print(f"{name:<44} {size / seconds / 1e6:7.0f} MB/s   CPU {cpu_s:5.2f} s   memory +{grown:5.1f} MiB{ratio}")
    return seconds


async def zeros(size: int) -> AsyncIterator[bytes]:
    piece = bytes(_PIECE)
    for start in range(0, size, _PIECE):
        yield piece[: min(_PIECE, size - start)]


async def lines(size: int) -> AsyncIterator[bytes]:
    count = _PIECE // len(_LINE % 0)
    for number in range(size // _PIECE):
        yield b"".join(_LINE % (number * count + line) for line in range(count))


async def both_ways(files: RemoteFiles, bare: httpx.AsyncClient) -> None:
    async def bare_write() -> None:
        (await bare.post("/file", params={"path": "bare"}, content=zeros(SIZE))).raise_for_status()

    async def bare_read() -> None:
        async with bare.stream("GET", "/file", params={"path": "bare"}) as answer:
            async for _ in answer.aiter_raw():
                pass

    async def read(path: str, *, gzip: bool = False) -> None:
        async with files.open(path, gzip=gzip) as file:
            async for _ in file.chunks():
                pass

    print(f"A file of {SIZE / 1e9:g} GB")
    for name, floor, work in (
        ("write", bare_write, lambda: files.write("ours", zeros(SIZE))),
        ("read", bare_read, lambda: read("ours")),
    ):
        bare_s = await measured(f"  {name}, bare httpx", SIZE, floor)
        await measured(f"  {name}", SIZE, work, bare_s)
    print(f"A log of {TEXT_SIZE / 1e6:g} MB: when gzip helps")
    for name, gzip in (("plain", False), ("gzip", True)):
        write = partial(files.write, "log", lines(TEXT_SIZE), gzip=gzip)
        await measured(f"  write, {name}", TEXT_SIZE, write)
        await measured(f"  read, {name}", TEXT_SIZE, partial(read, "log", gzip=gzip))


async def run() -> None:
    with service() as running:
        box = running.create()
        transport = Transport(box.url, {"X-Access-Token": Registry().register("TOKEN", box.headers["X-Access-Token"])})
        async with httpx.AsyncClient(base_url=box.url, headers=box.headers, timeout=600, trust_env=False) as bare:
            await both_ways(RemoteFiles(transport), bare)
        await transport.aclose()
        box.delete()


def main() -> None:
    """Print every figure."""
    anyio.run(run)


if __name__ == "__main__":
    main()
