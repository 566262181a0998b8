"""`sandbox-tools doctor --leaks`: send a canary through every channel of this deployment, and see what comes out."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import anyio
from mcp import Client
from rich.console import Console
from rich.table import Table

from sandbox_tools.adapters.mcp import create_server
from sandbox_tools.errors import SandboxToolsError
from sandbox_tools.redaction import Redactor
from sandbox_tools.toolset import Toolset

Verdict = Literal["ok", "leaked", "not tried"]

_NAME: Final = "LEAK_CANARY"
_FILE: Final = "/root/workspace/leak-canary"

_PNG: Final = f"""\
class Picture:
    def _repr_png_(self):
        return b"\\x89PNG\\r\\n\\x1a\\n" + open("{_FILE}", "rb").read()

Picture()
"""


def _shell(command: str) -> tuple[str, dict[str, Any]]:
    return "exec", {"command": command, "secrets": [_NAME]}


_CHANNELS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "standard output": _shell(f'echo "${_NAME}"'),
    "standard error": _shell(f'echo "${_NAME}" >&2'),
    "environment": _shell("env"),
    "base64": _shell(f'printf %s "${_NAME}" | base64'),
    "hexadecimal": _shell(f'printf %s "${_NAME}" | od -An -tx1'),
    "file": _shell(f'printf %s "${_NAME}" > {_FILE}; cat {_FILE}'),
    "read_file": ("read_file", {"path": _FILE}),
    "value of code": ("run_code", {"code": f'open("{_FILE}").read()'}),
    "exception of code": ("run_code", {"code": f'raise RuntimeError(open("{_FILE}").read())'}),
    "image": ("run_code", {"code": _PNG}),
    "file name": _shell(f'mkdir -p {_FILE}s && touch "{_FILE}s/${_NAME}" && ls {_FILE}s'),
    "list_files": ("list_files", {"path": f"{_FILE}s"}),
    "error": ("read_file", {"path": "/CANARY"}),
    "argument": ("exec", {"command": "true", "timeout_s": "CANARY"}),
    "name of a tool": ("CANARY", {}),
    "server": ("exec", {"command": "python3 -m http.server 8000", "background": True}),
    "preview URL": ("get_preview_url", {"port": 8000}),
}
"""What is called, in this order: some use the file that another made. `CANARY` stands for the value itself."""

_SILENT: Final = ("argument", "name of a tool", "server", "preview URL", "list of tools", "log")
"""These do not repeat the value, so there is no placeholder to see."""

Call = Callable[[str, dict[str, Any]], Awaitable[str]]
"""Calls a tool; returns all that comes out, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    way: str
    channel: str
    verdict: Verdict


def run_leak_check(*, as_json: bool = False) -> int:
    """Print the report; return 0 when everything was tried and nothing leaked."""
    canary = secrets.token_urlsafe(32)
    try:
        findings = anyio.run(_check, canary)
    except SandboxToolsError as error:
        sys.stderr.write(f"sandbox-tools: {error}\n")
        return 2
    if as_json:
        rows = [{"way": each.way, "channel": each.channel, "verdict": each.verdict} for each in findings]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        _print(Console(soft_wrap=True), findings)
    return 0 if all(each.verdict == "ok" for each in findings) else 1


def _print(console: Console, findings: list[_Finding]) -> None:
    table = Table("way", "channel", "verdict", box=None)
    for each in findings:
        table.add_row(each.way, each.channel, f"[{'green' if each.verdict == 'ok' else 'red'}]{each.verdict}[/]")
    console.print(table)
    leaked = sum(each.verdict == "leaked" for each in findings)
    console.print(f"{len(findings)} channels, {leaked} leaked. The canary was made for this run; it protects nothing.")


async def _check(canary: str) -> list[_Finding]:
    findings: list[_Finding] = []
    with _captured_log() as log:
        async with Toolset.open(secrets={_NAME: canary}) as toolset:

            def judge(way: str, channel: str, output: str) -> None:
                verdict = _judged(channel, output, canary, toolset.redactor)
                findings.append(_Finding(way=way, channel=channel, verdict=verdict))

            async def try_all(way: str, call: Call) -> None:
                for channel, (name, arguments) in _CHANNELS.items():
                    given = json.loads(json.dumps(arguments).replace("CANARY", canary).replace(f"LEAK_{canary}", _NAME))
                    judge(way, channel, await call(canary if name == "CANARY" else name, given))

            await try_all("toolset", partial(_call, toolset))
            for way, mode in (("MCP", "auto"), ("MCP, older era", "legacy")):
                async with Client(create_server(toolset), mode=mode) as client:
                    judge(way, "list of tools", (await client.list_tools()).model_dump_json())
                    await try_all(way, partial(_call_by_mcp, client))
            judge("this process", "log", log.getvalue())
    return findings


async def _call(toolset: Toolset, name: str, arguments: dict[str, Any]) -> str:
    return repr(await toolset.call(name, arguments))


async def _call_by_mcp(client: Client, name: str, arguments: dict[str, Any]) -> str:
    return (await client.call_tool(name, arguments)).model_dump_json()


@contextmanager
def _captured_log() -> Iterator[io.StringIO]:
    """Keep what our loggers say, as it is before any redaction."""
    text, logger = io.StringIO(), logging.getLogger("sandbox_tools")
    handler, level = logging.StreamHandler(text), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield text
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _judged(channel: str, output: str, canary: str, redactor: Redactor) -> Verdict:
    """Look for the canary, however it is spelled, and for every credential that the redactor knows."""
    if redactor.text(output) != output or any(canary in text for text in _readings(output)):
        return "leaked"
    is_hidden = f"[REDACTED:{_NAME}]" in output or "ithheld" in output
    return "ok" if is_hidden or channel in _SILENT else "not tried"


def _readings(output: str) -> Iterator[str]:
    """Yield the output, and what there is in base64 and hexadecimal in it; without the help of the redactor."""
    yield output
    yield output[::-1]
    joined = re.sub(r"\\n|[\s:]", "", output)
    for run in re.findall(r"[A-Za-z0-9+/]{16,}", joined):
        yield from (base64.b64decode(_whole(f"{run[at:]}AAA", 4)).decode("latin-1") for at in range(4))
    for run in re.findall(r"[0-9a-fA-F]{32,}", joined):
        yield from (bytes.fromhex(_whole(run[at:], 2)).decode("latin-1") for at in range(2))


def _whole(run: str, unit: int) -> str:
    return run[: len(run) // unit * unit]
