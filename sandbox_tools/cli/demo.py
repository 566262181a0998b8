"""`sandbox-tools demo`: the whole main job, seen from an MCP client.

It plays two parts. As the operator it starts the local sandbox service and knows its tokens. As the MCP client it
knows nothing, uses the tools, and at the end tries to get at the tokens. What it received is then searched for them.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.abc
import anyio.to_thread
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import CallToolResult
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from sandbox_tools.client.control import ControlPlane
from sandbox_tools.local.isolation import MinIsolation, probe
from sandbox_tools.redaction import Redactor, default_registry

PORT: Final = 8000

_SERVER: Final = """\
from http.server import BaseHTTPRequestHandler, HTTPServer

class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<h1>Hello from the sandbox</h1>")

HTTPServer(("0.0.0.0", 8000), Page).serve_forever()
"""

_THEFTS: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("print the environment", "exec", {"command": "env | sort"}),
    ("print it in base64", "exec", {"command": "env | base64"}),
    ("print it in base64, one process up", "exec", {"command": "cat /proc/1/environ /proc/$PPID/environ | base64"}),
    ("make a request fail", "read_file", {"path": "/root/../proc/1/root/etc/shadow"}),
    ("use a sandbox that does not exist", "exec", {"command": "true", "sandbox_id": "sandbox_of_someone_else"}),
    ("raise with a traceback", "run_code", {"code": "import os\nraise RuntimeError(dict(os.environ))"}),
    ("look at the host", "exec", {"command": "ls -la /home /root /run /host 2>&1; ps aux 2>&1 | head"}),
    ("ask the service on the host", "exec", {"command": "curl -sS -m 3 $SERVICE_URL/sandboxes 2>&1"}),
)


class DemoError(Exception):
    """A step did not do what it must."""


def run_demo() -> int:
    """Run every step; return 0 when all succeeded, 1 when one failed."""
    console = Console(highlight=False)
    try:
        anyio.run(_demo, console)
    except DemoError as exc:
        console.print(f"[bold red]The demo failed:[/] {exc}")
        return 1
    console.print("[bold green]Every step succeeded.[/]")
    return 0


async def _demo(console: Console) -> None:
    minimum = await _choose_isolation(console)
    registry = default_registry()
    key = secrets.token_urlsafe(32)
    api_key = registry.register("SEACLOUD_API_KEY", key)
    async with _local_service(key, minimum) as base_url:
        console.print(f"The local sandbox service runs at {base_url}. It needs no account.")
        control = ControlPlane(base_url, api_key, registry)
        environment = {"SEACLOUD_API_KEY": key, "SEACLOUD_BASE_URL": base_url, "PATH": os.environ.get("PATH", "")}
        server = StdioServerParameters(command=sys.executable, args=["-m", "sandbox_tools", "mcp"], env=environment)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as server_log:
            async with Client(stdio_client(server, errlog=server_log)) as client:
                session = _Session(console, client)
                sandbox_id = await _use_the_tools(session, control)
                # The operator's view: this registers the sandbox's own token, so that it can be searched for.
                await control.connect(sandbox_id)
                await _try_to_steal(session, base_url)
            server_log.seek(0)
            _search(console, [*session.received, server_log.read()], key, Redactor(registry))
        left = (await control.list()).items
        if left:
            raise DemoError(f"{len(left)} sandbox was left behind")
        console.print("[green]ok[/] The MCP server exited and deleted its sandbox.")
        await control.aclose()


async def _choose_isolation(console: Console) -> MinIsolation:
    """Take the weaker level where the machine denies namespaces, and say so: the demo runs no code but its own."""
    report = await probe(minimum="namespaces")
    if report.level != "none":
        return "namespaces"
    weaker = await probe(minimum="landlock")
    if weaker.level == "none":
        raise DemoError(f"no sandbox can be isolated here: {escape(weaker.reason)}\n{escape(weaker.remedy)}")
    console.print(
        "[bold yellow]This machine denies namespaces, so this demo uses the weaker isolation level landlock.[/] Its "
        "sandbox can see the command lines of your processes and whether a file exists, and has no network at all. "
        f"Nothing else uses this level unless you ask for it.\n{escape(report.remedy)}"
    )
    return "landlock"


async def _use_the_tools(session: _Session, control: ControlPlane) -> str:
    session.heading("The tools that an MCP client sees")
    listing = await session.client.list_tools()
    session.received.append(listing.model_dump_json())
    for tool in listing.tools:
        session.console.print(f"  [bold]{tool.name}[/]  {(tool.description or '').split('. ')[0]}.")
    session.heading("Python that keeps its state")
    await session.call("run_code", {"code": "primes = [n for n in range(2, 50) if all(n % d for d in range(2, n))]"})
    await session.call("run_code", {"code": "sum(primes)"}, expect="328")
    [sandbox] = (await control.list()).items
    isolation = (await control.get(sandbox.sandbox_id)).isolation
    if isolation is None:
        raise DemoError("the sandbox does not say how it is isolated")
    session.console.print(f"[green]ok[/] Sandbox {sandbox.sandbox_id}; isolation level in force: {isolation.level}.")
    session.heading("A shell")
    await session.call("exec", {"command": "uname -sm; id -u; pwd"}, expect="/workspace")
    session.heading("Files")
    await session.call("write_file", {"path": "server.py", "content": _SERVER})
    await session.call("read_file", {"path": "/root/workspace/server.py", "limit": 2}, expect="http.server")
    session.heading("A web server, and its preview")
    if isolation.level == "landlock":
        session.console.print("Left out: at the isolation level landlock no program can listen.")
    else:
        await _preview(session)
    return sandbox.sandbox_id


async def _preview(session: _Session) -> None:
    await session.call("exec", {"command": "python3 server.py", "background": True}, expect="running in the background")
    preview = await session.call("get_preview_url", {"port": PORT}, expect="/proxy/8000/")
    await _fetch(session.console, str((preview.structured_content or {})["url"]))


async def _fetch(console: Console, url: str) -> None:
    page = await anyio.to_thread.run_sync(_get, url)
    if "Hello from the sandbox" not in page:
        raise DemoError("the preview URL did not answer with the page")
    console.print(f"[green]ok[/] The page, fetched from outside: {page}")


def _get(url: str) -> str:
    """A browser's view: one request without any credential."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


async def _try_to_steal(session: _Session, base_url: str) -> None:
    session.heading("An attempt to make the sandbox tell its secrets")
    for what, tool, arguments in _THEFTS:
        command = arguments.get("command", "").replace("$SERVICE_URL", base_url)
        await session.call(tool, {**arguments, **({"command": command} if command else {})}, title=what, lines=4)


def _search(console: Console, received: list[str], key: str, redactor: Redactor) -> None:
    """Fail when a token, in any form that the redactor knows, is in what the client received."""
    text = "\n".join([*received, *_decoded(received)])
    if key in text or redactor.text(text) != text:
        raise DemoError("A TOKEN LEAKED to the client")
    size = sum(map(len, received))
    console.print(f"[green]ok[/] No token is in the {size:,} characters that the client received.")


def _decoded(received: list[str]) -> list[str]:
    """What looks like base64, decoded: also without the help of the redactor."""
    runs = [run.replace("\\n", "") for text in received for run in re.findall(r"(?:[A-Za-z0-9+/]|\\n){40,}", text)]
    return [base64.b64decode(run[: len(run) // 4 * 4]).decode("latin-1") for run in runs]


class _Session:
    """The client's side: calls tools, prints what a person wants to see, and keeps all that it received."""

    def __init__(self, console: Console, client: Client) -> None:
        self.console = console
        self.client = client
        self.received: list[str] = []

    def heading(self, text: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{text}", align="left")

    async def call(
        self, tool: str, arguments: Mapping[str, Any], *, expect: str = "", title: str = "", lines: int = 8
    ) -> CallToolResult:
        result = await self.client.call_tool(tool, dict(arguments))
        self.received.append(result.model_dump_json())
        text = "\n".join(block.text for block in result.content if block.type == "text")
        self._show(tool, arguments, text, title, lines)
        if expect and (expect not in text or result.is_error):
            raise DemoError(f"{tool} did not answer with {expect!r}")
        return result

    def _show(self, tool: str, arguments: Mapping[str, Any], text: str, title: str, lines: int) -> None:
        shown = text.splitlines()
        more = [f"... ({len(shown) - lines} more lines)"] if len(shown) > lines else []
        what = ", ".join(f"{name}={str(value)[:90]!r}" for name, value in arguments.items())
        body = Text("\n".join([line[:160] for line in shown[:lines]] + more))
        self.console.print(Panel(body, title=Text(title or f"{tool}({what})"), title_align="left", border_style="dim"))


@asynccontextmanager
async def _local_service(key: str, minimum: MinIsolation) -> AsyncIterator[str]:
    """Start `sandbox-tools local` as a user would, with the key in a file."""
    with tempfile.NamedTemporaryFile("w", prefix="sandbox-tools-key-") as key_file:
        key_file.write(key)
        key_file.flush()
        command = [sys.executable, "-m", "sandbox_tools", "local", "--api-key-file", str(Path(key_file.name))]
        command += ["--min-isolation", minimum]
        process = await anyio.open_process(command, stderr=None, stdin=subprocess.DEVNULL)
        try:
            yield await _first_line(process)
        finally:
            with suppress(ProcessLookupError):  # an interrupt reaches it as well
                process.terminate()
            with anyio.move_on_after(5, shield=True):
                await process.wait()


async def _first_line(process: anyio.abc.Process) -> str:
    assert process.stdout is not None
    line = b""
    with anyio.move_on_after(20):
        async for chunk in process.stdout:
            line += chunk
            if b"\n" in line:
                return line.decode().strip()
    raise DemoError("the local sandbox service did not start; `sandbox-tools doctor` says why")
