"""A runtime that really runs processes, on this machine, and whose signals reach only the process that it started.

That is what the wire allows (wire contract 4.3): no group, no session, no output for who was not connected.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sandbox_tools.wire.envelope import END_STREAM, encode_json_frame
from sandbox_tools.wire.process import Ended, OutputData, Started, event_to_json, start_request_from_json
from sandbox_tools.wire.process_calls import selector_from_json, signal_from_json


async def start(request: Request) -> Response:
    command = start_request_from_json(await request.json())
    process = await asyncio.create_subprocess_exec(
        command.cmd,
        *command.args,
        env={"PATH": os.environ["PATH"], **command.envs},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return StreamingResponse(frames(process), media_type="application/connect+json")


async def frames(process: asyncio.subprocess.Process) -> AsyncIterator[bytes]:
    yield encode_json_frame(event_to_json(Started(process.pid)))
    assert process.stdout is not None
    reading = asyncio.ensure_future(process.stdout.read(4096))
    ended = asyncio.ensure_future(process.wait())
    while not ended.done():
        await asyncio.wait((reading, ended), return_when=asyncio.FIRST_COMPLETED)
        if reading.done() and (data := reading.result()):
            yield encode_json_frame(event_to_json(OutputData("stdout", data)))
            reading = asyncio.ensure_future(process.stdout.read(4096))
        elif reading.done():
            await ended
    reading.cancel()
    code = ended.result()
    end = Ended(code, True, f"exit status {code}") if code >= 0 else Ended(-1, False, f"signal: {-code}")
    yield encode_json_frame(event_to_json(end)) + encode_json_frame({}, flags=END_STREAM)


async def send_signal(request: Request) -> Response:
    message = await request.json()
    pid = selector_from_json(message)
    assert isinstance(pid, int)
    try:
        os.kill(pid, signal_from_json(message))
    except ProcessLookupError:
        return JSONResponse({"error": "process not found"}, 404)
    return JSONResponse({})


@asynccontextmanager
async def plain_runtime() -> AsyncIterator[str]:
    """Run it; yields its URL."""
    app = Starlette(
        routes=[
            Route("/process.Process/Start", start, methods=["POST"]),
            Route("/process.Process/SendSignal", send_signal, methods=["POST"]),
        ]
    )
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    raw = [one.extra(anyio.abc.SocketAttribute.raw_socket) for one in listener.listeners]
    port = raw[0].getsockname()[1]
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(server._serve, raw)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
