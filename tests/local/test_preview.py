"""Previews of real servers in a sandbox: both addresses, both directions, WebSockets, what a page must not reach."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from sandbox_tools.local.preview import MAX_TUNNELS
from tests.local.service import Box, LocalServer, wait_for

APP = """
import base64, hashlib, http.server, json, os, sys, time
PORT = int(sys.argv[1])
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket":
            return self.upgrade()
        if self.path == "/sse":
            self.send_response(200); self.send_header("Content-Type", "text/event-stream"); self.end_headers()
            self.wfile.write(b"data: one\\n\\n"); self.wait("go"); self.wfile.write(b"data: two\\n\\n")
            self.close_connection = True
            return
        if self.path.startswith("/raw/"):
            self.wfile.write(base64.urlsafe_b64decode(self.path[5:])); self.close_connection = True; return
        if self.path == "/huge":
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\nX: " + b"x" * 200_000); self.wait("never")
        if self.path == "/big":
            self.send_response(200); self.send_header("Content-Length", str(30 << 20)); self.end_headers()
            for _ in range(30): self.wfile.write(b"x" * (1 << 20))
            return
        self.answer({"port": PORT, "path": self.path, "headers": dict(self.headers.items())})
    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            return self.answer({"sha256": hashlib.sha256(b"".join(self.chunks())).hexdigest()})
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left:
            data = self.rfile.read1(min(left, 65536)); left -= len(data); digest.update(data)
            open("begun", "w").close()
        self.answer({"sha256": digest.hexdigest()})
    def chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size); self.rfile.readline()
        self.rfile.readline()
    def answer(self, message):
        body = json.dumps(message).encode()
        self.send_response(200)
        self.send_header("Set-Cookie", f"app={PORT}; Path=/; Domain=localhost; HttpOnly")
        self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def upgrade(self):
        if self.path == "/refused":
            self.send_response(403); self.send_header("Content-Length", "2"); self.end_headers()
            self.wfile.write(b"no"); return
        key = self.headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        head = "HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
        head += "Sec-WebSocket-Accept: " + base64.b64encode(hashlib.sha1(key).digest()).decode() + "\\r\\n\\r\\n"
        self.wfile.write(head.encode() + b"\\x81\\x02hi")
        while data := self.connection.recv(65536):
            if data == b"bye": break
            self.connection.sendall(data)
        open("closed", "w").close()
        self.close_connection = True
    def wait(self, name):
        while not os.path.exists(name): time.sleep(0.005)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""


def serve(box: Box, port: int = 3000) -> None:
    program = base64.b64encode(APP.encode()).decode()
    box.sh(f"echo {program} | base64 -d > app.py; python3 app.py {port} >/dev/null 2>&1 &")
    wait_for(lambda: port in [item["port"] for item in box.http.get("/ports").json()], what="the server")


@pytest.fixture(scope="module")
def box(local_server: LocalServer) -> Iterator[Box]:
    """A sandbox with a server on port 3000."""
    with local_server.sandbox() as sandbox:
        serve(sandbox)
        yield sandbox


@dataclass(frozen=True)
class Site:
    """A preview under one of its two addresses."""

    client: httpx.Client
    host: str
    prefix: str
    address: tuple[str, int]

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(f"{self.prefix}{path}", headers={"Host": self.host, **headers})

    def post(self, path: str, content: Iterator[bytes], **headers: str) -> httpx.Response:
        return self.client.post(f"{self.prefix}{path}", content=content, headers={"Host": self.host, **headers})


@contextmanager
def site(box: Box, form: str, port: int = 3000) -> Iterator[Site]:
    base = str(box.control.base_url).rstrip("/")
    service_port = int(base.rpartition(":")[2])
    own = form == "own"
    host = f"{port}-{box.sandbox_id}.localhost:{service_port}" if own else f"127.0.0.1:{service_port}"
    prefix = "" if own else f"/rt/{box.sandbox_id}/proxy/{port}"
    with httpx.Client(base_url=base, timeout=20) as client:
        yield Site(client, host, prefix, ("127.0.0.1", service_port))


@pytest.fixture(params=["own", "path"])
def page(request: pytest.FixtureRequest, box: Box) -> Iterator[Site]:
    """The preview of port 3000, on its own origin and by its path."""
    with site(box, request.param) as found:
        yield found


@pytest.fixture
def own(box: Box) -> Iterator[Site]:
    with site(box, "own") as found:
        yield found


@pytest.fixture
def path(box: Box) -> Iterator[Site]:
    with site(box, "path") as found:
        yield found


class TestHttp:
    def test_absolute_paths_work_on_the_own_origin(self, own: Site) -> None:
        seen = own.get("/static/a%2Fb.js?x=%20").json()
        assert (seen["path"], seen["headers"]["host"]) == ("/static/a%2Fb.js?x=%20", own.host)
        assert "X-Forwarded-Prefix" not in seen["headers"]

    def test_an_event_stream_is_not_held_back(self, box: Box, page: Site) -> None:
        box.sh("rm -f go")
        with page.client.stream("GET", f"{page.prefix}/sse", headers={"Host": page.host}) as answer:
            events = answer.iter_raw()
            assert next(events) == b"data: one\n\n"
            box.sh("touch go")
            assert b"".join(events) == b"data: two\n\n"

    def test_an_upload_reaches_the_app_while_it_is_sent(self, box: Box, page: Site) -> None:
        box.sh("rm -f begun")
        piece, digest = b"y" * (1 << 20), hashlib.sha256()

        def body() -> Iterator[bytes]:
            for number in range(20):
                digest.update(piece)
                yield piece
                if number == 5:
                    wait_for(lambda: box.http.get("/file", params={"path": "begun"}).status_code == 200, what="data")

        answer = page.post("/upload", body(), **{"Content-Length": str(20 << 20)})
        assert answer.json() == {"sha256": digest.hexdigest()}

    def test_an_upload_of_unknown_length_reaches_the_app(self, page: Site) -> None:
        assert page.post("/chunked", iter([b"ab", b"c"])).json() == {"sha256": hashlib.sha256(b"abc").hexdigest()}

    def test_a_big_answer_arrives_whole(self, page: Site) -> None:
        assert page.get("/big").content == b"x" * (30 << 20)

    def test_two_sandboxes_with_the_same_port_do_not_meet(self, local_server: LocalServer, own: Site, box: Box) -> None:
        with local_server.sandbox() as other, site(other, "own") as second:
            serve(other)
            other.sh("echo mine > only-here")
            assert own.get("/").json()["headers"]["host"] != second.get("/").json()["headers"]["host"]
            assert box.http.get("/file", params={"path": "only-here"}).status_code == 404

    def test_nothing_listening_is_502_in_the_form_that_the_caller_reads(self, box: Box) -> None:
        with site(box, "own", 3999) as closed:
            plain = closed.get("/")
            shown = closed.get("/", **{"Sec-Fetch-Mode": "navigate", "Accept": "text/html"})
        assert (plain.status_code, plain.json()["port"], plain.json()["sandboxId"]) == (502, 3999, box.sandbox_id)
        assert (shown.status_code, shown.headers["content-type"]) == (502, "text/html; charset=utf-8")
        assert "port 3999 of the sandbox: port is not listening" in shown.text


class TestOrigins:
    def test_cookies_work_on_the_own_origin_and_stay_there(self, own: Site, path: Site) -> None:
        assert own.get("/").headers["set-cookie"] == "app=3000; Path=/; HttpOnly"
        assert own.get("/", Cookie="app=3000").json()["headers"]["cookie"] == "app=3000"
        assert "set-cookie" not in path.get("/").headers
        assert "cookie" not in path.get("/", Cookie="app=3000").json()["headers"]

    def test_a_browser_is_sent_to_the_own_origin_and_a_program_is_not(self, own: Site, path: Site) -> None:
        shown = path.get("/a%20b/?q=1", **{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"})
        assert (shown.status_code, shown.headers["location"]) == (302, f"http://{own.host}/a%20b/?q=1")
        assert path.get("//evil.example/", **{"Sec-Fetch-Mode": "navigate"}).headers["location"] == (
            f"http://{own.host}//evil.example/"
        )
        for mode in ("cors", "no-cors"):
            assert path.get("/a", **{"Sec-Fetch-Mode": mode}).status_code == 200

    def test_what_is_shown_on_our_own_origin_gets_no_rights_there(self, path: Site) -> None:
        policy = path.get("/").headers["content-security-policy"]
        assert policy.startswith("sandbox ")
        assert "allow-same-origin" not in policy
        assert path.get("/worker.js", **{"Service-Worker": "script"}).status_code == 403

    @pytest.mark.parametrize("route", ["/sandboxes", "/api/v1/sandboxes", "/usage/limits"])
    def test_our_routes_do_not_answer_on_the_origin_of_a_preview(
        self, local_server: LocalServer, own: Site, route: str
    ) -> None:
        answer = own.get(route, **{"X-Api-Key": local_server.api_key})
        assert (answer.json()["port"], answer.json()["path"]) == (3000, route)

    def test_a_runtime_does_not_answer_on_the_origin_of_a_preview(self, box: Box, own: Site) -> None:
        secret = {"X-Access-Token": box.record["envdAccessToken"]}
        assert own.get(f"/rt/{box.sandbox_id}/envs", **secret).json()["path"].endswith("/envs")

    def test_a_page_of_a_preview_cannot_call_our_routes(
        self, local_server: LocalServer, box: Box, own: Site, path: Site
    ) -> None:
        origin = {"Origin": f"http://{own.host}"}
        key = {"X-Api-Key": local_server.api_key}
        assert own.client.get("/sandboxes", headers={**origin, **key}).status_code == 403
        assert own.client.post(f"/rt/{box.sandbox_id}/run", json={}, headers=origin).status_code == 403

    @pytest.mark.parametrize(
        "host",
        [
            "3000-{id}.localhost",
            "3000-{id}.localhost:1",
            "3000-{id}.localhost.evil.example:{port}",
            "3000-{id}.evil.example:{port}",
            "x.3000-{id}.localhost:{port}",
            "3000-{id}:{port}",
        ],
    )
    def test_only_the_exact_name_is_a_preview(self, box: Box, own: Site, host: str) -> None:
        name = host.format(id=box.sandbox_id, port=own.address[1])
        assert own.client.get("/", headers={"Host": name}).status_code == 421

    @pytest.mark.parametrize(("label", "status"), [("0-{id}", 400), ("70000-{id}", 400), ("3000-sb-nope", 404)])
    def test_a_name_of_no_preview_is_refused(self, box: Box, own: Site, label: str, status: int) -> None:
        name = f"{label.format(id=box.sandbox_id)}.localhost:{own.address[1]}"
        assert own.client.get("/", headers={"Host": name}).status_code == status

    def test_no_token_of_ours_reaches_the_app(self, local_server: LocalServer, box: Box, page: Site) -> None:
        token = box.record["envdAccessToken"]
        for value in (f"Bearer {token}", f"Bearer {local_server.api_key}"):
            seen = page.get("/", **{"Authorization": value, "X-Copy": value, "X-Access-Token": token})
            assert (token in seen.text, local_server.api_key in seen.text) == (False, False)
        assert page.get("/", Authorization="Basic of-the-app").json()["headers"]["authorization"] == "Basic of-the-app"

    @pytest.mark.parametrize("form", ["own", "path"])
    def test_a_private_preview_needs_the_token_on_either_address(self, local_server: LocalServer, form: str) -> None:
        with local_server.sandbox(network={"allowPublicTraffic": False}) as sandbox, site(sandbox, form) as private:
            token = sandbox.record["envdAccessToken"]
            assert private.get("/", **{"Sec-Fetch-Mode": "navigate"}).status_code == 403
            assert private.get("/", **{"X-Access-Token": "wrong"}).status_code == 403
            assert handshake(private, "/")[0] == 403
            for name in ("X-Access-Token", "e2b-traffic-access-token"):
                assert private.get("/", **{name: token}).status_code == 502  # let through to a closed port
                assert handshake(private, "/", **{name: token})[0] == 502


KEY = base64.b64encode(b"0123456789abcdef").decode()
ACCEPT = base64.b64encode(hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()


class WebSocket:
    """A connection after the answer to its handshake."""

    def __init__(self, page: Site, path: str, **headers: str) -> None:
        self.socket = socket.create_connection(page.address, timeout=15)
        lines = {
            "Host": page.host,
            "Connection": "keep-alive, Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": KEY,
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.socket.sendall(f"GET {page.prefix}{path} HTTP/1.1\r\n{head}\r\n".encode())
        received = b""
        while b"\r\n\r\n" not in received and (data := self.socket.recv(65536)):
            received += data
        head_bytes, _, self._rest = received.partition(b"\r\n\r\n")
        first, *fields = head_bytes.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}

    def receive(self, count: int) -> bytes:
        """Return exactly `count` bytes, or what came before the end."""
        data = bytearray(self._rest)
        while len(data) < count and (more := self.socket.recv(65536)):
            data += more
        self._rest = bytes(data[count:])
        return bytes(data[:count])

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def handshake(page: Site, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    with WebSocket(page, path, **headers) as refused:
        length = int(refused.headers.get("content-length", 0))
        return refused.status, refused.headers, refused.receive(length)


class TestWebSocket:
    def test_bytes_go_both_ways_as_they_are(self, page: Site) -> None:
        with WebSocket(page, "/ws") as opened:
            assert (opened.status, opened.headers["sec-websocket-accept"]) == (101, ACCEPT)
            assert opened.receive(4) == b"\x81\x02hi"  # came together with the handshake
            data = bytes(range(256)) * 64
            for _ in range(20):
                opened.socket.sendall(data)
                assert opened.receive(len(data)) == data

    def test_either_side_can_end_it(self, box: Box, page: Site) -> None:
        with WebSocket(page, "/ws") as opened:
            opened.receive(4)
            opened.socket.sendall(b"bye")
            assert opened.receive(1) == b""
        box.sh("rm -f closed")
        with WebSocket(page, "/ws") as opened:
            opened.receive(4)
        wait_for(lambda: box.http.get("/file", params={"path": "closed"}).status_code == 200, what="the end")

    def test_a_refusal_of_the_app_is_passed_on(self, page: Site) -> None:
        status, headers, body = handshake(page, "/refused")
        assert (status, body, headers["connection"]) == (403, b"no", "close")

    def test_a_closed_port_is_502_and_our_own_routes_have_none(self, box: Box, page: Site) -> None:
        with site(box, "own", 3999) as closed:
            status, _, body = handshake(closed, "/")
        assert (status, json.loads(body)["code"]) == (502, 502)
        ours = Site(page.client, f"127.0.0.1:{page.address[1]}", "", page.address)
        assert handshake(ours, "/sandboxes")[0] == 404
        elsewhere = Site(page.client, "evil.example", f"/rt/{box.sandbox_id}/proxy/3000", page.address)
        assert handshake(elsewhere, "/ws")[0] == 404

    def test_there_is_a_bound_to_them_and_they_end_with_their_sandbox(self, local_server: LocalServer) -> None:
        with local_server.sandbox() as sandbox, site(sandbox, "own") as page:
            serve(sandbox)
            opened = [WebSocket(page, "/ws") for _ in range(MAX_TUNNELS)]
            assert {one.status for one in opened} == {101}
            status, _, body = handshake(page, "/ws")
            assert (status, "too many" in json.loads(body)["message"]) == (502, True)
            opened.pop().socket.close()
            wait_for(lambda: handshake(page, "/refused")[0] == 403, what="a free place")
            sandbox.control.delete(f"/sandboxes/{sandbox.sandbox_id}")
            for one in opened:
                one.receive(4)
                assert one.receive(1) == b""
                one.socket.close()


HOSTILE = {
    "switches protocols unasked": b"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "no HTTP": b"SSH-2.0-x\r\n\r\n",
    "nothing": b"",
    "a line that is no header": b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a zero byte": b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    "a bare carriage return": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b=c\r\n\r\n",
}


class TestHostileServers:
    @pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
    def test_what_is_no_http_is_502(self, page: Site, answer: bytes) -> None:
        raw = base64.urlsafe_b64encode(answer).decode()
        assert page.get(f"/raw/{raw}").status_code == 502
        assert handshake(page, "/ws")[0] == 101

    def test_a_head_without_end_is_given_up(self, page: Site) -> None:
        assert page.get("/huge").status_code == 502

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ],
    )
    def test_an_answer_that_breaks_off_breaks_off(self, page: Site, answer: bytes) -> None:
        raw = base64.urlsafe_b64encode(answer).decode()
        with pytest.raises(httpx.RemoteProtocolError):
            page.get(f"/raw/{raw}")
        assert page.get("/").status_code == 200

    def test_a_second_answer_is_not_taken_for_the_next_one(self, page: Site) -> None:
        two = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo"
        raw = base64.urlsafe_b64encode(two).decode()
        answers: list[Any] = [page.get(f"/raw/{raw}").text, page.get("/").json()["path"]]
        assert answers == ["one", "/"]
