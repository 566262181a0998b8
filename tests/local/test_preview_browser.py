"""A preview in a real browser, where Chromium is installed: the page says what worked, by a request to its own app."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.local.service import Box, LocalServer, wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

APP = r"""
import base64, hashlib, http.server, os

PAGE = b'''<!doctype html><link rel=stylesheet href=/style.css><body><script>
const told = {origin: location.origin, path: location.pathname};
async function look() {
  told.fetched = await (await fetch('/data')).text();
  document.cookie = 'page=1; path=/';
  document.cookie = 'wide=1; path=/; domain=localhost';
  told.cookies = (await (await fetch('/cookies')).text()).split('; ').sort();
  told.style = getComputedStyle(document.body).color;
  localStorage.kept = 'yes';
  told.storage = localStorage.kept;
  const worker = await navigator.serviceWorker.register('/worker.js');
  await navigator.serviceWorker.ready;
  told.scope = new URL(worker.scope).pathname;
  told.socket = await new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${location.host}/socket`);
    socket.onmessage = event => resolve(event.data);
    socket.onerror = reject;
  });
  told.service = await fetch('SERVICE/health').then(answer => answer.status, error => error.name);
}
look().catch(error => told.failed = String(error)).finally(
  () => fetch('/told', {method: 'POST', body: JSON.stringify(told)}));
</script>'''

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/socket":
            return self.greet()
        kind, body = {
            "/style.css": ("text/css", b"body { color: rgb(1, 2, 3) }"),
            "/worker.js": ("text/javascript", b"self.addEventListener('fetch', () => {})"),
            "/data": ("text/plain", b"data"),
            "/cookies": ("text/plain", self.headers.get("Cookie", "").encode()),
        }.get(self.path, ("text/html", PAGE))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "app=1; Path=/")
        self.end_headers()
        self.wfile.write(body)
    def greet(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.wfile.write(b"\x81\x05hello")
        self.rfile.read(1)
    def do_POST(self):
        with open("told.part", "wb") as file:
            file.write(self.rfile.read(int(self.headers["Content-Length"])))
        os.rename("told.part", "told")
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_): pass

http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Handler).serve_forever()
"""


@contextmanager
def browser(url: str, profile: Path) -> Iterator[None]:
    # Its own sandbox does not work for root; the page is ours.
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", url]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def told(box: Box) -> Any:
    answer = box.http.get("/file", params={"path": "told"})
    return answer.json() if answer.status_code == 200 else None


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_page_has_an_origin_of_its_own_where_everything_works(
    local_server: LocalServer, box: Box, tmp_path: Path
) -> None:
    box.http.post("/file", params={"path": "app.py"}, content=APP.replace("SERVICE", local_server.base_url).encode())
    with box.start("python3", "app.py"):
        wait_for(lambda: 3000 in [entry["port"] for entry in box.http.get("/ports").json()], what="the app")
        with browser(f"{box.record['envdUrl']}/proxy/3000/deep/page", tmp_path):
            seen = wait_for(lambda: told(box), what="the words of the page", within_s=60)
    port = local_server.base_url.rpartition(":")[2]
    assert seen == {
        "origin": f"http://3000-{box.sandbox_id}.localhost:{port}",
        "path": "/deep/page",
        "fetched": "data",
        "cookies": ["app=1", "page=1"],  # not the one for all of localhost
        "style": "rgb(1, 2, 3)",
        "storage": "yes",
        "scope": "/",
        "socket": "hello",
        "service": "TypeError",  # refused: no page may call it
    }
