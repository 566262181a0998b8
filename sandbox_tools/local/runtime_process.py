"""The runtime's process routes: /run and /process.Process/* (wire contract 3.5, 4.3)."""

from __future__ import annotations

import errno
import time
from dataclasses import replace
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.channel import AgentError
from sandbox_tools.local.isolation import needs_namespaces
from sandbox_tools.local.process import Process
from sandbox_tools.local.process_stream import STREAM_TYPE, connect_timeout_ms, event_stream
from sandbox_tools.local.sandbox import Sandbox, TooManyProcessesError
from sandbox_tools.local.web import (
    MAX_JSON_BYTES,
    MAX_UPLOAD_BYTES,
    RequestError,
    body_chunks,
    json_response,
    read_body,
    read_json,
)
from sandbox_tools.wire.envelope import (
    END_STREAM,
    FrameDecoder,
    encode_json_frame,
    parse_json_object,
    parse_stream_request,
)
from sandbox_tools.wire.process import (
    Command,
    OutputData,
    ProcessEvent,
    run_request_from_json,
    start_request_from_json,
    terminal_size_from_json,
)
from sandbox_tools.wire.process_calls import input_from_json, selector_from_json, signal_from_json

MAX_RUN_OUTPUT_BYTES: Final = 8 << 20
"""Of each stream in the answer of /run; the rest is left out, and `error` says so."""


async def start(request: Request, sandbox: Sandbox) -> Response:
    """Start a process and stream its events. Dropping the stream does not end the process, its time limit does."""
    command = start_request_from_json(parse_stream_request(await read_body(request))[0])
    if limit_ms := connect_timeout_ms(request):
        command = replace(command, timeout_ms=min(limit_ms, command.timeout_ms or limit_ms))
    return event_stream(request, await _start(sandbox, command))


async def connect(request: Request, sandbox: Sandbox) -> Response:
    """Stream the events of a process from now on. A time limit ends the stream, not the process."""
    process = _find(sandbox, parse_stream_request(await read_body(request))[0])
    return event_stream(request, process, limit_ms=connect_timeout_ms(request))


async def list_processes(_: Request, sandbox: Sandbox) -> Response:
    return json_response({"processes": [_process_to_json(process) for process in sandbox.processes]})


async def send_input(request: Request, sandbox: Sandbox) -> Response:
    message = await read_json(request)
    await _write(_find_running(sandbox, message), message)
    return json_response({})


async def stream_input(request: Request, sandbox: Sandbox) -> Response:
    """Write what comes in envelopes: first which process, then its input, as it comes."""
    process, decoder = None, FrameDecoder(max_frame_bytes=MAX_JSON_BYTES)
    async for chunk in body_chunks(request, MAX_UPLOAD_BYTES, idle_timeout_s=None):  # a person may be typing
        for frame in decoder.feed(chunk):
            message = parse_json_object(frame.payload, what="a message") if frame.payload else {}
            if isinstance(start := message.get("start"), dict):
                process = _find_running(sandbox, start)
            elif isinstance(data := message.get("data"), dict):
                if process is None:
                    raise RequestError(400, "the first message must be a start")
                await _write(process, data)
    decoder.close()
    if process is None:
        raise RequestError(400, "the first message must be a start")
    return Response(encode_json_frame({}) + encode_json_frame({}, flags=END_STREAM), media_type=STREAM_TYPE)


async def close_stdin(request: Request, sandbox: Sandbox) -> Response:
    process = _find_running(sandbox, await read_json(request))
    if process.command.pty:
        raise RequestError(400, "a pty has no end of input: send the byte 4 (Ctrl-D)")
    process.close_input()
    return json_response({})


async def update(request: Request, sandbox: Sandbox) -> Response:
    """Change the size of a PTY."""
    message = await read_json(request)
    process = _find_running(sandbox, message)
    if message.get("pty") is not None and not await sandbox.resize(process, terminal_size_from_json(message)):
        raise RequestError(400, "this process has no pty")
    return json_response({})


async def send_signal(request: Request, sandbox: Sandbox) -> Response:
    """Signal the process group; also what is left of it after its first process has ended."""
    message = await read_json(request)
    process = _find(sandbox, message)
    if not await sandbox.signal(process, signal_from_json(message)):
        raise RequestError(404, "process not found")
    return json_response({})


async def get_result(request: Request, sandbox: Sandbox) -> Response:
    """The exit code, and the head of what the process wrote."""
    cmd_id = (await read_json(request)).get("cmdId")
    process = sandbox.result(cmd_id) if isinstance(cmd_id, str) else None
    if process is None:
        raise RequestError(404, "process not found")
    if process.ended is None:
        raise RequestError(404, "process not finished")
    return json_response(
        {
            "exitCode": process.ended.exit_code,
            "stdout": process.stdout.head.decode("utf-8", "replace"),
            "stderr": "" if process.stderr is None else process.stderr.head.decode("utf-8", "replace"),
            "startedAtUnix": process.started_at_unix,
        }
    )


async def run(request: Request, sandbox: Sandbox) -> Response:
    """Run a command to its end and answer with its output."""
    command, text = run_request_from_json(await read_json(request))
    began = time.monotonic()
    process = await _start(sandbox, command)
    output = _RunOutput()
    async with anyio.create_task_group() as tasks:
        with process.subscribe() as events:
            if text is not None:
                tasks.start_soon(_feed, process, text.encode("utf-8", "surrogatepass"))
            await output.collect(events)
        tasks.cancel_scope.cancel()
    return json_response(
        {
            "stdout": output.text("stdout"),
            "stderr": output.text("stderr"),
            "exit_code": -1 if process.ended is None else process.ended.exit_code,
            "duration_ms": int((time.monotonic() - began) * 1000),
            **output.problem(process),
        }
    )


class _RunOutput:
    def __init__(self) -> None:
        self._kept = {"stdout": bytearray(), "stderr": bytearray(), "pty": bytearray()}
        self._cut = False

    async def collect(self, events: MemoryObjectReceiveStream[ProcessEvent]) -> None:
        async for event in events:
            if isinstance(event, OutputData):
                kept = self._kept[event.stream]
                room = MAX_RUN_OUTPUT_BYTES - len(kept)
                self._cut |= room < len(event.data)
                kept += event.data[:room]

    def text(self, stream: str) -> str:
        return self._kept[stream].decode("utf-8", "replace")

    def problem(self, process: Process) -> dict[str, str]:
        problems = ["deadline exceeded"] if process.timed_out else []
        if not process.timed_out and process.ended is not None and not process.ended.exited:
            problems.append(process.ended.status)
        if self._cut:
            problems.append(f"output beyond {MAX_RUN_OUTPUT_BYTES} bytes was left out")
        return {"error": "; ".join(problems)} if problems else {}


async def _feed(process: Process, data: bytes) -> None:
    try:
        await process.write_input(data)
    except BrokenPipeError:
        return
    process.close_input()


async def _write(process: Process, message: dict[str, object]) -> None:
    data = input_from_json(message, pty=process.command.pty is not None)
    try:
        await process.write_input(data)
    except BrokenPipeError:
        pass
    else:
        return
    raise RequestError(400, "the standard input of this process is closed")


async def _start(sandbox: Sandbox, command: Command) -> Process:
    """Start a process.

    Raises:
        RequestError: The working directory is not one (400), or there are too many processes (429, 503).
    """
    try:
        return await sandbox.start(command)
    except TooManyProcessesError:
        problem = RequestError(429, "the sandbox runs too many processes")
    except AgentError as error:
        full = error.number in (errno.EAGAIN, errno.ENOMEM)
        problem = RequestError(503 if full else 400, f"{'process' if full else 'cwd'}: {error}")
        if command.pty and error.number == errno.EACCES and not sandbox.has_network:
            problem = RequestError(400, needs_namespaces("terminals (pty), where the service is not root,"))
    raise problem


def _find(sandbox: Sandbox, message: dict[str, object]) -> Process:
    process = sandbox.find(selector_from_json(message))
    if process is None:
        raise RequestError(404, "process not found")
    return process


def _find_running(sandbox: Sandbox, message: dict[str, object]) -> Process:
    process = _find(sandbox, message)
    if process.exited.is_set():
        raise RequestError(404, "process not found")
    return process


def _process_to_json(process: Process) -> dict[str, object]:
    command = process.command
    config = {"cmd": command.cmd, "args": list(command.args), "envs": dict(command.envs), "cwd": command.cwd}
    return {"pid": process.pid, "config": config, "tag": command.tag, "cmdId": process.cmd_id}
