"""Secrets that the egress proxy puts into requests: to one host, over TLS that proves who it is, in one header."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_tools import BlockingToolset, InjectedSecret
from sandbox_tools.errors import ConfigurationError, WeakSecretError
from sandbox_tools.injection import Injection
from sandbox_tools.local.child import _told
from sandbox_tools.local.inject import Injector
from sandbox_tools.local.outside import Link
from sandbox_tools.local.proxy import serve_request
from sandbox_tools.redaction import Registry
from tests.local.test_network import Table, get, sandboxed, status

VALUE = f"ghp_{secrets.token_urlsafe(27)}"
HOST = "api.github.test"


class Echo(BaseHTTPRequestHandler):
    """Answers with all that it was sent, in the body and in a header."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        said = {"path": self.path, "headers": {name.lower(): text for name, text in self.headers.items()}}
        answer = json.dumps({**said, "body": body.decode()}).encode()
        self.send_response(200, f"OK {VALUE}")
        self.send_header("X-Echo", self.headers["Authorization"] or "none")
        self.send_header(f"X-{VALUE}", "its name has the value")
        if self.path == "/compressed":
            self.send_header("Content-Encoding", "gzip")
        if self.path == "/chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for byte in answer:
                self.wfile.write(b"1\r\n%c\r\n" % byte)
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815 - the name that the server looks for

    def log_message(self, *_: object) -> None:
        pass


def certificate(directory: Path, name: str) -> Path:
    """Make a certificate that signs itself, so that it is its own authority."""
    file = directory / f"{name}.pem"
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    named = f"-subj /CN={name} -addext subjectAltName=DNS:{name}"
    command = ["openssl", "req", "-x509", *curve.split(), *named.split(), "-keyout", file, "-out", f"{file}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


@contextmanager
def served_over_tls(file: Path, handler: type[BaseHTTPRequestHandler]) -> Iterator[tuple[str, int]]:
    """Serve with a certificate; return the address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield "127.0.0.1", server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[tuple[str, int], Path]]:
    """The address of a server that proves to be HOST, and what has to be trusted for that."""
    file = certificate(tmp_path_factory.mktemp("tls"), HOST)
    with served_over_tls(file, Echo) as address:
        yield address, file


def injection_of(registry: Registry, **more: Any) -> Injection:
    return InjectedSecret(VALUE, **{"hosts": [HOST, "other.github.test"], **more}).registered(registry, "GITHUB_TOKEN")


class Proxy:
    """The proxy of a sandbox, and what it reached."""

    def __init__(self, server: tuple[str, int], injection: Injection) -> None:
        self.injector = Injector.from_json(_told(injection.secret, [injection]).decode().split("\n")[1])
        self.placeholder = injection.placeholder
        self.reached: list[tuple[str, int]] = []
        self._server = server

    async def ask(self, request: str) -> str:
        """Send a request, with P in it for the placeholder, and return all of the answer."""
        near, far = socket.socketpair()
        near.settimeout(10)
        with near:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._serve, Link(far))
                near.sendall(request.replace("P!", self.placeholder).encode())
                answer = await anyio.to_thread.run_sync(partial(read_all, near))
                near.close()
        assert VALUE.lower() not in answer.lower()  # names of headers are written in lower case
        return answer

    async def _serve(self, link: Link) -> None:
        async def reach(host: str, port: int) -> Link:
            self.reached.append((host, port))
            return Link(socket.create_connection(self._server, 5), partner=link)

        try:
            await serve_request(link, reach, self.injector)
        finally:
            link.close()


def read_all(end: socket.socket) -> str:
    data = b""
    while chunk := end.recv(65_536):
        data += chunk
    return data.decode()


@pytest.fixture
def proxy(upstream: tuple[tuple[str, int], Path], monkeypatch: pytest.MonkeyPatch) -> Proxy:
    monkeypatch.setenv("SSL_CERT_FILE", str(upstream[1]))
    return Proxy(upstream[0], injection_of(Registry()))


def request(url: str, *headers: str, method: str = "GET", body: str = "") -> str:
    length = [f"Content-Length: {len(body.replace('P!', '!' * 69))}"] if body else []
    return "\r\n".join([f"{method} {url} HTTP/1.1", "Host: x", *length, *headers, "", body])


def echoed(answer: str) -> Any:
    """What the server was sent, from a body in chunks."""
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 \r\n")
    assert "content-length" not in head.lower()
    parts = body.split("\r\n")
    return json.loads("".join(parts[1::2]))


@pytest.mark.parametrize("scheme", ["Bearer ", "token ", ""])
async def test_the_header_gets_the_value_over_tls_and_the_answer_loses_it(proxy: Proxy, scheme: str) -> None:
    answer = await proxy.ask(request(f"http://{HOST.upper()}/user?a=1", f"authorization: {scheme}P!", "Accept: x/y"))
    said = echoed(answer)
    assert said["headers"]["authorization"] == f"{scheme}[REDACTED:GITHUB_TOKEN]"
    assert f"x-echo: {scheme}[REDACTED:GITHUB_TOKEN]\r\n" in answer
    assert (said["path"], said["headers"]["accept"], said["headers"]["host"]) == ("/user?a=1", "x/y", HOST)
    assert said["headers"]["accept-encoding"] == "identity"
    assert proxy.reached == [(HOST, 443)]


async def test_the_password_of_basic_authentication_gets_it_too(proxy: Proxy) -> None:
    plain = f"x-access-token:{proxy.placeholder}".encode()
    said = echoed(
        await proxy.ask(request(f"http://{HOST}/", f"Authorization: Basic {base64.b64encode(plain).decode()}"))
    )
    name = base64.b64encode(b"x-access-token:").decode()
    assert re.fullmatch(rf"Basic {name}\[REDACTED:GITHUB_TOKEN\].{{0,4}}", said["headers"]["authorization"])


async def test_a_request_without_a_placeholder_goes_over_tls_as_well(proxy: Proxy) -> None:
    said = echoed(await proxy.ask(request(f"http://{HOST}/", "Authorization: Basic %%%", method="POST", body="hello")))
    assert (said["headers"]["authorization"], said["body"]) == ("Basic %%%", "hello")
    assert proxy.reached == [(HOST, 443)]


async def test_an_answer_that_comes_byte_by_byte_is_looked_through(proxy: Proxy) -> None:
    said = echoed(await proxy.ask(request(f"http://{HOST}/chunks", "Authorization: Bearer P!")))
    assert said["headers"]["authorization"] == "Bearer [REDACTED:GITHUB_TOKEN]"


async def test_a_body_is_never_changed(proxy: Proxy) -> None:
    said = echoed(await proxy.ask(request(f"http://{HOST}/", method="POST", body="P!")))
    assert said["body"] == proxy.placeholder


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (request(f"http://{HOST}/?t=P!"), "is in a URL"),
        (request(f"http://{HOST}/P!", "Authorization: P!"), "is in a URL"),
        (request(f"http://{HOST}/", "User-Agent: P!"), "is in another header"),
        (request(f"http://{HOST}/", "Authorization: P!", "Origin: https://P!"), "is in another header"),
        (request("http://evil.test/", "Authorization: P!"), "is for another host"),
        (request(f"http://{HOST}.evil.test/", "Authorization: P!"), "is for another host"),
        (request(f"http://{HOST}./", "Authorization: P!"), "is for another host"),
        (request(f"http://x.{HOST}/", "Authorization: P!"), "is for another host"),
        (request(f"http://{HOST}:8080/", "Authorization: P!"), "is for another host"),
        (request(f"http://{HOST}:443/", "Authorization: P!"), "is for another host"),
        (request("http://evil.test/", f"X-Forwarded-Host: {HOST}", "Cookie: a=P!"), "is for another host"),
    ],
)
async def test_a_placeholder_anywhere_else_is_refused_and_nothing_is_sent(proxy: Proxy, asked: str, why: str) -> None:
    answer = await proxy.ask(asked)
    assert status(answer) == 403
    assert f"the placeholder of GITHUB_TOKEN {why}; it may be used as GITHUB_TOKEN (only in authorization" in answer
    assert proxy.reached == []


async def test_the_host_of_one_secret_is_not_that_of_another(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both hosts get requests over TLS, but each only its own secret."""
    registry = Registry()
    mine = injection_of(registry, hosts=[HOST])
    other = InjectedSecret(secrets.token_hex(20), hosts=["other.test"]).registered(registry, "OTHER_TOKEN")
    assert mine.placeholder != other.placeholder
    text = _told(mine.secret, [mine, other]).decode().split("\n")[1]
    proxy.injector = Injector.from_json(text)
    answer = await proxy.ask(request(f"http://{HOST}/", f"Authorization: {other.placeholder}"))
    assert (status(answer), "the placeholder of OTHER_TOKEN is for another host" in answer) == (403, True)
    assert proxy.reached == []


async def test_connect_is_a_blind_tunnel_that_carries_no_value(proxy: Proxy) -> None:
    answer = await proxy.ask(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: x\r\nAuthorization: P!\r\n\r\nno TLS, P!\r\n\r\n")
    assert status(answer) == 200
    assert proxy.reached == [(HOST, 443)]


async def test_a_server_that_is_not_the_host_gets_nothing(proxy: Proxy) -> None:
    """Its certificate is for another name."""
    answer = await proxy.ask(request("http://other.github.test/", "Authorization: P!"))
    assert status(answer) == 502
    assert "cannot be reached over TLS (SSLCertVerificationError)" in answer


async def test_a_server_that_nobody_vouches_for_gets_nothing(
    upstream: tuple[tuple[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    answer = await Proxy(upstream[0], injection_of(Registry())).ask(request(f"http://{HOST}/", "Authorization: P!"))
    assert (status(answer), "SSLCertVerificationError" in answer) == (502, True)


async def test_a_server_that_says_nothing_is_given_up(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_tools.local.inject.HANDSHAKE_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy._server = silent.getsockname()
        answer = await proxy.ask(request(f"http://{HOST}/", "Authorization: P!"))
    assert (status(answer), f"{HOST} does not answer" in answer) == (504, True)


async def test_an_answer_that_cannot_be_looked_through_is_withheld(proxy: Proxy) -> None:
    answer = await proxy.ask(request(f"http://{HOST}/compressed", "Authorization: P!"))
    assert (status(answer), "the answer is compressed" in answer) == (502, True)


async def test_a_program_in_a_real_sandbox_uses_it(
    tmp_path: Path, upstream: tuple[tuple[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(upstream[1]))
    injection = injection_of(Registry())
    injector = Injector.from_json(_told(injection.secret, [injection]).decode().split("\n")[1])
    program = f"""
import urllib.request
ask = urllib.request.Request("http://{HOST}/user", headers={{"Authorization": "Bearer {injection.placeholder}"}})
print(urllib.request.urlopen(ask).read().decode())
"""
    table = Table(upstream[0], **{HOST.replace(".", "_"): [["8.8.8.8"]]})
    async with sandboxed(tmp_path, table, injector=injector) as box:
        assert json.loads(await box.python(program))["headers"]["authorization"] == "Bearer [REDACTED:GITHUB_TOKEN]"
        assert table.dialled == [("8.8.8.8", 443)]
        assert status((await box.ask(get(f"http://evil.test/{injection.placeholder}")))[0]) == 403


ASK = """
import os, sys
from urllib.request import Request, urlopen
urlopen(Request(f"http://{sys.argv[1]}/", headers={"X-Api-Key": os.environ["API_TOKEN"]}))
"""


def test_the_sandbox_of_a_toolset_has_a_placeholder_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEACLOUD_API_KEY", raising=False)
    injected = InjectedSecret(VALUE, hosts=["api.invalid"], headers=["Authorization", "X-Api-Key"])
    with BlockingToolset.open(secrets={"API_TOKEN": injected}, internet=True) as tools:
        assert "API_TOKEN (only in authorization or x-api-key of requests for http://api.invalid," in tools.instructions
        command = "echo $API_TOKEN; env; cat /proc/*/environ | tr '\\0' '\\n'"
        text = tools.call("exec", {"command": command, "secrets": ["API_TOKEN"]}).text
        assert "[REDACTED:API_TOKEN]" not in text
        [placeholder] = set(re.findall(r"sandbox_tools_secret_[0-9a-f]{48}", text))
        assert placeholder not in tools.call("exec", {"command": "env"}).text
        tools.call("write_file", {"path": "ask.py", "content": ASK})
        refused = tools.call("exec", {"command": "python3 ask.py evil.invalid", "secrets": ["API_TOKEN"]}).text
        assert "HTTP Error 403" in refused
        unknown = tools.call("exec", {"command": "python3 ask.py api.invalid", "secrets": ["API_TOKEN"]}).text
        assert "HTTP Error 502" in unknown
        assert VALUE not in seen_by_others()


def seen_by_others() -> str:
    """The arguments and environments of all processes that this user can look at."""
    seen = b""
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                seen += (process / name).read_bytes()
            except OSError:
                continue
    return seen.decode(errors="replace")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"value": "two words of it"}, "printable ASCII without spaces"),
        ({"value": "naïve-value-1234"}, "printable ASCII without spaces"),
        ({"hosts": []}, "hosts of an InjectedSecret"),
        ({"hosts": "api.github.com"}, "hosts of an InjectedSecret"),
        ({"hosts": ["*.github.com"]}, "hosts of an InjectedSecret"),
        ({"hosts": ["localhost"]}, "hosts of an InjectedSecret"),
        ({"hosts": ["https://api.github.com"]}, "hosts of an InjectedSecret"),
        ({"hosts": ["api.github.com:443"]}, "hosts of an InjectedSecret"),
        ({"headers": []}, "headers of an InjectedSecret"),
        ({"headers": "Authorization"}, "headers of an InjectedSecret"),
        ({"headers": ["X: y"]}, "headers of an InjectedSecret"),
        ({"headers": ["Host"]}, "in a header that the proxy writes itself"),
    ],
)
def test_what_cannot_be_injected_is_refused(arguments: dict[str, Any], problem: str) -> None:
    given = {"value": VALUE, "hosts": ["api.github.com"], **arguments}
    with pytest.raises(ConfigurationError, match=problem) as failure:
        InjectedSecret(given.pop("value"), **given)
    assert VALUE not in str(failure.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"internet": True, "base_url": "http://127.0.0.1:9", "api_key": secrets.token_hex(20)}, "SeaCloud has none"),
        ({"internet": False}, "needs internet=True"),
    ],
)
def test_where_it_cannot_work_it_is_refused(
    options: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEACLOUD_API_KEY", raising=False)
    injected = InjectedSecret(VALUE, hosts=["api.github.com"])
    with pytest.raises(ConfigurationError, match=problem):
        BlockingToolset.open(secrets={"API_TOKEN": injected}, **options).__enter__()


def test_a_weak_one_is_refused_and_none_shows_its_value() -> None:
    with pytest.raises(WeakSecretError):
        InjectedSecret("hunter2", hosts=["api.github.com"]).registered(Registry(), "TOKEN")
    injected = InjectedSecret(VALUE, hosts=["api.github.com"])
    made = injected.registered(Registry(), "TOKEN")
    assert VALUE not in f"{injected!r}{injected}{made!r}{made}{os.environ}"
