"""Private previews through the proxy on loopback: real servers in a real sandbox, and apps that show the token."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import anyio.from_thread
import httpx
import pytest

from sandbox_tools import BlockingToolset
from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.preview_proxy import PreviewProxy
from sandbox_tools.redaction import Redactor, Registry
from tests.local.service import Box, LocalServer, wait_for
from tests.local.test_preview import serve
from tests.local.test_preview_browser import APP as PAGE
from tests.local.test_preview_browser import CHROMIUM, browser, told

TOKEN = "traffic-0d8f31c7b2a94e65"


class Site:
    """A published preview, and how a browser asks for it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.host = url.split("/")[2]
        self.port = int(self.host.rpartition(":")[2])
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20, trust_env=False)

    def ask(self, method: str, path: str, *, content: object = None, **headers: str) -> httpx.Response:
        return self.client.request(method, path, content=content, headers={"Host": self.host, **headers})  # type: ignore[arg-type]

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.ask("GET", path, **headers)

    def upgraded(self, path: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\nOrigin: {self.url}\r\nConnection: Upgrade\r\n"
        head += f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        connection.sendall(head.encode())
        return connection


@asynccontextmanager
async def proxy_of(redactor: Redactor) -> AsyncIterator[PreviewProxy]:
    async with anyio.create_task_group() as tasks:
        yield PreviewProxy(tasks, redactor)
        tasks.cancel_scope.cancel()


@pytest.fixture(scope="module")
def box(local_server: LocalServer) -> Iterator[Box]:
    """A sandbox whose previews are private, with a server on port 3000."""
    with local_server.sandbox(network={"allowPublicTraffic": False}) as sandbox:
        serve(sandbox)
        yield sandbox


@contextmanager
def published(envd_url: str, token: str, *ports: int) -> Iterator[list[Site]]:
    registry = Registry()
    access = RuntimeAccess(envd_url=envd_url, access_token=registry.register("SANDBOX_TOKEN", token))
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(proxy_of(Redactor(registry))) as proxy,
    ):
        sites = [Site(portal.call(partial(proxy.publish, "s", port, lambda: access))) for port in ports]
        again = portal.call(partial(proxy.publish, "s", ports[0], lambda: access))
        assert again == f"{sites[0].url}/"
        yield sites
        portal.call(proxy.withdraw, "s")
        assert sites[0].get("/").status_code == 404
        for site in sites:
            site.client.close()


@pytest.fixture(scope="module")
def sites(box: Box) -> Iterator[list[Site]]:
    """The previews of port 3000 and of a port on which nothing listens."""
    with published(box.record["envdUrl"], box.record["envdAccessToken"], 3000, 3999) as found:
        yield found


@pytest.fixture(scope="module")
def site(sites: list[Site]) -> Site:
    return sites[0]


class TestARealApp:
    def test_without_the_proxy_the_preview_is_closed(self, box: Box) -> None:
        url = f"{box.record['envdUrl']}/proxy/3000/"
        assert httpx.get(url, trust_env=False).status_code == 403

    def test_absolute_paths_queries_and_cookies_work(self, site: Site) -> None:
        answer = site.get("/static/a%2Fb.js?x=%20", Cookie="app=3000", Authorization="Basic YTpi")
        seen = answer.json()
        assert (seen["path"], seen["headers"]["cookie"]) == ("/static/a%2Fb.js?x=%20", "app=3000")
        assert seen["headers"]["authorization"] == "Basic YTpi"
        assert answer.headers["set-cookie"] == "app=3000; Path=/; HttpOnly"
        assert "content-security-policy" not in answer.headers

    def test_a_navigating_browser_gets_the_page_here(self, site: Site) -> None:
        shown = site.get("/", **{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none"})
        assert (shown.status_code, shown.json()["port"]) == (200, 3000)

    def test_one_connection_serves_many_requests(self, site: Site) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)) as browser:
            browser.connect()
            first = browser.sock
            for _ in range(5):
                browser.request("GET", "/", headers={"Host": site.host})
                assert json.loads(browser.getresponse().read())["path"] == "/"
                assert browser.sock is first

    def test_an_event_stream_is_not_held_back_and_ends_with_its_reader(self, box: Box, site: Site) -> None:
        box.sh("rm -f go")
        with site.client.stream("GET", "/sse", headers={"Host": site.host}) as answer:
            events = answer.iter_raw()
            assert next(events) == b"data: one\n\n"
            box.sh("touch go")
            assert b"".join(events) == b"data: two\n\n"

    def test_big_bodies_pass_in_both_directions(self, site: Site) -> None:
        assert site.get("/big").content == b"x" * (30 << 20)
        piece, digest = os.urandom(1 << 20), hashlib.sha256()

        def body() -> Iterator[bytes]:
            for _ in range(20):
                digest.update(piece)
                yield piece

        answer = site.ask("POST", "/upload", content=body(), **{"Content-Length": str(20 << 20)})
        assert answer.json() == {"sha256": digest.hexdigest()}

    def test_a_body_of_unknown_length_passes(self, site: Site) -> None:
        answer = site.ask("POST", "/chunked", content=iter([b"ab", b"c"]))
        assert answer.json() == {"sha256": hashlib.sha256(b"abc").hexdigest()}

    def test_a_web_socket_carries_both_ways(self, box: Box, site: Site) -> None:
        box.sh("rm -f closed")
        with site.upgraded("/ws") as connection:
            received = b""
            while not received.endswith(b"\x81\x02hi"):
                received += connection.recv(65536)
            assert received.startswith(b"HTTP/1.1 101 ")
            connection.sendall(b"\x82\x03abc")
            assert connection.recv(65536) == b"\x82\x03abc"
        wait_for(lambda: box.http.get("/file", params={"path": "closed"}).status_code == 200, what="the end")

    def test_a_refused_web_socket_is_an_answer(self, site: Site) -> None:
        with site.upgraded("/refused") as connection:
            assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")

    def test_a_port_that_does_not_listen_is_502(self, sites: list[Site]) -> None:
        answer = sites[1].get("/")
        assert answer.status_code == 502
        assert "not listening" in answer.text

    def test_the_app_sees_no_token_and_nothing_of_the_origin_on_this_machine(self, box: Box, site: Site) -> None:
        seen = site.get("/", **{"X-Access-Token": "forged", "Origin": site.url, "Referer": f"{site.url}/x"}).json()
        assert not {"x-access-token", "e2b-traffic-access-token", "origin", "referer"} & set(seen["headers"])
        assert box.record["envdAccessToken"] not in json.dumps(seen)


class TestWhoMayAsk:
    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "localhost", "3000-000000000000000000000000.localhost", "evil.example", "a.b", ""],
    )
    def test_only_names_that_were_given_out_lead_somewhere(self, site: Site, host: str) -> None:
        assert site.get("/", Host=f"{host}:{site.port}").status_code in (400, 404)

    def test_the_name_must_be_whole(self, site: Site) -> None:
        label = site.host.partition(".")[0]
        for host in (label, f"{label}.evil.example:{site.port}", f"{label}.localhost:1", f"x.{site.host}"):
            assert site.get("/", Host=host).status_code == 404

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost"])
    def test_a_page_of_another_origin_is_refused(self, site: Site, origin: str) -> None:
        answer = site.get("/", Origin=origin)
        assert answer.status_code == 403
        assert "evil" not in answer.text

    @pytest.mark.parametrize(
        "target", ["/../../../file?path=/etc/passwd", "/%2e%2e/%2E%2E/health", "/a/..%2f..%2f../run", "/..\\..\\envs"]
    )
    def test_no_path_leaves_the_preview(self, site: Site, target: str) -> None:
        answer = raw(site, f"GET {target} HTTP/1.1\r\nHost: {site.host}\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")

    @pytest.mark.parametrize(
        "request_text",
        [
            "GET / HTTP/1.1\r\nHost: {host}\r\nHost: other\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: {host}\r\n\r\n",
            "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: {host}\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: {host}\r\nX: " + "x" * 100_000 + "\r\n\r\n",
            "\x00\x01\x02\r\n\r\n",
        ],
    )
    def test_what_is_no_plain_request_ends_the_connection(self, site: Site, request_text: str) -> None:
        answer = raw(site, request_text.replace("{host}", site.host))
        assert answer == b"" or answer[9:12] in (b"400", b"404", b"431", b"200")
        assert b'"path": "/"' not in answer or b"CONNECT" not in request_text.encode()
        assert site.get("/").status_code == 200


def raw(site: Site, text: str) -> bytes:
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
        connection.sendall(text.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while data := connection.recv(65536):
                received += data
        except ConnectionResetError:
            pass
        return received


ECHO = """HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nX-Echo: {token}\r\nSet-Cookie: t={token}; Domain=localhost\r
Connection: close\r\n{more}\r\n{body}"""


@asynccontextmanager
async def careless_router() -> AsyncIterator[str]:
    """A router that leaves the tokens in what it forwards, before an app that shows what it was sent."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra_attributes[anyio.abc.SocketAttribute.local_port]()

    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                request += await stream.receive()
            text = request.decode("latin-1")
            token = next(line.partition(": ")[2] for line in text.split("\r\n") if line.lower().startswith("x-access"))
            path = text.split(" ")[1].removeprefix("/9000-x/proxy/3000")
            if path == "/ws":
                await stream.send(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                await stream.send(b"\x81\x02ok")
                await stream.receive()
                await stream.send(b"\x81\x18" + token.encode())
                return
            kind = {"/html": "text/html", "/png": "image/png", "/sse": "text/event-stream"}.get(
                path, "application/json"
            )
            status, more, body = "200 OK", "", f"<pre>{token}</pre>"
            if path == "/b64":
                body = base64.b64encode(f"user:{token}".encode()).decode()
            if path.startswith("/to"):
                status, more, body = "302 Found", f"Location: {TARGETS[path].format(port=port)}\r\n", ""
            await stream.send(
                ECHO.format(status=status, kind=kind, token=token, more=more, body=body).encode("latin-1")
            )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo)
        yield f"http://127.0.0.1:{port}/9000-x"
        tasks.cancel_scope.cancel()
    await listener.aclose()


TARGETS = {
    "/to-itself": "/9000-x/proxy/3000/login?next=%2F#top",
    "/to-root": "/login",
    "/to-relative": "next/page",
    "/to-upstream": "http://127.0.0.1:{port}/9000-x/proxy/3000/deep",
    "/to-local": "http://localhost:3000/here",
    "/to-elsewhere": "https://example.com/",
}
MOVED = {
    "/to-itself": "{url}/login?next=%2F#top",
    "/to-root": "{url}/login",
    "/to-relative": "next/page",
    "/to-upstream": "{url}/deep",
    "/to-local": "{url}/here",
    "/to-elsewhere": "https://example.com/",
}


@pytest.fixture(scope="module")
def careless() -> Iterator[Site]:
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(careless_router()) as url,
        published(url, TOKEN, 3000) as (site,),
    ):
        yield site


class TestAnAppThatShowsTheToken:
    @pytest.mark.parametrize("path", ["/html", "/json"])
    def test_text_is_redacted(self, careless: Site, path: str) -> None:
        answer = careless.get(path)
        assert answer.text == "<pre>[REDACTED:SANDBOX_TOKEN]</pre>"
        assert answer.headers["x-echo"] == "[REDACTED:SANDBOX_TOKEN]"
        assert answer.headers["set-cookie"] == "t=[REDACTED:SANDBOX_TOKEN]"

    def test_other_forms_are_redacted_too(self, careless: Site) -> None:
        assert "[REDACTED:SANDBOX_TOKEN]" in careless.get("/b64").text

    @pytest.mark.parametrize("path", ["/png", "/sse"])
    def test_what_is_not_held_back_is_broken_off(self, careless: Site, path: str) -> None:
        answer = raw(careless, f"GET {path} HTTP/1.1\r\nHost: {careless.host}\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert TOKEN.encode() not in answer

    def test_a_web_socket_is_broken_off(self, careless: Site) -> None:
        with careless.upgraded("/ws") as connection:
            received = b""
            while not received.endswith(b"ok"):
                received += connection.recv(65536)
            connection.sendall(b"\x82\x01?")
            while data := connection.recv(65536):
                received += data
        assert TOKEN.encode() not in received

    @pytest.mark.parametrize("path", TARGETS)
    def test_redirects_lead_to_the_origin_of_the_preview(self, careless: Site, path: str) -> None:
        assert careless.get(path).headers["location"] == MOVED[path].format(url=careless.url)


def test_the_tool_gives_a_url_that_works_while_the_toolset_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEACLOUD_API_KEY", raising=False)
    with BlockingToolset.open(private_previews=True) as tools:
        tools.call("write_file", {"path": "index.html", "content": "<p>hi</p>"})
        tools.call("exec", {"command": "python3 -m http.server 8000", "background": True})
        result = tools.call("get_preview_url", {"port": 8000})
        assert result.structured is not None, result.text
        site = Site(str(result.structured["url"]))
        assert result.text.startswith(f"Preview of port 8000: {site.url}/\nThe URL works on this machine, while")
        assert site.get("/").text == "<p>hi</p>"
    with pytest.raises(httpx.ConnectError):
        site.get("/")
    site.client.close()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_finds_an_origin_of_its_own_where_everything_works(local_server: LocalServer, tmp_path: Path) -> None:
    with local_server.sandbox(network={"allowPublicTraffic": False}) as box:
        box.http.post(
            "/file", params={"path": "app.py"}, content=PAGE.replace("SERVICE", local_server.base_url).encode()
        )
        with box.start("python3", "app.py"):
            wait_for(lambda: 3000 in [entry["port"] for entry in box.http.get("/ports").json()], what="the app")
            with (
                published(box.record["envdUrl"], box.record["envdAccessToken"], 3000) as (site,),
                browser(f"{site.url}/deep/page", tmp_path),
            ):
                seen = wait_for(lambda: told(box), what="the words of the page", within_s=60)
    assert seen == {
        "origin": site.url,
        "path": "/deep/page",
        "fetched": "data",
        "cookies": ["app=1", "page=1"],  # not the one for all of localhost
        "style": "rgb(1, 2, 3)",
        "storage": "yes",
        "scope": "/",
        "socket": "hello",
        "service": "TypeError",  # refused: no page may call it
    }
