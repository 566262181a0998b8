"""`sandbox-tools mcp-http` as a user starts it: a process, real sandboxes, two callers."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent

from tests.local.service import LocalServer

ALICE = "alice-7d02b6c1f94e385a0b6d"
BOB = "bob-19ce04f7a2b86d53e8f07a"


@pytest.fixture
def server(
    local_server: LocalServer, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[subprocess.Popen[str]]:
    """With the options that a test gives as the parameter."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"alice {ALICE}\nbob {BOB}\n")
    command = [sys.executable, "-m", "sandbox_tools", "mcp-http", "--port", "0", "--tokens-file", str(tokens)]
    process = subprocess.Popen(
        [*command, *getattr(request, "param", [])],
        env={**os.environ, "SEACLOUD_BASE_URL": local_server.base_url, "SEACLOUD_API_KEY": local_server.api_key},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


@asynccontextmanager
async def connected(url: str, token: str) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


async def ask(client: Client, tool: str, **arguments: object) -> str:
    block = (await client.call_tool(tool, arguments)).content[0]
    assert isinstance(block, TextContent)
    return block.text


def sandboxes(server: LocalServer) -> list[str]:
    listed = httpx.get(f"{server.base_url}/api/v1/sandboxes", headers={"X-API-Key": server.api_key}, trust_env=False)
    return [entry["sandboxID"] for entry in listed.json()]


async def test_two_callers_work_apart_and_the_end_leaves_nothing(
    server: subprocess.Popen[str], local_server: LocalServer
) -> None:
    before = set(sandboxes(local_server))
    assert server.stdout is not None
    url = (await anyio.to_thread.run_sync(server.stdout.readline)).strip()
    async with connected(url, ALICE) as alice, connected(url, BOB) as bob:
        await ask(alice, "exec", command="echo of alice > note")
        (of_alice,) = set(sandboxes(local_server)) - before
        assert "of alice" in await ask(alice, "read_file", path="note", sandbox_id=of_alice)
        # Bob has a sandbox of his own, and hers is to him like one that is not there.
        assert "does not exist" in await ask(bob, "read_file", path="note")
        foreign = await ask(bob, "read_file", path="note", sandbox_id=of_alice)
        assert foreign == await ask(bob, "read_file", path="note", sandbox_id="sandbox-that-never-was")
        assert "There is no sandbox with this id" in foreign
        app = "import http.server as h; h.ThreadingHTTPServer(('', 3000), h.SimpleHTTPRequestHandler).serve_forever()"
        await ask(alice, "exec", command=f'python3 -c "{app}"', background=True)
        answer = await ask(alice, "get_preview_url", port=3000)
        (preview,) = re.findall(r"http://127\.0\.0\.1:\d+/preview/[0-9a-f]{24}/", answer)
        async with httpx2.AsyncClient() as browser:
            page = await browser.get(f"{preview}note", headers={"Cookie": "a=b"})
            assert (page.status_code, page.text) == (200, "of alice\n")
            assert "allow-same-origin" not in page.headers["content-security-policy"]
            assert (await browser.get(f"{preview}%2e%2e/%2e%2e/health")).status_code == 400
            assert (await browser.get(preview.replace("/preview/", "/preview/0"))).status_code == 404
            assert (await browser.get(f"{preview}note", headers={"Host": "evil.example"})).status_code == 421
            assert (await browser.post(f"{preview}note", content=b"x")).status_code == 501  # the app's own answer
    server.send_signal(signal.SIGTERM)
    out, err = await anyio.to_thread.run_sync(server.communicate)
    assert server.returncode == 0
    assert set(sandboxes(local_server)) == before
    for secret in (ALICE, BOB, local_server.api_key):
        assert secret not in out + err


@pytest.mark.parametrize("server", [["--show-unknown-tokens"]], indirect=True)
async def test_what_only_looks_like_a_token_is_shown_when_asked_for_and_a_token_of_a_caller_is_not(
    server: subprocess.Popen[str],
) -> None:
    assert server.stdout is not None
    url = (await anyio.to_thread.run_sync(server.stdout.readline)).strip()
    unknown = f"npm_{secrets.token_hex(18)}"
    async with connected(url, ALICE) as alice:
        shown = await ask(alice, "exec", command=f"echo {unknown} {ALICE} {BOB}")
    assert shown == f"exit_code: 0\n--- stdout ---\n{unknown} [REDACTED:MCP_TOKEN] [REDACTED:MCP_TOKEN]"


def test_what_it_cannot_serve_is_said_in_one_sentence(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"alice {ALICE}\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for option, value in (("--public-url", "nonsense"), ("--port", str(taken.getsockname()[1]))):
            command = [sys.executable, "-m", "sandbox_tools", "mcp-http", "--tokens-file", str(tokens), option, value]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 2
            assert "public URL" in done.stderr if option == "--public-url" else "in use" in done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("tokens", ["", "alice short\n"])
def test_it_does_not_start_without_tokens_that_protect(tokens: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(tokens)
    command = [sys.executable, "-m", "sandbox_tools", "mcp-http", "--tokens-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "token" in done.stderr
    assert "short" not in done.stderr.replace("shorter", "")
