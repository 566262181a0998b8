"""Previews in a real browser: absolute paths, cookies, a WebSocket and an event stream, on an origin of their own."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.contract.test_private_previews import published
from tests.local.service import Box, LocalServer, wait_for

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

APP = r"""
import base64, hashlib, http.server, json
PAGE = b'<!doctype html><script type="module" src="/static/app.js"></script>'
SCRIPT = b'''
const seen = {origin: location.origin, cookie: document.cookie};
localStorage.setItem("kept", "here"); seen.kept = localStorage.getItem("kept");
seen.api = await (await fetch("/api?x=1", {method: "POST", body: "sent"})).json();
seen.socket = await new Promise((done, fail) => {
  const socket = new WebSocket(`ws://${location.host}/ws`);
  socket.onmessage = (message) => done(message.data); socket.onerror = () => done("failed");
});
seen.event = await new Promise((done) => {
  const events = new EventSource("/events"); events.onmessage = (event) => { events.close(); done(event.data); };
});
await fetch("/report", {method: "POST", body: JSON.stringify(seen)});
'''
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/": self.answer("text/html", PAGE)
        elif self.path == "/static/app.js": self.answer("text/javascript", SCRIPT)
        elif self.path == "/events":
            self.send_response(200); self.send_header("Content-Type", "text/event-stream"); self.end_headers()
            self.wfile.write(b"data: told\n\n"); self.rfile.read(1); self.close_connection = True
        elif self.path == "/ws":
            key = self.headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101); self.send_header("Upgrade", "websocket"); self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key).digest()).decode())
            self.end_headers(); self.wfile.write(b"\x81\x02hi"); self.rfile.read(1); self.close_connection = True
        else: self.answer("text/plain", b"?")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/report": open("report.tmp", "wb").write(body); __import__("os").rename("report.tmp", "report")
        self.answer("application/json", json.dumps({"got": body.decode(), "cookie": self.headers["Cookie"]}).encode())
    def answer(self, kind, body):
        self.send_response(200); self.send_header("Content-Type", kind)
        self.send_header("Set-Cookie", "visited=yes; Path=/; Domain=localhost; SameSite=Strict")
        self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def box(local_server: LocalServer) -> Iterator[Box]:
    with local_server.sandbox(network={"allowPublicTraffic": False}) as sandbox:
        serve(sandbox)
        yield sandbox


def serve(box: Box) -> None:
    program = base64.b64encode(APP.encode()).decode()
    box.sh(f"echo {program} | base64 -d > app.py; python3 app.py >/dev/null 2>&1 &")
    wait_for(lambda: 3000 in [item["port"] for item in box.http.get("/ports").json()], what="the server")


@contextmanager
def browser(url: str, profile: Path) -> Iterator[None]:
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    process = subprocess.Popen(
        [BROWSER, *flags, f"--user-data-dir={profile}", "--disable-background-networking", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
@pytest.mark.parametrize("way", ["the private proxy", "the local service", "the documented path"])
def test_an_app_works_in_a_browser(way: str, box: Box, local_server: LocalServer, tmp_path: Path) -> None:
    with ExitStack() as stack:
        service = local_server.base_url.rpartition(":")[2]
        if way == "the private proxy":
            (site,) = stack.enter_context(published(box.record["envdUrl"], box.record["envdAccessToken"], 3000))
            url, origin, shown = f"{site.url}/", site.url, box
        else:
            shown = stack.enter_context(local_server.sandbox())
            serve(shown)
            origin = f"http://3000-{shown.sandbox_id}.localhost:{service}"
            url = f"{origin}/" if way == "the local service" else f"{shown.record['envdUrl']}/proxy/3000/"
        with browser(url, tmp_path):
            report = wait_for(lambda: reported(shown), what="the report of the page", within_s=40)
        assert report == {
            "origin": origin,
            "cookie": "visited=yes",
            "kept": "here",
            "api": {"got": "sent", "cookie": "visited=yes"},
            "socket": "hi",
            "event": "told",
        }


def reported(box: Box) -> dict[str, object] | None:
    answer = box.http.get("/file", params={"path": "report"})
    found: dict[str, object] = json.loads(answer.content) if answer.status_code == 200 else {}
    return found or None
