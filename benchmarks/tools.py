"""What a tool call costs, beside the floor: the same server, the same wire, nothing of ours in between.

Every ratio compares two figures measured in this run, in turns, so that a busy machine slows both.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from sandbox_tools import Toolset
from sandbox_tools.client.control import ControlPlane
from sandbox_tools.redaction import Registry, default_registry
from sandbox_tools.redaction.secret import reveal
from sandbox_tools.runtime import Runtime
from sandbox_tools.wire.control import NewSandbox

CALLS = 200

NOOP_SERVER = """
import anyio
from mcp import types
from mcp.server import Server
from mcp.server.stdio import stdio_server

TOOL = types.Tool(name="noop", description="x", input_schema={"type": "object", "properties": {}})

async def list_tools(_, __):
    return types.ListToolsResult(tools=[TOOL])

async def call_tool(_, __):
    return types.CallToolResult(content=[types.TextContent(text="ok")])

async def main():
    server = Server("noop", version="1", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())

anyio.run(main)
"""


async def timed_ms(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1000


async def in_turns(calls: int, *works: Callable[[], Awaitable[object]]) -> list[list[float]]:
    """Time each work `calls` times, alternating; milliseconds."""
    for work in works:
        await work()
    samples: list[list[float]] = [[] for _ in works]
    for _ in range(calls):
        for sample, work in zip(samples, works, strict=True):
            sample.append(await timed_ms(work))
    return samples


async def cpu_ms(calls: int, work: Callable[[], Awaitable[object]]) -> float:
    """CPU time of this process per call, in milliseconds."""
    await work()
    began = time.process_time()
    for _ in range(calls):
        await work()
    return (time.process_time() - began) * 1000 / calls


def show(name: str, sample: list[float], floor: list[float] | None = None, floor_name: str = "") -> None:
    p50, p95 = statistics.median(sample), sorted(sample)[int(len(sample) * 0.95)]
    line = f"{name:<44} p50 {p50:8.2f} ms   p95 {p95:8.2f} ms"
    if floor:
        line += f"   {p50 / statistics.median(floor):5.2f} x {floor_name} ({statistics.median(floor):.2f} ms)"
    print(line)


async def hot_calls() -> None:
    """Tool calls in a sandbox that is already there."""
    registry = Registry()
    key = registry.register("KEY", "benchmark-" + os.urandom(16).hex())
    with tempfile.TemporaryDirectory() as directory:
        key_file = Path(directory) / "key"
        key_file.write_text(reveal(key))
        command = [sys.executable, "-m", "sandbox_tools", "local", "--api-key-file", str(key_file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            assert service.stdout is not None
            base_url = service.stdout.readline().strip()
            try:
                await _hot_calls(base_url, reveal(key))
            finally:
                service.terminate()


async def _hot_calls(base_url: str, key: str) -> None:
    async with Toolset.open(base_url=base_url, api_key=key) as tools:
        control = ControlPlane(base_url, default_registry().register("SEACLOUD_API_KEY", key), default_registry())
        await tools.call("write_file", {"path": "a.txt", "content": "x" * 4096})
        [sandbox] = (await control.list()).items
        _, access = await control.connect(sandbox.sandbox_id)
        run = {"cmd": "/bin/sh", "args": ["-c", "true"]}
        headers = {"X-Access-Token": reveal(access.access_token)}
        async with httpx.AsyncClient(base_url=access.envd_url, headers=headers, trust_env=False) as bare:

            async def bare_run() -> None:
                (await bare.post("/run", json=run)).raise_for_status()

            async def bare_read() -> None:
                (await bare.get("/file", params={"path": "a.txt"})).raise_for_status()

            async def bare_write() -> None:
                (await bare.post("/file", params={"path": "a.txt"}, content=b"x" * 4096)).raise_for_status()

            async def bare_health() -> None:
                (await bare.get("/health")).raise_for_status()

            def tool(name: str, **arguments: object) -> Callable[[], Awaitable[object]]:
                return lambda: tools.call(name, arguments)

            pairs = [
                ("exec true", tool("exec", command="true"), bare_run, "bare httpx POST /run"),
                ("run_code 1+1", tool("run_code", code="1+1"), bare_health, "bare httpx GET /health"),
                ("read_file 4 KB", tool("read_file", path="a.txt"), bare_read, "bare httpx GET /file"),
                (
                    "write_file 4 KB",
                    tool("write_file", path="a.txt", content="x" * 4096),
                    bare_write,
                    "bare POST /file",
                ),
            ]
            print("\nHot tool calls, each one HTTP request (local service, in turns with the floor)")
            for name, work, floor, floor_name in pairs:
                sample, floor_sample = await in_turns(CALLS, work, floor)
                show(name, sample, floor_sample, floor_name)
            print("\nClient CPU per call")
            for name, work, floor, floor_name in pairs:
                ours, theirs = await cpu_ms(CALLS, work), await cpu_ms(CALLS, floor)
                print(f"{name:<44} {ours:8.2f} ms   {ours / theirs:5.2f} x {floor_name} ({theirs:.2f} ms)")
        await created(control)
        await cancelled(tools)
        await control.aclose()


async def created(control: ControlPlane) -> None:
    """From nothing to a sandbox that has run something; with the tokens of it in the redactor."""
    print("\nA new sandbox, of those that are kept ready")
    samples: list[float] = []
    async with httpx.AsyncClient(trust_env=False) as bare:
        for _ in range(30):
            await asyncio.sleep(0.3)  # the time of a person or a model: another one is made ready
            began = time.perf_counter()
            info, access = await control.create(NewSandbox(template="base"))
            headers = {"X-Access-Token": reveal(access.access_token)}
            (await bare.post(f"{access.envd_url}/run", json={"cmd": "true"}, headers=headers)).raise_for_status()
            samples.append((time.perf_counter() - began) * 1000)
            await control.delete(info.sandbox_id)
    show("create -> first exec done", samples)


async def cancelled(tools: Toolset) -> None:
    """From cancelling a call to the moment when no process of its group is left."""
    samples: list[float] = []
    tree = "trap '' TERM INT; (trap '' TERM; sleep 98762) & while :; do sleep 98762; done"
    for _ in range(5):
        call = asyncio.ensure_future(tools.call("exec", {"command": tree}))
        while not await _is_alive(tools):
            pass
        began = time.perf_counter()
        call.cancel()
        await asyncio.wait([call])
        while await _is_alive(tools):
            pass
        samples.append((time.perf_counter() - began) * 1000)
    show("cancel -> a group that ignores TERM is gone", samples)


async def _is_alive(tools: Toolset) -> bool:
    return "exit_code: 0" in (await tools.call("exec", {"command": "pgrep -f '[s]leep 98762'"})).text


async def big_output() -> None:
    """1 GB of output from one exec, beside reading the same stream and throwing it away."""
    async with Toolset.open() as tools:
        await tools.call("exec", {"command": "true"})
        before = _peak_rss_mb()
        for size in (100_000_000, 1_000_000_000):
            command = f"yes 'a line of plain output, as programs print it' | head -c {size}"
            began = time.perf_counter()
            result = await tools.call("exec", {"command": command, "timeout_s": 600})
            seconds = time.perf_counter() - began
            grown = _peak_rss_mb() - before
            print(
                f"exec with {size / 1e6:>5.0f} MB of output: {seconds:6.2f} s, {size / 1e6 / seconds:4.0f} MB/s", end=""
            )
            print(f"; this process grew by {grown:.0f} MB; the result has {len(result.text):,} characters")
            raw_s = await _raw_output(tools, command)
            print(f"  the same stream read raw, not decoded: {raw_s:.2f} s; ratio {seconds / raw_s:.2f}")


async def _raw_output(tools: Toolset, command: str) -> float:
    async with tools._sandboxes.use(None) as runtime:
        return await _drained(runtime, command)


async def _drained(runtime: Runtime, command: str) -> float:
    body = {"process": {"cmd": "/bin/sh", "args": ["-c", command]}, "stdin": False}
    transport = runtime._transport  # type: ignore[attr-defined]  # the floor goes below our own client
    began = time.perf_counter()
    stream = await transport.stream("POST", "/process.Process/Start", operation="measure", body=body)
    async for _ in stream.chunks():
        pass
    await stream.aclose()
    return time.perf_counter() - began


def _peak_rss_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


async def mcp_calls() -> None:
    """The MCP server over stdio, beside a no-op tool of the same SDK."""
    environment = {"PATH": os.environ["PATH"]}
    ours = StdioServerParameters(command=sys.executable, args=["-m", "sandbox_tools", "mcp"], env=environment)
    noop = StdioServerParameters(command=sys.executable, args=["-c", NOOP_SERVER], env=environment)
    quiet = Path(os.devnull).open("w")  # noqa: SIM115 - both clients write to it until the end
    async with Client(stdio_client(ours, errlog=quiet)) as sandbox, Client(stdio_client(noop, errlog=quiet)) as floor:
        size = len(
            json.dumps(
                [
                    t.model_dump(mode="json", by_alias=True, exclude_none=True)
                    for t in (await sandbox.list_tools()).tools
                ],
                separators=(",", ":"),
            )
        )
        print(f"\nMCP over stdio (all five tools: {size:,} bytes of compact JSON)")

        def call(name: str, **arguments: object) -> Callable[[], Awaitable[object]]:
            return lambda: sandbox.call_tool(name, arguments)

        async with Toolset.open() as tools:
            sample, noop_sample, direct = await in_turns(
                CALLS,
                call("run_code", code="1+1"),
                lambda: floor.call_tool("noop", {}),
                lambda: tools.call("run_code", {"code": "1+1"}),
            )
        show("tools/call run_code 1+1", sample, noop_sample, "a no-op tool of the same SDK")
        own = statistics.median(sample) - statistics.median(direct)
        ratio = own / statistics.median(noop_sample)
        print(f"{'  without the time of the sandbox':<44} p50 {own:8.2f} ms   {ratio:21.2f} x a no-op tool")
    quiet.close()


def start_up() -> None:
    """From the start of the process to the answer to tools/list, beside importing mcp alone."""
    hello = (
        '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
        '"clientInfo":{"name":"b","version":"1"}}}\n{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
        '{"jsonrpc":"2.0","id":1,"method":"tools/list"}\n'
    )
    ours, floor, server = [], [], []
    for _ in range(7):
        ours.append(_until_listed([sys.executable, "-m", "sandbox_tools", "mcp"], hello))
        floor.append(_run_ms([sys.executable, "-c", "import mcp"]))
        server.append(_run_ms([sys.executable, "-c", "import mcp.server, mcp.server.stdio"]))
    print("\nStart")
    show("sandbox-tools mcp -> tools/list answered", ours, floor, "python -c 'import mcp'")
    show("  (importing mcp.server alone)", server)


def _until_listed(command: list[str], hello: str) -> float:
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(hello)
        process.stdin.flush()
        while '"id":1' not in process.stdout.readline():
            pass
        elapsed = (time.perf_counter() - began) * 1000
        process.stdin.close()
    return elapsed


def _run_ms(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Print every figure."""
    os.environ.pop("SEACLOUD_API_KEY", None)
    print("Big output")
    asyncio.run(big_output())
    start_up()
    asyncio.run(hot_calls())
    asyncio.run(mcp_calls())


if __name__ == "__main__":
    main()
