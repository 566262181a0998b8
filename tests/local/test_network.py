"""What code in a real sandbox can reach: nothing, what the rules allow, never this machine."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_tools.local import bwrap
from sandbox_tools.local import egress as egress_module
from sandbox_tools.local import outside as outside_module
from sandbox_tools.local.addresses import Address, policy_of
from sandbox_tools.local.background import Background
from sandbox_tools.local.egress import NoNetworkError
from sandbox_tools.local.inject import Injector
from sandbox_tools.local.isolation import LAUNCHER_KINDS, LauncherKind
from sandbox_tools.local.launcher import Launcher, spare_uid
from sandbox_tools.local.layout import host_layout
from sandbox_tools.local.outside import Outside
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.state import State
from sandbox_tools.wire.network import NetworkRules
from sandbox_tools.wire.process import Command, OutputData
from tests.local.service import Box, LocalServer, wait_for

PUBLIC, OTHER, PRIVATE = "8.8.8.8", "9.9.9.9", "10.1.2.3"
"""Addresses of the table below. Nothing is ever sent to them."""

INTERNET = NetworkRules(internet=True)

ASK = """
import json, socket, sys
answers = []
for text in sys.argv[1:]:
    with socket.create_connection(("127.0.0.1", 3128), 10) as s:
        s.sendall(text.encode())
        answer = b""
        while data := s.recv(65536):
            answer += data
    answers.append(answer.decode())
print(json.dumps(answers))
"""
"""Sends texts to the proxy, a connection each, and prints what comes back."""


class Table(Outside):
    """A network of a table: names with their answers (one a question, the last for ever), and one server for all."""

    def __init__(self, server: tuple[str, int], **names: list[list[str]]) -> None:
        super().__init__()
        self.names = {name.replace("_", "."): answers for name, answers in names.items()}
        self.server = server
        self.asked: list[str] = []
        self.dialled: list[tuple[str, int]] = []

    async def resolve(self, host: str) -> list[Address]:
        self.asked.append(host)
        if host not in self.names:
            return [ip_address(host)]
        answers = self.names[host]
        return [ip_address(text) for text in (answers.pop(0) if len(answers) > 1 else answers[0])]

    async def dial(self, address: Address, port: int) -> socket.socket:
        self.dialled.append((str(address), port))
        connection = socket.create_connection(self.server, 5)
        connection.setblocking(False)
        return connection


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"path": self.path, "host": self.headers["Host"], "headers": self.headers.keys()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[str, int]]:
    """The address of a web server on this machine that stands for the internet."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[0], server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass(frozen=True)
class Launched:
    """A real sandbox, its service being this process."""

    sandbox: Sandbox
    launch: Callable[[Outside, NetworkRules], Any]

    def apply(self, rules: NetworkRules) -> None:
        self.sandbox.egress.apply(policy_of(rules))

    async def python(self, program: str, *arguments: str) -> str:
        """Run a program inside and return its output, both streams."""
        process = await self.sandbox.start(Command(cmd="python3", args=("-c", program, *arguments)))
        output = b""
        with process.subscribe() as events:
            async for event in events:
                if isinstance(event, OutputData):
                    output += event.data
        return output.decode()

    async def ask(self, *requests: str) -> list[str]:
        """Send requests to the proxy from inside, and return its answers."""
        output = await self.python(ASK, *requests)
        answers: list[str] = json.loads(output)
        return answers


def get(url: str) -> str:
    return f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n"


def connect(authority: str) -> str:
    """Ask for a tunnel, and at once for a page through it."""
    return f"CONNECT {authority} HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.0\r\n\r\n"


def status(answer: str) -> int:
    return int(answer.split(" ", 2)[1])


@asynccontextmanager
async def sandboxed(
    tmp_path: Path,
    outside: Outside,
    rules: NetworkRules = INTERNET,
    *,
    kind: LauncherKind = "native",
    injector: Injector | None = None,
) -> AsyncIterator[Launched]:
    launcher = Launcher(host_layout(), kinds=[kind])
    state = State(tmp_path / "state")
    state.prepare()

    @asynccontextmanager
    async def launch(outside: Outside, rules: NetworkRules) -> AsyncIterator[Launched]:
        home = state.new_home(f"sb-{os.urandom(4).hex()}", spare_uid())
        sandbox = Sandbox(
            await launcher.launch(home.workspace, home.uid),
            background=Background(tasks),
            outside=outside,
            injector=injector,
        )
        tasks.start_soon(sandbox.serve)
        try:
            await sandbox.channel.wait_until_ready()
            await sandbox.prepare_network()
            sandbox.egress.apply(policy_of(rules))
            yield Launched(sandbox, launch)
        finally:
            await sandbox.close()
            home.remove()

    try:
        async with anyio.create_task_group() as tasks, launch(outside, rules) as launched:
            yield launched
    finally:
        launcher.close()


@pytest.mark.parametrize("kind", LAUNCHER_KINDS)
async def test_an_allowed_name_is_reached_by_url_and_by_connect(
    tmp_path: Path, web: tuple[str, int], kind: LauncherKind
) -> None:
    if kind == "bwrap" and not Path(bwrap.PROGRAM).exists():
        pytest.skip(f"{bwrap.PROGRAM} is not installed")
    table = Table(web, example_com=[[PUBLIC]])
    async with sandboxed(tmp_path, table, kind=kind) as inside:
        page, tunnel = await inside.ask(get("http://example.com:8080/a?b=c"), connect("example.com:443"))
        assert status(page) == 200
        assert '"path": "/a?b=c", "host": "example.com:8080"' in page
        assert tunnel.startswith("HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.0 200 OK")
        assert table.dialled == [(PUBLIC, 8080), (PUBLIC, 443)]


async def test_programs_find_the_proxy_in_their_environment(tmp_path: Path, web: tuple[str, int]) -> None:
    table = Table(web, example_com=[[PUBLIC]])
    async with sandboxed(tmp_path, table) as inside:
        program = "import urllib.request as u; print(u.urlopen('http://example.com/x', timeout=10).read().decode())"
        assert '"path": "/x"' in await inside.python(program)
        inside.apply(NetworkRules())
        assert not [name for name in inside.sandbox.envs if "proxy" in name.lower()]


RULES = [
    (NetworkRules(), set()),
    (NetworkRules(internet=False), set()),
    (NetworkRules(internet=True), {PUBLIC, OTHER}),
    (NetworkRules(allow_out=(f"{PUBLIC}/32",)), {PUBLIC}),
    (NetworkRules(allow_out=("10.0.0.0/8",)), {PRIVATE}),
    (NetworkRules(internet=True, deny_out=("8.0.0.0/8",)), {OTHER}),
    (NetworkRules(internet=True, deny_out=("0.0.0.0/0",), allow_out=(f"{PUBLIC}/32",)), {PUBLIC}),
    (NetworkRules(internet=False, allow_out=("0.0.0.0/0",)), {PUBLIC, OTHER}),
]


async def test_the_rules_decide(tmp_path: Path, web: tuple[str, int]) -> None:
    async with sandboxed(tmp_path, Table(web)) as inside:
        addresses = (PUBLIC, OTHER, PRIVATE)
        for rules, reached in RULES:
            inside.apply(rules)
            answers = await inside.ask(*(get(f"http://{address}/") for address in addresses))
            wanted = [200 if address in reached else 403 for address in addresses]
            assert [status(answer) for answer in answers] == wanted, rules


FORBIDDEN = [
    "127.0.0.1",
    "0.0.0.0",
    "169.254.169.254",
    "100.100.100.200",
    PRIVATE,
    "::1",
    "fd00:ec2::254",
    "::ffff:127.0.0.1",
]


async def test_a_name_of_a_forbidden_address_is_refused(tmp_path: Path, web: tuple[str, int]) -> None:
    table = Table(web, **{f"n{index}_example": [[address]] for index, address in enumerate(FORBIDDEN)})
    async with sandboxed(tmp_path, table) as inside:
        requests = [request for name in table.names for request in (get(f"http://{name}/"), connect(f"{name}:443"))]
        for answer in await inside.ask(*requests):
            assert status(answer) == 403
            assert ".example may not be reached: it is" in answer
            assert not any(address in answer for address in FORBIDDEN)
        assert not table.dialled


async def test_an_address_of_this_machine_is_refused_though_a_rule_names_it(
    tmp_path: Path, web: tuple[str, int]
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((PUBLIC, 9))  # sends nothing; the kernel chooses our address
        except OSError:
            pytest.skip("this machine has no address but loopback")
        own = probe.getsockname()[0]
    table = Table(web, innocent_example=[[own]])
    async with sandboxed(tmp_path, table, NetworkRules(internet=True, allow_out=(f"{own}/32",))) as inside:
        answers = await inside.ask(get("http://innocent.example/"), get(f"http://{own}/"))
        assert [status(answer) for answer in answers] == [403, 403]
        assert not table.dialled


async def test_a_name_is_asked_for_once_and_its_judged_address_is_dialled(tmp_path: Path, web: tuple[str, int]) -> None:
    table = Table(web, rebinding_example=[[PUBLIC], ["127.0.0.1"]])
    async with sandboxed(tmp_path, table) as inside:
        answers = await inside.ask(*[get("http://rebinding.example/")] * 2)
        assert [status(answer) for answer in answers] == [200, 403]
        assert (len(table.asked), table.dialled) == (2, [(PUBLIC, 80)])


async def test_of_several_addresses_only_the_allowed_are_dialled(tmp_path: Path, web: tuple[str, int]) -> None:
    table = Table(web, mixed_example=[["127.0.0.1", PRIVATE, PUBLIC]])
    async with sandboxed(tmp_path, table) as inside:
        assert [status(answer) for answer in await inside.ask(get("http://mixed.example/"))] == [200]
        assert table.dialled == [(PUBLIC, 80)]


async def test_nothing_is_asked_of_the_outside_while_nothing_is_open(tmp_path: Path, web: tuple[str, int]) -> None:
    table = Table(web)
    async with sandboxed(tmp_path, table) as inside:
        inside.apply(NetworkRules())
        assert [status(answer) for answer in await inside.ask(connect("secret.attacker.example:443"))] == [403]
        assert not table.asked


async def test_mail_cannot_be_sent(tmp_path: Path, web: tuple[str, int]) -> None:
    table = Table(web)
    async with sandboxed(tmp_path, table) as inside:
        assert [status(answer) for answer in await inside.ask(connect(f"{PUBLIC}:25"))] == [403]
        assert not table.dialled


async def test_there_is_no_way_out_beside_the_proxy(tmp_path: Path, web: tuple[str, int]) -> None:
    program = """
import errno, socket, sys
for family, address in ((socket.AF_INET, sys.argv[1]), (socket.AF_INET6, "2001:4860:4860::8888")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as s:
            print(errno.errorcode[s.connect_ex((address, 53))])
try:
    socket.getaddrinfo("example.com", 80)
except socket.gaierror:
    print("no name")
"""
    async with sandboxed(tmp_path, Table(web)) as inside:
        found = set((await inside.python(program, PUBLIC)).split("\n"))
        assert found <= {"ENETUNREACH", "EADDRNOTAVAIL", "no name", ""}
        assert {"ENETUNREACH", "no name"} <= found


async def test_two_sandboxes_have_rules_of_their_own(tmp_path: Path, web: tuple[str, int]) -> None:
    async with (
        sandboxed(tmp_path, Table(web), NetworkRules(allow_out=(f"{PUBLIC}/32",))) as one,
        one.launch(Table(web), NetworkRules(allow_out=(f"{OTHER}/32",))) as other,
    ):
        requests = [get(f"http://{address}/") for address in (PUBLIC, OTHER)]
        assert [status(answer) for answer in await one.ask(*requests)] == [200, 403]
        assert [status(answer) for answer in await other.ask(*requests)] == [403, 200]


@contextmanager
def holding_server() -> Iterator[tuple[tuple[str, int], list[socket.socket]]]:
    """Listen; the connections that were taken are in the list."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take)
        thread.start()
        yield server.getsockname(), taken
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in taken:
            connection.close()


async def test_closing_the_rules_closes_what_they_forbid_now_and_keeps_the_rest(tmp_path: Path) -> None:
    with holding_server() as (address, taken):
        async with sandboxed(tmp_path, Table(address)) as inside, anyio.create_task_group() as tasks:
            ended: list[str] = []

            async def hold(authority: str) -> None:
                answers = await inside.ask(connect(authority))
                assert [status(answer) for answer in answers] == [200]
                ended.append(authority)

            tasks.start_soon(hold, f"{PUBLIC}:443")
            tasks.start_soon(hold, f"{OTHER}:443")
            with anyio.fail_after(10):
                while len(taken) < 2:
                    await anyio.sleep(0.01)
                inside.apply(NetworkRules(allow_out=(f"{OTHER}/32",)))
                while not ended:
                    await anyio.sleep(0.01)
                assert ended == [f"{PUBLIC}:443"]
                for connection in taken:
                    connection.close()


async def test_connections_beyond_the_limit_are_turned_away_and_room_comes_back(
    tmp_path: Path, web: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_module, "MAX_CONNECTIONS", 3)
    program = """
import socket
def attempt():
    s = socket.create_connection(("127.0.0.1", 3128), 10)
    s.settimeout(10)
    return s
def status(s):
    try:
        s.sendall(b"GET http://8.8.8.8/ HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    except OSError:
        pass
    return s.recv(12).decode()[9:]
held = [attempt() for _ in range(3)]
for s in held:
    s.sendall(b"GET ")  # a slow caller
print(status(attempt()))
for s in held:
    s.close()
for _ in range(1000):
    answer = status(attempt())
    if answer != "503":
        break
print(answer)
"""
    async with sandboxed(tmp_path, Table(web)) as inside:
        assert (await inside.python(program)).split() == ["503", "200"]


def count_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_the_end_of_a_sandbox_closes_everything(tmp_path: Path) -> None:
    with holding_server() as (address, taken):
        before = count_descriptors()
        async with sandboxed(tmp_path, Table(address)) as inside, anyio.create_task_group() as tasks:
            tasks.start_soon(inside.python, ASK, connect(f"{PUBLIC}:443"))
            with anyio.fail_after(10):
                while not taken:
                    await anyio.sleep(0.01)
            await inside.sandbox.close()
            taken[0].settimeout(5)
            while taken[0].recv(4096):  # what the caller said first, then its end
                pass
            taken.pop().close()
        wait_for(lambda: count_descriptors() <= before, what="no descriptor is left")


async def test_a_program_that_took_the_port_keeps_the_sandbox_closed(tmp_path: Path, web: tuple[str, int]) -> None:
    program = """
import socket, time
with socket.create_server(("127.0.0.1", 3128)):
    print("taken", flush=True)
    time.sleep(60)
"""
    async with sandboxed(tmp_path, Table(web), NetworkRules()) as inside:
        process = await inside.sandbox.start(Command(cmd="python3", args=("-c", program)))
        with process.subscribe() as events:
            async for event in events:
                if isinstance(event, OutputData):
                    break
        with pytest.raises(NoNetworkError, match="3128"):
            inside.apply(INTERNET)
        assert not [name for name in inside.sandbox.envs if "proxy" in name.lower()]


async def test_a_sandbox_without_a_network_of_its_own_stays_closed() -> None:
    async with anyio.create_task_group() as tasks:
        egress = egress_module.Egress(background=Background(tasks))
        with pytest.raises(NoNetworkError):
            egress.apply(policy_of(INTERNET))
        egress.apply(policy_of(NetworkRules()))
        egress.close()


async def test_the_resolver_of_the_system_knows_every_spelling_of_an_address() -> None:
    outside = Outside()
    for spelling in ("127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost"):
        addresses = await outside.resolve(spelling)
        assert addresses, spelling
        assert all(address.is_loopback and outside.is_own(address) for address in addresses)
    with pytest.raises(OSError, match="not a name"):
        await outside.resolve("a" * 64 + ".example")


async def test_a_resolver_that_hangs_costs_a_bounded_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    go_on = threading.Event()

    def hang(host: str) -> list[Address]:
        asked.append(host)
        go_on.wait(20)
        return [ip_address(PUBLIC)]

    monkeypatch.setattr(outside_module, "_look_up", hang)
    monkeypatch.setattr(outside_module, "RESOLVE_TIMEOUT_S", 0.2)
    outside = Outside()
    failures: list[BaseException] = []

    async def resolve(number: int) -> None:
        try:
            await outside.resolve(f"n{number}.example")
        except TimeoutError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(3 * outside_module.MAX_LOOKUPS):
            tasks.start_soon(resolve, number)
    assert (len(failures), len(asked)) == (3 * outside_module.MAX_LOOKUPS, outside_module.MAX_LOOKUPS)
    go_on.set()
    monkeypatch.setattr(outside_module, "RESOLVE_TIMEOUT_S", 10)
    assert await outside.resolve("later.example") == [ip_address(PUBLIC)]


def test_only_addresses_of_this_machine_are_its_own() -> None:
    outside = Outside()
    assert outside.is_own(ip_address("127.0.0.1"))
    for address in (PUBLIC, PRIVATE, "2001:4860:4860::8888", "192.0.2.77"):
        assert not outside.is_own(ip_address(address))


# Over the wire.


def proxied_get(box: Box, *urls: str) -> list[str]:
    answers: list[str] = json.loads(box.python(ASK, *(get(url) for url in urls)).stdout)
    return answers


@pytest.mark.parametrize(
    "body",
    [
        {"allowInternetAccess": True},
        {"network": {"allowInternetAccess": True}},
        {"network": {"allowOut": [PUBLIC, "127.0.0.0/8", "0.0.0.0/0"]}},
    ],
)
def test_a_created_sandbox_has_a_proxy_that_never_reaches_this_machine(
    local_server: LocalServer, body: dict[str, Any]
) -> None:
    with local_server.sandbox(**body) as box:
        assert "http_proxy=http://127.0.0.1:3128\n" in box.sh("env").stdout
        port = local_server.base_url.rpartition(":")[2]
        hosts = ("127.0.0.1", "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0")
        answers = proxied_get(box, *(f"http://{host}:{port}/" for host in hosts))
        assert [status(answer) for answer in answers] == [403] * len(hosts)


@pytest.mark.parametrize("body", [{}, {"allowInternetAccess": False}, {"network": {"denyOut": ["8.8.8.8"]}}])
def test_a_sandbox_has_no_proxy_unless_something_is_open(local_server: LocalServer, body: dict[str, Any]) -> None:
    with local_server.sandbox(**body) as box:
        assert "proxy" not in box.sh("env").stdout.lower()
        assert "ConnectionRefusedError" in box.python(ASK, "x").stderr


def test_the_network_of_a_running_sandbox_can_be_changed(local_server: LocalServer, box: Box) -> None:
    path = f"/sandboxes/{box.sandbox_id}/network"
    assert box.control.put(path, json={"allowOut": ["8.8.8.8"], "allowPublicTraffic": False}).status_code == 204
    record = box.control.get(f"/sandboxes/{box.sandbox_id}").json()
    assert record["network"] == {"allowOut": ["8.8.8.8/32"], "allowPublicTraffic": False}
    assert "http_proxy=" in box.sh("env").stdout
    assert "allowOut does not name it" in proxied_get(box, "http://9.9.9.9/")[0]
    assert box.control.put(path, json={}).status_code == 204
    assert box.control.get(f"/sandboxes/{box.sandbox_id}").json()["network"] == {"allowPublicTraffic": False}
    assert "no internet access" in proxied_get(box, "http://9.9.9.9/")[0]
    assert "http_proxy=" not in box.sh("env").stdout


def test_a_wrong_network_is_refused_and_changes_nothing(local_server: LocalServer, box: Box) -> None:
    path = f"/sandboxes/{box.sandbox_id}/network"
    for body in ({"allowOut": ["example.com"]}, {"denyOut": ["::/0"]}, {"allowInternetAccess": "yes"}):
        answer = box.control.put(path, json={"allowInternetAccess": True, **body})
        assert answer.status_code == 400
        assert box.control.post("/sandboxes", json={"network": body}).status_code == 400
    assert box.control.put("/sandboxes/sb-none/network", json={}).status_code == 404
    assert "http_proxy=" not in box.sh("env").stdout


def test_a_resumed_sandbox_has_the_network_that_it_had(local_server: LocalServer) -> None:
    with local_server.sandbox(network={"allowOut": ["8.8.8.8"]}) as box:
        assert box.control.post(f"/sandboxes/{box.sandbox_id}/pause").status_code == 204
        assert box.control.put(f"/sandboxes/{box.sandbox_id}/network", json={}).status_code == 409
        resumed = box.control.post(f"/sandboxes/{box.sandbox_id}/connect", json={"timeout": 60}).json()
        assert resumed["network"] == {"allowOut": ["8.8.8.8/32"]}
        box.http.headers["X-Access-Token"] = resumed["envdAccessToken"]
        assert "http_proxy=" in box.sh("env").stdout
        assert "allowOut does not name it" in proxied_get(box, "http://9.9.9.9/")[0]
