"""The client against a broken or malicious server: a typed error within the deadline, no token anywhere else."""

from __future__ import annotations

import os
import pickle
import secrets
import string
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

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
from tests.contract.hostile import (
    Answer,
    echo_headers,
    endless,
    half_closed,
    hostile_server,
    http,
    json_answer,
    raw,
    reset,
    silence,
    stream_answer,
)

STARTED = encode_json_frame(event_to_json(Started(7, "cmd-1")))
OUTPUT = encode_json_frame(event_to_json(OutputData("stdout", b"hello\n")))
ENDED = encode_json_frame(event_to_json(Ended(0, True, "exit status 0")))
END = encode_frame(b"{}", flags=END_STREAM)


def ignore_output(stream: str, data: bytes) -> None:
    """A sink that keeps nothing."""


@pytest.fixture(autouse=True)
def _no_pause_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_tools.client.retry.FIRST_PAUSE_S", 0.0)


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
        pytest.param([STARTED, struct.pack(">BI", 0, 0xFFFFFFFF)], "announces 4294967295 bytes", id="4 GiB claim"),
        pytest.param([STARTED, encode_frame(b"not json")], "not a JSON object", id="not JSON"),
        pytest.param([STARTED, encode_frame(b'{"event":[]}')], "no event", id="wrong type"),
        pytest.param([STARTED, encode_frame(b"x", flags=1)], "unknown flag", id="compressed frame"),
        pytest.param([OUTPUT, ENDED, END], "does not begin with a start event", id="no start event"),
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


async def test_a_token_of_letters_only_is_not_taken_for_a_word_of_an_error() -> None:
    token = "".join(secrets.choice(string.ascii_lowercase) for _ in range(32))
    error = await exec_error(token, echo_headers(429))
    assert isinstance(error, SandboxResponseError)
    assert error.reason == "usage_limit"
    assert token not in everything_about(error)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

NONSENSE = {
    "closed": raw(b""),
    "reset": reset(),
    "reset in the body": reset(OK + b"Content-Length: 10\r\n\r\nabc"),
    "half closed": half_closed(),
    "half closed in the body": half_closed(OK + b"Content-Length: 10\r\n\r\nabc"),
    "not HTTP": raw(b"\x00\xff garbage\r\n\r\n"),
    "HTTP/0.9": raw(b"<html>hello</html>\r\n\r\n"),
    "TLS": raw(bytes.fromhex("15030100020228")),
    "status of four digits": raw(b"HTTP/1.1 2000 OK\r\n\r\n"),
    "body cut off": raw(OK + b"Content-Length: 10\r\n\r\nabc"),
    "body longer than any": raw(OK + b"Content-Length: 999999999999999999\r\n\r\nabc"),
    "length is no number": raw(OK + b"Content-Length: -1\r\n\r\n"),
    "two lengths": raw(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "chunk cut off": raw(CHUNKED + b"5\r\nab"),
    "no last chunk": raw(CHUNKED + b"2\r\nab\r\n"),
    "chunk size is no number": raw(CHUNKED + b"zz\r\nab\r\n0\r\n\r\n"),
    "chunk longer than any": raw(CHUNKED + b"f" * 30 + b"\r\nab\r\n"),
    "unknown transfer coding": raw(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "huge header": raw(OK + b"X: " + b"a" * 200_000 + b"\r\n\r\n"),
    "endless headers": endless(OK, b"X-A: b\r\n" * 1000),
    "header without a colon": raw(OK + b"nonsense\r\n\r\n"),
    "NUL in a header": raw(OK + b"X: a\x00b\r\n\r\n"),
    "newline in a header": raw(OK + b"X: a\rSet-Cookie: b=c\r\n\r\n"),
    "gzip": http(200, b"\x1f\x8b...", "Content-Encoding: gzip"),
    "brotli": http(200, b"...", "Content-Encoding: br"),
    "HTML error": http(500, b"<html>"),
    "huge error": http(400, b"x" * 1_000_000),
    "nested error": http(400, b'{"error":' * 100_000),
    "switching protocols": http(101, b"", "Upgrade: x"),
    "unknown status": http(999),
    "multiple choices": http(300),
}

OPERATIONS: dict[str, Callable[[RemoteRuntime, ControlPlane], Awaitable[object]]] = {
    "control plane": lambda runtime, control: control.get("s1"),
    "create": lambda runtime, control: control.create(NewSandbox()),
    "connect": lambda runtime, control: control.connect("s1"),
    "runtime": lambda runtime, control: runtime.listening_ports(),
    "process": lambda runtime, control: runtime.exec("true", timeout_s=5, on_output=ignore_output),
    "read a file": lambda runtime, control: runtime.files.read("/x", max_bytes=MAX_BODY_BYTES),
    "write a file": lambda runtime, control: runtime.write_file("/x", b"data"),
}


async def outcomes(token: str, answers: dict[str, Answer]) -> dict[str, SandboxToolsError | None]:
    """Do each of these operations, all at once, with a server of its own; return the errors, which are always ours."""
    errors: dict[str, SandboxToolsError | None] = {}

    async def do(operation: str) -> None:
        async with hostile_server(answers[operation]) as server:
            errors[operation] = await error_at(server.base_url, server.base_url, token, token, operation)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for operation in answers:
                tasks.start_soon(do, operation)
    return errors


async def error_at(
    control_url: str, runtime_url: str, api_key: str, token: str, operation: str
) -> SandboxToolsError | None:
    """Do one of the operations; return the error, which is always ours."""
    registry = Registry()
    control = ControlPlane(control_url, registry.register("KEY", api_key), registry)
    error = None
    async with runtime_at(runtime_url, token) as runtime:
        try:
            await OPERATIONS[operation](runtime, control)
        except SandboxToolsError as exc:
            error = exc
    await control.aclose()
    return error


@pytest.mark.parametrize("name", NONSENSE)
async def test_an_answer_that_makes_no_sense_is_a_typed_error_without_the_token(token: str, name: str) -> None:
    errors = await outcomes(token, dict.fromkeys(OPERATIONS, NONSENSE[name]))
    for operation, error in errors.items():
        assert isinstance(error, SandboxRequestError), operation
        assert (error.__context__, error.__cause__) == (None, None)
        assert token not in everything_about(error)


BODIES = {
    "nothing": b"",
    "null": b"null",
    "other type": b'"text"',
    "number": b"NaN",
    "not UTF-8": b'{"a":"\xff\xfe"}',
    "UTF-16": '{"sandboxID":"s"}'.encode("utf-16"),
    "nested arrays": b"[" * 200_000,
    "nested objects": b'{"a":' * 200_000,
    "huge number": b'{"sandboxID":' + b"9" * 5000 + b"}",
    "huge port": b'[{"port":' + b"9" * 4000 + b"}]",
    "infinite port": b'[{"port":1e999}]',
    "port is null": b'[{"port":null}]',
    "entries are null": b"[null,1,[]]",
    "fields of the wrong types": b'{"sandboxID":{},"state":[],"metadata":7,"cpuCount":"x","envdUrl":0}',
    "fields are null": b'{"sandboxID":null,"state":null,"envdUrl":null}',
    "numbers that are none": b'{"sandboxID":"s","cpuCount":NaN,"memoryMB":Infinity,"diskSizeMB":-1e999}',
    "dates that are none": b'{"sandboxID":"s","endAt":"9999-99-99","startedAt":1e308}',
    "URL that is none": b'{"sandboxID":"s","envdUrl":"https://[bad","envdAccessToken":"%s"}' % (b"t" * 40),
    "URL with a port that is none": b'{"sandboxID":"s","envdUrl":"http://h:99999/x","envdAccessToken":"%s"}'
    % (b"t" * 40),
    "URL with a line in it": b'{"sandboxID":"s","envdUrl":"http://127.0.0.1/\\n","envdAccessToken":"%s"}' % (b"t" * 40),
    "lone surrogate": b'{"sandboxID":"\\ud800","state":"\\udfff"}',
    "twice the same key": b'{"sandboxID":"a","sandboxID":5}',
    "newline in an id": b'{"sandboxID":"a\\r\\nX-Evil: 1"}',
    "slash in an id": b'{"sandboxID":"../../admin"}',
}
MUST_FAIL = ("nothing", "null", "other type", "number", "not UTF-8", "nested arrays", "nested objects", "huge number")


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_makes_no_sense_raises_no_error_but_ours(token: str, name: str) -> None:
    answer = http(200, BODIES[name], "Content-Type: text/html")
    answers = {"control plane": answer, "runtime": answer, "process": stream_answer(encode_frame(BODIES[name]))}
    errors = await outcomes(token, answers)
    for error in errors.values():
        assert error is not None or name not in MUST_FAIL
        assert error is None or (error.__context__, error.__cause__) == (None, None)


ENDLESS = {
    "silence": silence(),
    "head that drips": endless(OK, b"X: y\r\n", pause_s=0.01),
    "answers before the answer": endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100),
    "body that drips": endless(OK + b"Content-Length: 1000000\r\n\r\n", b" ", pause_s=0.01),
    "body in tiny chunks": endless(CHUNKED, b"1\r\n \r\n" * 100, pause_s=0.001),
    "chunk extension without end": endless(CHUNKED, b"1;" + b"a" * 100, pause_s=0.01),
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", ENDLESS)
async def test_an_answer_without_end_ends_at_the_one_deadline(token: str, name: str, method: str) -> None:
    async with hostile_server(ENDLESS[name]) as server:
        transport = Transport(server.base_url, {"X-Access-Token": Registry().register("SANDBOX_TOKEN", token)})
        with pytest.raises(SandboxRequestError) as caught, anyio.fail_after(10):
            await transport.request(method, "/x", operation="do it", timeout_s=0.2)
        await transport.aclose()
        assert len(server.requests) == 1
    if name != "chunk extension without end":  # which is refused when it is too long, or at the deadline
        assert isinstance(caught.value, SandboxTimeoutError)
    assert caught.value.maybe_done == (method == "POST")


@pytest.mark.parametrize("name", ["silence", "head that drips", "answers before the answer"])
async def test_a_stream_of_which_the_head_never_comes_is_given_up(token: str, name: str) -> None:
    async with hostile_server(ENDLESS[name]) as server:
        transport = Transport(server.base_url, {"X-Access-Token": Registry().register("SANDBOX_TOKEN", token)})
        with pytest.raises(SandboxTimeoutError), anyio.fail_after(10):
            await transport.stream("POST", "/x", operation="do it", idle_timeout_s=0.2)
        await transport.aclose()


STREAM_HEAD = OK + b"Content-Type: application/connect+json\r\n\r\n"


LONG_FRAME = struct.pack(">BI", 0, 3_000_000)


async def test_a_process_stream_without_end_ends_at_the_deadline_in_bounded_memory(token: str) -> None:
    answers = [
        silence(),
        endless(STREAM_HEAD + STARTED, encode_frame(b"") * 1000, pause_s=0.001),
        endless(STREAM_HEAD + STARTED, encode_json_frame({"event": {"keepalive": {}}}) * 100, pause_s=0.001),
        endless(STREAM_HEAD + STARTED, encode_json_frame({"event": {"new": {}}}) * 100, pause_s=0.001),
        endless(STREAM_HEAD + STARTED, OUTPUT * 100, pause_s=0.001),
        endless(STREAM_HEAD + STARTED + LONG_FRAME, b"x", pause_s=0.001),
    ]
    before = _resident_bytes()

    async def run(answer: Answer) -> None:
        async with hostile_server(answer, http(500)) as server, runtime_at(server.base_url, token) as runtime:
            result = await runtime.exec("true", timeout_s=0.3, on_output=ignore_output)
        assert (result.timed_out, result.kill_outcome) == (True, "kill_unconfirmed")

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for answer in answers:
                tasks.start_soon(run, answer)
    assert _resident_bytes() - before < 64 * 1024 * 1024


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([STARTED, ENDED, ENDED, END], id="two ends"),
        pytest.param([STARTED, ENDED, END, OUTPUT], id="output after the end"),
        pytest.param([STARTED, ENDED, struct.pack(">BI", 9, 0xFFFFFFFF)], id="nonsense after the end"),
        pytest.param([STARTED, STARTED, ENDED], id="two starts"),
    ],
)
async def test_what_follows_the_end_of_a_process_changes_nothing(token: str, frames: list[bytes]) -> None:
    async with hostile_server(stream_answer(*frames)) as server, runtime_at(server.base_url, token) as runtime:
        assert (await runtime.exec("true", timeout_s=5, on_output=ignore_output)).exit_code == 0


async def test_a_body_over_the_cap_is_refused_by_its_announced_length(token: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode()
    async with hostile_server(raw(head)) as server, runtime_at(server.base_url, token) as runtime:
        with pytest.raises(SandboxProtocolError, match="announces more than"):
            await runtime.listening_ports()


async def test_a_body_over_the_cap_is_refused_when_it_did_not_announce_its_length(token: str) -> None:
    answer = endless(OK + b"Connection: close\r\n\r\n", b"[" * 65536)
    async with hostile_server(answer) as server, runtime_at(server.base_url, token) as runtime:
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


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def everything_about(error: BaseException) -> str:
    """What a log, a debugger or a pickle of the error could show."""
    with_locals = traceback.TracebackException.from_exception(error)
    parts = [repr(error), str(error), repr(vars(error)), "".join(with_locals.format())]
    seen: list[BaseException | None] = [error]
    while (error_or_none := seen[-1]) is not None:
        parts.append(repr(error_or_none.args))
        seen.append(error_or_none.__cause__ or error_or_none.__context__)
    try:
        parts.append(repr(pickle.dumps(error)))
    except Exception as exc:
        parts.append(repr(exc))
    return "\n".join(parts)
