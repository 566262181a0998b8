"""A control plane and a runtime that say their clients' credentials back, wherever an answer has room for a text.

A fault makes one of the two answer everything in one bad way. A redirect leads to another address of this machine,
where somebody listens who wants the credentials.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc

from sandbox_tools.wire.envelope import END_STREAM, encode_json_frame
from sandbox_tools.wire.process import Ended, OutputData, Started, event_to_json

THIEF_HOST = "127.0.0.2"


@dataclass
class EchoService:
    """A running service.

    Attributes:
        fault: Name of one of `FAULTS`, or "": none.
        faulty: Who has the fault, "control" or "runtime".
        stolen: What arrived at the other address.
        seen: Requests that carried the credential that they should.
    """

    base_url: str
    thief_port: int
    fault: str = ""
    faulty: str = "runtime"
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    token: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    traffic_token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    stolen: list[bytes] = field(default_factory=list)
    seen: int = 0

    @property
    def credentials(self) -> tuple[str, ...]:
        return self.api_key, self.token, self.traffic_token

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        async with stream:
            try:
                head = await _read(stream)
                await stream.send(self._answer(head.decode("latin-1")))
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    async def steal(self, stream: anyio.abc.ByteStream) -> None:
        async with stream:
            self.stolen.append(await stream.receive())

    def _answer(self, head: str) -> bytes:
        method, path, _ = head.split(" ", 2)
        owner, token = ("runtime", self.token) if path.startswith("/rt/") else ("control", self.api_key)
        self.seen += token in head
        echo = _Echo(method, path.split("?")[0].removeprefix("/rt"), head, token, self)
        if self.fault and self.faulty == owner and method != "DELETE":
            return FAULTS[self.fault](echo)
        return _runtime_answer(echo) if owner == "runtime" else _control_answer(echo)


@dataclass(frozen=True)
class _Echo:
    """A request: what to say back."""

    method: str
    path: str
    head: str
    token: str
    service: EchoService


def _control_answer(echo: _Echo) -> bytes:
    if echo.method == "GET" and echo.path == "/sandboxes":
        # A list carries no credentials (wire contract 2.2), so its reader could not recognise one.
        listed = json.dumps([_record(echo)]).replace(echo.service.token, echo.token)
        return _http(200, listed.replace(echo.service.traffic_token, echo.token), echo)
    return _http(201 if echo.path == "/sandboxes" else 200, _record(echo), echo)


def _record(echo: _Echo) -> dict[str, Any]:
    service, token = echo.service, echo.token
    return {
        "sandboxID": "echo-1",
        "state": "running",
        "envdUrl": f"{service.base_url}/rt",
        "envdAccessToken": service.token,
        "trafficAccessToken": service.traffic_token,
        "endAt": "2099-01-01T00:00:00Z",
        "metadata": {"label": token, token: service.token},
        "isolation": {"level": service.token, "launcher": token, "hardLimits": [token]},
        "lifecycle": {"onTimeout": token},
        "volumeMounts": [{"name": token, "path": f"/{service.token}"}],
        "diagnostic": {token: echo.head},
        **dict.fromkeys(("templateID", "startedAt", "activatedAt", "echo", "message", token), echo.head),
    }


def _runtime_answer(echo: _Echo) -> bytes:
    name = echo.path.rsplit("/", 1)[-1]
    if name in ("Start", "Connect", "StreamInput"):
        return _process_stream(echo)
    entry = {"name": echo.token, "path": f"/x/{echo.token}", "type": "FILE_TYPE_SYMLINK", "symlinkTarget": echo.head}
    process = {"pid": 7, "tag": echo.token, "config": {"cmd": "sh", "args": ["-c", echo.head], "cwd": echo.token}}
    message: Any = {
        "ports": [{"port": 8000, "address": echo.token, "process": echo.head}],
        "ListDir": {"entries": [entry]},
        "Stat": {"entry": entry},
        "List": {"processes": [process]},
        "content": echo.head,
        "files": echo.head,
    }.get(name, {"error": echo.head, "message": echo.token, "stdout": echo.head, "exitCode": 3, "entry": entry})
    return _http(200, message, echo)


def _process_stream(echo: _Echo) -> bytes:
    said = echo.head.encode()
    events = [Started(7, echo.token), OutputData("stdout", said), OutputData("stderr", said), Ended(3, True, echo.head)]
    frames = [encode_json_frame(event_to_json(event)) for event in events]
    frames.append(encode_json_frame({"metadata": {"x": [echo.head]}}, flags=END_STREAM))
    return _http(200, b"".join(frames), echo, "Content-Type: application/connect+json")


def _http(status: int, body: Any, echo: _Echo, *headers: str) -> bytes:
    """Return an answer with the token in several headers."""
    data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    token = echo.token
    lines = [f"HTTP/1.1 {status} {token}", f"X-Echo: {token}", f"Set-Cookie: t={token}", f"Server: {token}", *headers]
    lines += [f"X-Request-Id: {token}", f"Content-Length: {len(data)}", "Connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def _status(code: int) -> Callable[[_Echo], bytes]:
    def answer(echo: _Echo) -> bytes:
        token = echo.token
        details = {"reason": "usage_limit", "scope": token, "resource": token, "usageEndpoint": f"/{token}"}
        said = {"error": echo.head, "message": echo.head, "code": token, "requestID": token, "details": details}
        return _http(code, said, echo, f"Retry-After: {token}")

    return answer


def _redirect(code: int, *, elsewhere: bool) -> Callable[[_Echo], bytes]:
    def answer(echo: _Echo) -> bytes:
        host = f"http://{THIEF_HOST}:{echo.service.thief_port}" if elsewhere else echo.service.base_url
        return _http(code, echo.head, echo, f"Location: {host}/{echo.token}?token={echo.token}")

    return answer


def _stream_error(echo: _Echo) -> bytes:
    end = {"error": {"code": "internal", "message": echo.head, "details": [{"debug": echo.token}]}}
    frames = encode_json_frame(event_to_json(Started(7, echo.token))) + encode_json_frame(end, flags=END_STREAM)
    return _http(200, frames, echo, "Content-Type: application/connect+json")


FAULTS: dict[str, Callable[[_Echo], bytes]] = {
    **{f"status {code}": _status(code) for code in (400, 401, 403, 404, 409, 413, 429, 500, 502, 503)},
    **{f"redirect {code}": _redirect(code, elsewhere=False) for code in (301, 308)},
    **{f"redirect {code} elsewhere": _redirect(code, elsewhere=True) for code in (302, 307)},
    "JSON cut off": lambda echo: _http(200, json.dumps({"sandboxID": echo.head})[:-9], echo),
    "wrong types": lambda echo: _http(
        200, {"sandboxID": [echo.token], "entries": echo.head, "event": echo.token}, echo
    ),
    "a token for an id": lambda echo: _http(200, {"sandboxID": echo.token, "state": echo.token}, echo),
    "not JSON": lambda echo: _http(200, f"<html>{echo.head}</html>", echo, "Content-Type: text/html"),
    "error at the end of a stream": _stream_error,
    "header with a line break": lambda echo: b"HTTP/1.1 200 OK\r\nX: a\rX-Echo: %b\r\n\r\n" % echo.token.encode(),
    "header that is none": lambda echo: b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % echo.token.encode(),
    "not HTTP": lambda echo: f"{echo.token} {echo.head}\r\n\r\n".encode(),
    "body cut off": lambda echo: b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + echo.head.encode(),
    "nothing": lambda echo: b"",
}


@asynccontextmanager
async def echo_service() -> AsyncIterator[EchoService]:
    """Serve on loopback; every connection carries one request."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    thief = await anyio.create_tcp_listener(local_host=THIEF_HOST)
    port, thief_port = (each.extra(anyio.abc.SocketAttribute.local_port) for each in (listener, thief))
    service = EchoService(f"http://127.0.0.1:{port}", thief_port)
    async with listener, thief, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, service.serve)
        tasks.start_soon(thief.serve, service.steal)
        yield service
        tasks.cancel_scope.cancel()


async def _read(stream: anyio.abc.ByteStream) -> bytes:
    """Read a request to its end; return its head."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    lowered = head.lower()
    size = int(lowered.partition(b"content-length:")[2].split(b"\r\n")[0]) if b"content-length:" in lowered else 0
    while len(body) < size or (b"transfer-encoding: chunked" in lowered and not body.endswith(b"0\r\n\r\n")):
        body += await stream.receive()
    return head
