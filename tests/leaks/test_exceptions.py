"""Public exceptions: whatever a server or a network does, no token can be reached from what is raised."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSListener

from sandbox_tools import BlockingToolset, Toolset
from sandbox_tools.client.transport import Transport
from sandbox_tools.errors import SandboxProtocolError, SandboxTimeoutError, SandboxToolsError, SandboxUnreachableError
from sandbox_tools.redaction import Registry
from sandbox_tools.sandboxes.source import BASE_URL_VARIABLES
from tests.contract.hostile import Answer, endless, hostile_server, http, json_answer, silence
from tests.contract.test_hostile_server import (
    NONSENSE,
    OPERATIONS,
    OUTPUT,
    STARTED,
    STREAM_HEAD,
    error_at,
    outcomes,
    runtime_at,
)
from tests.leaks.echo_service import FAULTS, echo_service
from tests.leaks.graphs import paths_to
from tests.local.test_injection import certificate

ANSWERS = ("reset in the body", "chunk cut off", "not HTTP", "gzip", "huge error")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_tools.client.retry.FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr("sandbox_tools.client.follow.RECONNECT_PAUSES_S", (0.0,))
    monkeypatch.setattr("sandbox_tools.client.control.CREATE_TIMEOUT_S", 0.2)
    for name in ("ending.REAP_S", "ending.KILL_CONFIRM_S", "run.START_CONFIRM_S", "run._LAST_OUTPUT_S"):
        monkeypatch.setattr(f"sandbox_tools.client.{name}", 0.1)


@pytest.fixture
def token() -> str:
    return secrets.token_urlsafe(32)


@pytest.mark.parametrize("name", ANSWERS)
async def test_no_token_can_be_reached_from_an_error(token: str, name: str) -> None:
    errors = await outcomes(token, dict.fromkeys(OPERATIONS, NONSENSE[name]))
    assert {what: paths_to(token, error) for what, error in errors.items() if error and paths_to(token, error)} == {}


READ = ("a token for an id", "JSON cut off", "wrong types", "not JSON", "error at the end of a stream", "body cut off")
"""Answers whose status is 200: what a sandbox said before it turns out to be broken is in a variable of a frame."""


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_token_can_be_reached_from_an_error_about_a_service_that_echoes_it(fault: str) -> None:
    """All that can be wrong with an answer, with the credentials of the request wherever there is room for a text."""
    raised_by: list[str] = []
    found: list[str] = []
    for faulty, operations in {"control": (*OPERATIONS,)[:3], "runtime": (*OPERATIONS,)[3:]}.items():
        async with echo_service() as service:
            service.fault, service.faulty = fault, faulty
            urls = service.base_url, f"{service.base_url}/rt"
            is_read = fault in READ and faulty == "runtime"
            for operation in operations:
                error = await error_at(*urls, service.api_key, service.token, operation)
                if error is not None:
                    raised_by.append(operation)
                    paths = [path for credential in service.credentials for path in paths_to(credential, error)]
                    found += [path for path in paths if not (is_read and " in " in path)]
        assert service.stolen == []
        assert service.seen >= len(operations)
    assert found == []
    assert len(raised_by) >= 3


@pytest.mark.parametrize("record", [{"envdUrl": "https://evil.example/x"}, {"envdUrl": None}, {"sandboxID": 5}])
@pytest.mark.parametrize("operation", ["create", "connect"])
async def test_no_new_token_can_be_reached_from_an_error_about_the_answer_that_has_it(
    token: str, operation: str, record: dict[str, Any]
) -> None:
    answer = json_answer({"sandboxID": "s", "envdAccessToken": token, "envdUrl": "http://127.0.0.1:1/x", **record}, 201)
    async with hostile_server(answer) as server:
        own = secrets.token_hex(20)
        error = await error_at(server.base_url, server.base_url, own, own, operation)
    assert error is not None
    assert paths_to(token, error) == []


@asynccontextmanager
async def listening(listener: anyio.abc.Listener[Any], received: list[bytes]) -> AsyncIterator[None]:
    """Keep what arrives, after the handshake if there is one."""

    async def receive(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            received.append(await stream.receive())

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, receive)
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, received: list[bytes], name: str, *, is_trusted: bool
) -> AsyncIterator[str]:
    """Serve with a certificate for a name; without one if there is no name. Return the base URL."""
    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    if name:
        file = certificate(tmp_path, name)
        monkeypatch.setenv("SSL_CERT_FILE", str(file) if is_trusted else "")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        listener = TLSListener(listener, context, standard_compatible=False)
    async with listening(listener, received):
        yield f"https://localhost:{port}"


@asynccontextmanager
async def nowhere(*_: object) -> AsyncIterator[str]:
    yield "https://sandbox.invalid"


NETWORKS: dict[str, Any] = {
    "a certificate that nobody vouches for": partial(network, name="localhost", is_trusted=False),
    "a certificate for another host": partial(network, name="elsewhere.example", is_trusted=True),
    "an end in the handshake": partial(network, name="", is_trusted=False),
    "a name without an address": nowhere,
}


@pytest.mark.parametrize("case", NETWORKS)
async def test_a_host_that_does_not_prove_its_name_gets_no_token_and_none_can_be_reached_from_the_error(
    token: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[bytes] = []
    async with NETWORKS[case](tmp_path, monkeypatch, received) as url:
        for operation in OPERATIONS:
            with anyio.fail_after(20):
                error = await error_at(url, url, token, token, operation)
            assert isinstance(error, SandboxUnreachableError), operation
            assert paths_to(token, error) == []
    assert [data for data in received if token.encode() in data] == []


async def test_a_host_that_proves_its_name_gets_the_token(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the test above would prove nothing."""
    received: list[bytes] = []
    async with network(tmp_path, monkeypatch, received, "localhost", is_trusted=True) as url:
        error = await error_at(url, url, token, token, "runtime")
    assert token.encode() in received[0]
    assert error is not None
    assert paths_to(token, error) == []


GONE = http(404, b'{"error": "process not found"}')
"""For whoever wants to end it."""


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_token_can_be_reached_from_the_end_of_a_cancelled_task(token: str, operation: str) -> None:
    """While the answer is waited for."""
    async with hostile_server(silence(), GONE) as server:
        task = asyncio.create_task(error_at(server.base_url, server.base_url, token, token, operation))
        while not server.requests:
            await anyio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    assert paths_to(token, caught.value) == []


@pytest.mark.parametrize("answer", [silence(), endless(STREAM_HEAD, b" ", pause_s=0.01)], ids=["no head", "no end"])
async def test_no_token_can_be_reached_from_a_deadline_that_passed(token: str, answer: Answer) -> None:
    async with hostile_server(answer) as server:
        transport = Transport(server.base_url, {"X-Access-Token": Registry().register("SANDBOX_TOKEN", token)})
        with pytest.raises(SandboxTimeoutError) as caught:
            await transport.request("GET", "/x", operation="do it", timeout_s=0.05)
        await transport.aclose()
    assert paths_to(token, caught.value) == []


def test_no_token_can_be_reached_from_an_interrupt_in_a_stream(token: str) -> None:
    async def run() -> None:
        answer = endless(STREAM_HEAD + STARTED, OUTPUT, pause_s=0.001)
        async with hostile_server(answer, GONE) as server, runtime_at(server.base_url, token) as runtime:
            await runtime.exec("true", timeout_s=5, on_output=interrupt)

    with pytest.raises(KeyboardInterrupt) as caught:
        anyio.run(run)
    assert paths_to(token, caught.value) == []


def raised(token: str, *, inner: BaseException | None = None) -> BaseException:
    """Return an exception that has passed a frame of ours with the token in a variable of it."""
    try:
        raise SandboxProtocolError("do it", token) from inner
    except SandboxProtocolError as exc:
        return exc


def test_the_search_finds_what_hides_in_an_exception(token: str) -> None:
    """Or the tests above would prove nothing."""
    deep = raised("x", inner=KeyError([{"a": {token: 1}}]))
    noted = raised("x")
    noted.__notes__ = [f"with {token}"]  # type: ignore[attr-defined]  # Python 3.11
    for error in (raised(token), deep, noted):
        assert paths_to(token, error) != []
    assert paths_to(token, raised("x")) == []


REFUSED: dict[str, Callable[[str], dict[str, Any]]] = {
    "a base URL that cannot be used": lambda token: {"api_key": token, "base_url": "ftp://x"},
    "no base URL": lambda token: {"api_key": token},
    "a key that is too short": lambda token: {"api_key": token[:7], "base_url": "https://x.example"},
    "the key as a secret": lambda token: {
        "api_key": token,
        "base_url": "https://x.example",
        "secrets": {"TOKEN": f"my {token}"},
    },
    "a secret that is no text for a variable": lambda token: {"secrets": {"TOKEN": f"{token}\0"}},
    "a secret in the place of a name": lambda token: {"secrets": [token]},
    "a variable with a bad name": lambda token: {"envs": {"A=B": token}},
}


@pytest.mark.parametrize("open_toolset", [Toolset.open, BlockingToolset.open])
@pytest.mark.parametrize("case", REFUSED)
async def test_no_value_can_be_reached_from_the_error_about_a_setting(
    token: str, case: str, open_toolset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SEACLOUD_API_KEY", *BASE_URL_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    opened = open_toolset(**REFUSED[case](token))
    is_async = open_toolset == Toolset.open
    enter = opened.__aenter__ if is_async else partial(anyio.to_thread.run_sync, opened.__enter__)
    with pytest.raises(SandboxToolsError) as caught:
        await enter()
    assert paths_to(token[:7], caught.value) == []
