"""The client against a broken or malicious server: a typed error within the deadline, no token anywhere else."""

from __future__ import annotations

import pickle
import secrets
import struct
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from sandbox_tools.client.control import ControlPlane, RuntimeAccess
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.client.transport import MAX_BODY_BYTES, Transport
from sandbox_tools.errors import (
    ConfigurationError,
    SandboxNotFoundError,
    SandboxProtocolError,
    SandboxRequestError,
    SandboxResponseError,
    SandboxTimeoutError,
    SandboxToolsError,
    SandboxUnreachableError,
)
from sandbox_tools.redaction import Registry
from sandbox_tools.wire.control import NewSandbox
from sandbox_tools.wire.envelope import END_STREAM, encode_frame, encode_json_frame
from sandbox_tools.wire.process import Ended, OutputData, Started, event_to_json
from tests.contract.hostile import Answer, echo_headers, hostile_server, http, json_answer, raw, silence, stream_answer

STARTED = encode_json_frame(event_to_json(Started(7, "cmd-1")))
OUTPUT = encode_json_frame(event_to_json(OutputData("stdout", b"hello\n")))
ENDED = encode_json_frame(event_to_json(Ended(0, True, "exit status 0")))
END = encode_frame(b"{}", flags=END_STREAM)


def ignore_output(stream: str, data: bytes) -> None:
    """A sink that keeps nothing."""


@pytest.fixture
def token() -> str:
    return secrets.token_urlsafe(32)


@asynccontextmanager
async def runtime_at(base_url: str, token: str) -> AsyncIterator[RemoteRuntime]:
    access = RuntimeAccess(envd_url=f"{base_url}/9000-s", access_token=Registry().register("SANDBOX_TOKEN", token))
    async with anyio.create_task_group() as tasks:
        runtime = RemoteRuntime("s", access, tasks)
        try:
            yield runtime
        finally:
            await runtime.aclose()
            tasks.cancel_scope.cancel()


async def exec_error(token: str, *answers: Answer, timeout_s: float = 5) -> SandboxToolsError:
    """Run a command against a server and return the error that the client raises."""
    async with hostile_server(*answers) as server, runtime_at(server.base_url, token) as runtime:
        with anyio.fail_after(15):
            try:
                await runtime.exec("true", timeout_s=timeout_s, on_output=ignore_output)
            except SandboxToolsError as exc:
                return exc
    raise AssertionError("the client accepted it")


async def test_a_well_formed_stream_is_read(token: str) -> None:
    pieces: list[bytes] = []
    async with hostile_server(stream_answer(STARTED, OUTPUT, ENDED, END)) as server:
        async with runtime_at(server.base_url, token) as runtime:
            result = await runtime.exec("true", timeout_s=5, on_output=lambda _, data: pieces.append(data))
        assert server.requests[0].header("X-Access-Token") == token
        assert server.requests[0].target == "/9000-s/process.Process/Start"
    assert (result.exit_code, pieces) == (0, [b"hello\n"])


@pytest.mark.parametrize(
    ("frames", "what"),
    [
        pytest.param([STARTED, OUTPUT[:-3]], "ended before", id="truncated frame"),
        pytest.param([STARTED, struct.pack(">BI", 0, 0xFFFFFFFF)], "announces 4294967295 bytes", id="4 GiB claim"),
        pytest.param([STARTED, encode_frame(b"not json")], "not a JSON object", id="not JSON"),
        pytest.param([STARTED, encode_frame(b'{"event":[]}')], "no event", id="wrong type"),
        pytest.param([STARTED, encode_frame(b"x", flags=1)], "unknown flag", id="compressed frame"),
        pytest.param([STARTED, OUTPUT], "ended before", id="no end event"),
        pytest.param([OUTPUT, ENDED, END], "does not begin with a start event", id="no start event"),
        pytest.param([END], "ended before", id="nothing at all"),
        pytest.param([encode_frame(b'{"event":{"start":{"pid":"x"}}}')], "not whole", id="pid is text"),
    ],
)
async def test_a_broken_stream_is_a_protocol_error(token: str, frames: list[bytes], what: str) -> None:
    error = await exec_error(token, stream_answer(*frames))
    assert isinstance(error, SandboxProtocolError)
    assert what in str(error)


async def test_an_error_that_comes_only_in_the_end_frame_is_raised(token: str) -> None:
    end = encode_frame(b'{"error":{"code":"resource_exhausted","message":"x"}}', flags=END_STREAM)
    error = await exec_error(token, stream_answer(STARTED, end))
    assert isinstance(error, SandboxResponseError)
    assert (error.kind, error.status) == ("rate_limit", 429)


async def test_keepalives_of_every_kind_are_skipped(token: str) -> None:
    keepalives = [
        encode_frame(b""),
        encode_json_frame({"event": {"keepalive": {}}}),
        encode_json_frame({"event": {"new": 1}}),
    ]
    answer = stream_answer(STARTED, *keepalives, ENDED)
    async with hostile_server(answer) as server, runtime_at(server.base_url, token) as runtime:
        assert (await runtime.exec("true", timeout_s=5, on_output=ignore_output)).exit_code == 0


async def test_a_stream_may_end_without_an_end_frame_after_the_end_event(token: str) -> None:
    async with hostile_server(stream_answer(STARTED, ENDED)) as server, runtime_at(server.base_url, token) as runtime:
        assert (await runtime.exec("true", timeout_s=5, on_output=ignore_output)).exit_code == 0


async def test_the_exit_code_is_asked_for_when_the_end_event_does_not_say_it(token: str) -> None:
    """Wire contract 4.4: GetResult may answer "not finished" for a while."""
    end = encode_json_frame({"event": {"end": {"exited": True, "status": "exited"}}})
    not_finished = json_answer({"error": "process not finished"}, 404)
    async with hostile_server(stream_answer(STARTED, end), not_finished, json_answer({"exitCode": 9})) as server:
        async with runtime_at(server.base_url, token) as runtime:
            result = await runtime.exec("false", timeout_s=5, on_output=ignore_output)
        assert [request.target.rsplit("/", 1)[-1] for request in server.requests] == ["Start", "GetResult", "GetResult"]
    assert result.exit_code == 9


async def test_a_redirect_is_an_error_and_is_not_followed(token: str) -> None:
    """Not even to the same host: an app in the sandbox could send the token elsewhere."""
    async with hostile_server(raw(b"")) as evil:
        location = f"Location: {evil.base_url}/steal"
        error = await exec_error(token, http(302, b"", location))
        assert isinstance(error, SandboxResponseError)
        assert error.status == 302
        assert evil.requests == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 500, 502, 503])
async def test_headers_echoed_in_an_error_body_are_not_in_the_error(token: str, status: int) -> None:
    error = await exec_error(token, echo_headers(status))
    assert isinstance(error, SandboxResponseError)
    assert error.status == status
    assert token not in everything_about(error)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(b""), id="closed"),
        pytest.param(raw(b"\x00\xff garbage\r\n\r\n"), id="not HTTP"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), id="body cut off"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n"), id="huge header"),
        pytest.param(http(200, b"\x1f\x8b...", "Content-Encoding: gzip"), id="compressed"),
        pytest.param(http(204), id="empty success"),
        pytest.param(http(500, b"<html>"), id="HTML error"),
        pytest.param(http(101, b"", "Upgrade: x"), id="switching protocols"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_a_typed_error_without_the_token(token: str, answer: Answer) -> None:
    error = await exec_error(token, answer)
    assert isinstance(error, SandboxRequestError)
    assert error.__context__ is None
    assert error.__cause__ is None
    assert token not in everything_about(error)


async def test_silence_ends_at_the_deadline_and_says_that_the_kill_is_unconfirmed(token: str) -> None:
    async with hostile_server(silence()) as server, runtime_at(server.base_url, token) as runtime:
        with anyio.fail_after(10):
            result = await runtime.exec("true", timeout_s=0.2, on_output=ignore_output)
    assert (result.timed_out, result.kill_outcome) == (True, "kill_unconfirmed")


async def test_an_answer_that_drips_ends_at_the_deadline(token: str) -> None:
    async def drip(request: object, stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            await stream.send(b" ")
            await anyio.sleep(0.01)

    transport_token = Registry().register("SANDBOX_TOKEN", token)
    async with hostile_server(drip) as server:
        transport = Transport(server.base_url, {"X-Access-Token": transport_token})
        with pytest.raises(SandboxTimeoutError), anyio.fail_after(5):
            await transport.request("GET", "/x", operation="read", timeout_s=0.3)
        await transport.aclose()


async def test_a_body_over_the_cap_is_refused_by_its_announced_length(token: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode()
    async with hostile_server(raw(head)) as server, runtime_at(server.base_url, token) as runtime:
        with pytest.raises(SandboxProtocolError, match="announces more than"):
            await runtime.listening_ports()


async def test_a_body_over_the_cap_is_refused_when_it_did_not_announce_its_length(token: str) -> None:
    async def endless(request: object, stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            await stream.send(b"[" * 65536)

    async with hostile_server(endless) as server, runtime_at(server.base_url, token) as runtime:
        with pytest.raises(SandboxProtocolError, match="longer than"), anyio.fail_after(20):
            await runtime.listening_ports()


async def test_cookies_are_not_kept(token: str) -> None:
    async with hostile_server(http(200, b"[]", "Set-Cookie: a=b; Path=/")) as server:
        async with runtime_at(server.base_url, token) as runtime:
            await runtime.listening_ports()
            await runtime.listening_ports()
        assert [request.header("Cookie") for request in server.requests] == [None, None]


async def test_no_connection_is_unreachable(token: str) -> None:
    async with hostile_server(silence()) as server:
        base_url = server.base_url
    async with runtime_at(base_url, token) as runtime:
        with pytest.raises(SandboxUnreachableError) as caught:
            await runtime.exec("true", timeout_s=5, on_output=ignore_output)
    assert token not in everything_about(caught.value)


@pytest.mark.parametrize("url", ["http://sandbox.example", "ftp://127.0.0.1", "http://127.0.0.1.example"])
def test_credentials_are_never_sent_in_clear_over_a_network(url: str, token: str) -> None:
    with pytest.raises(ConfigurationError):
        Transport(url, {"X-API-Key": Registry().register("KEY", token)})


RECORD = {"sandboxID": "s1", "state": "running", "envdUrl": "http://127.0.0.1:9/9000-s1"}


async def control_error(answer: Answer, call: Callable[[ControlPlane], object]) -> BaseException:
    registry = Registry()
    async with hostile_server(answer) as server:
        control = ControlPlane(server.base_url, registry.register("KEY", secrets.token_urlsafe(32)), registry)
        try:
            with anyio.fail_after(15):
                await call(control)  # type: ignore[misc]  # every call is a coroutine
        except SandboxToolsError as exc:
            return exc
        finally:
            await control.aclose()
    raise AssertionError("the client accepted it")


@pytest.mark.parametrize(
    "record",
    [
        pytest.param([], id="array"),
        pytest.param({}, id="empty"),
        pytest.param({**RECORD, "sandboxID": 5, "envdAccessToken": "x" * 40}, id="id is a number"),
        pytest.param(
            {**RECORD, "envdUrl": "http://evil.example/x", "envdAccessToken": "x" * 40}, id="runtime over http"
        ),
        pytest.param({**RECORD, "envdUrl": "https://u:p@127.0.0.1/x", "envdAccessToken": "x" * 40}, id="user in URL"),
        pytest.param({**RECORD, "envdAccessToken": "short"}, id="token too weak to redact"),
    ],
)
async def test_a_created_sandbox_that_cannot_be_used_safely_is_refused(record: object) -> None:
    error = await control_error(json_answer(record, 201), lambda control: control.create(NewSandbox()))
    assert isinstance(error, SandboxToolsError)


async def test_an_unknown_sandbox_is_not_found_and_deleting_it_is_false() -> None:
    error = await control_error(json_answer({"error": "not found"}, 404), lambda control: control.get("s/1"))
    assert isinstance(error, SandboxNotFoundError)
    registry = Registry()
    async with hostile_server(json_answer({}, 404)) as server:
        control = ControlPlane(server.base_url, registry.register("KEY", secrets.token_urlsafe(32)), registry)
        assert await control.delete("s/1") is False
        await control.aclose()
        assert server.requests[0].target == "/sandboxes/s%2F1"


async def test_a_runtime_token_is_registered_before_anybody_sees_it(token: str) -> None:
    registry = Registry()
    async with hostile_server(json_answer({**RECORD, "envdAccessToken": token}, 201)) as server:
        control = ControlPlane(server.base_url, registry.register("KEY", secrets.token_urlsafe(32)), registry)
        info, access = await control.create(NewSandbox())
        await control.aclose()
    assert token not in repr((info, access))
    from sandbox_tools.redaction import Redactor

    assert Redactor(registry).text(f"<{token}>") == "<[REDACTED:SANDBOX_TOKEN]>"


async def test_a_sandbox_that_is_not_ready_yet_is_waited_for(token: str) -> None:
    starting = json_answer({"sandboxID": "s1", "state": "starting", "envdUrl": None, "envdAccessToken": None}, 201)
    registry = Registry()
    async with hostile_server(starting, json_answer({**RECORD, "envdAccessToken": token})) as server:
        control = ControlPlane(server.base_url, registry.register("KEY", secrets.token_urlsafe(32)), registry)
        info, _ = await control.create(NewSandbox(wait_ready=False))
        await control.aclose()
        assert [request.method for request in server.requests] == ["POST", "GET"]
    assert info.state == "running"


def everything_about(error: BaseException) -> str:
    """What a log, a debugger or a pickle of the error could show."""
    parts = [repr(error), str(error), repr(vars(error)), "".join(traceback.format_exception(error))]
    seen: list[BaseException | None] = [error]
    while (error_or_none := seen[-1]) is not None:
        parts.append(repr(error_or_none.args))
        seen.append(error_or_none.__cause__ or error_or_none.__context__)
    try:
        parts.append(repr(pickle.dumps(error)))
    except Exception as exc:
        parts.append(repr(exc))
    return "\n".join(parts)
