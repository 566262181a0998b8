"""A process: what starts it, and its events (wire contract 3.5, 4.3)."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.files import whole_number

StreamName = Literal["stdout", "stderr", "pty"]
SignalName = Literal["SIGNAL_SIGTERM", "SIGNAL_SIGKILL", "SIGNAL_SIGINT"]

SIGNALS: Final[Mapping[str, int]] = {
    "SIGNAL_SIGTERM": 15,
    "SIGNAL_SIGKILL": 9,
    "SIGNAL_SIGINT": 2,
    "SIGNAL_SIGHUP": 1,
}
"""Wire name -> POSIX number. Only TERM and KILL are documented; INT and HUP are known to the local sandbox."""


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """Of a PTY, in characters."""

    cols: int
    rows: int


DEFAULT_TERMINAL: Final = TerminalSize(80, 24)
_MAX_TERMINAL: Final = 65_535  # the kernel keeps 16 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to start.

    Attributes:
        cmd: An executable, not a shell line.
        cwd: Working directory; None is the sandbox's default.
        envs: Added to the sandbox's environment, for this process only. Secret-bearing: not in `repr`.
        timeout_ms: The server ends the process after this many milliseconds; None is no limit.
        stdin: Whether the process gets a pipe to read; else it reads end-of-file.
        tag: A name by which the process can be selected instead of its pid.
        pty: The size of the terminal that the process gets instead of three pipes; None is no terminal.
    """

    cmd: str
    args: tuple[str, ...] = ()
    cwd: str | None = None
    envs: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_ms: int | None = None
    stdin: bool = False
    tag: str | None = None
    pty: TerminalSize | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The first event of a process. `cmd_id` is SeaCloud's and may be absent."""

    pid: int
    cmd_id: str | None = None


@dataclass(frozen=True, slots=True)
class OutputData:
    """Raw bytes, cut anywhere: decode incrementally."""

    stream: StreamName
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of a process.

    Attributes:
        exit_code: None when the event did not say it (the ladder of wire contract 4.3 goes on with GetResult).
            128+N is not used on this wire; a signalled process has -1 and a `signal: ...` status.
    """

    exit_code: int | None
    exited: bool = True
    status: str = ""


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Nothing happened; the stream is alive."""


ProcessEvent = Started | OutputData | Ended | KeepAlive

_EXIT_STATUS: Final = re.compile(r"(?:exit status )?(-?\d{1,10})", re.ASCII)


def start_request_json(command: Command) -> dict[str, object]:
    """Return the body of `Start`; what is not set is absent."""
    process: dict[str, object] = {"cmd": command.cmd, "args": list(command.args)}
    if command.cwd is not None:
        process["cwd"] = command.cwd
    if command.envs:
        process["envs"] = dict(command.envs)
    body: dict[str, object] = {"process": process, "stdin": command.stdin}
    if command.timeout_ms is not None:
        body["timeoutMs"] = command.timeout_ms
    if command.tag is not None:
        body["tag"] = command.tag
    if command.pty is not None:
        body["pty"] = {"size": {"cols": command.pty.cols, "rows": command.pty.rows}}
    return body


def start_request_from_json(message: Mapping[str, object]) -> Command:
    """Read the body of `Start`; null is the same as absent (quirk 41), `stdin` defaults to true (4.3).

    Raises:
        WireError: A field is missing or has the wrong type.
    """
    process = message.get("process")
    if not isinstance(process, dict):
        raise WireError("process is required")
    stdin = message.get("stdin")
    command = _command(process, envs_key="envs", timed=message, stdin=stdin is not False, tag=message)
    return command if message.get("pty") is None else replace(command, pty=terminal_size_from_json(message))


def terminal_size_from_json(message: Mapping[str, object]) -> TerminalSize:
    """Read the size of the terminal in `Start` or `Update`; 80 columns and 24 rows when it is not given.

    Raises:
        WireError: It is not a size.
    """
    size: object = message.get("pty")
    size = size.get("size") if isinstance(size, dict) else size
    if size is None:
        return DEFAULT_TERMINAL
    if not isinstance(size, dict):
        raise WireError("pty has no size")
    cols = whole_number(size.get("cols"), default=DEFAULT_TERMINAL.cols)
    rows = whole_number(size.get("rows"), default=DEFAULT_TERMINAL.rows)
    if not (0 < cols <= _MAX_TERMINAL and 0 < rows <= _MAX_TERMINAL):
        raise WireError(f"cols and rows are from 1 to {_MAX_TERMINAL}")
    return TerminalSize(cols, rows)


def run_request_from_json(message: Mapping[str, object]) -> tuple[Command, str | None]:
    """Read the body of `/run`: the command, and the text for its standard input. The key is `env` here (3.5).

    Raises:
        WireError: A field is missing or has the wrong type.
    """
    text = message.get("stdin")
    if text is not None and not isinstance(text, str):
        raise WireError("stdin is not text")
    command = _command(message, envs_key="env", timed=message, stdin=text is not None, tag={})
    return command, text


def event_to_json(event: ProcessEvent) -> dict[str, object]:
    """Return an event frame's message. The end event satisfies every known client (4.3, server advice)."""
    if isinstance(event, Started):
        return {"event": {"start": {"pid": event.pid, "cmdId": event.cmd_id}}}
    if isinstance(event, OutputData):
        return {"event": {"data": {event.stream: base64.b64encode(event.data).decode()}}}
    if isinstance(event, Ended):
        code = -1 if event.exit_code is None else event.exit_code
        error = None if code == 0 else event.status
        return {"event": {"end": {"exitCode": code, "exited": event.exited, "status": event.status, "error": error}}}
    return {"event": {"keepalive": {}}}


def events_from_json(message: Mapping[str, object]) -> list[ProcessEvent]:
    """Read an event frame's message. A data event may carry several streams; an unknown event is skipped.

    Raises:
        WireError: A known event has the wrong shape.
    """
    event = message.get("event")
    if not isinstance(event, dict):
        raise WireError("a stream message has no event")
    if "start" in event:
        return [_started(event["start"])]
    if "data" in event:
        return _outputs(event["data"])
    if "end" in event:
        return [_ended(event["end"])]
    return [KeepAlive()] if "keepalive" in event else []


def _command(
    process: Mapping[str, object],
    *,
    envs_key: str,
    timed: Mapping[str, object],
    stdin: bool,
    tag: Mapping[str, object],
) -> Command:
    cmd = process.get("cmd")
    if not isinstance(cmd, str) or not cmd.strip():
        raise WireError("cmd is required")
    cwd = process.get("cwd")
    if cwd is not None and not isinstance(cwd, str):
        raise WireError("cwd is not text")
    name = tag.get("tag")
    if name is not None and not isinstance(name, str):
        raise WireError("tag is not text")
    command = Command(
        cmd=cmd,
        args=_args(process.get("args")),
        cwd=cwd or None,
        envs=_envs(process.get(envs_key), envs_key),
        timeout_ms=_timeout_ms(timed),
        stdin=stdin,
        tag=name,
    )
    if any("\0" in text for text in (cmd, *command.args, cwd or "", *command.envs, *command.envs.values())):
        raise WireError("a NUL character cannot be passed to a process")
    return command


def _timeout_ms(message: Mapping[str, object]) -> int | None:
    """Read `timeoutMs`, or the `timeout` in seconds of older clients (quirk 14); 0 is none."""
    if message.get("timeoutMs") is not None:
        milliseconds = whole_number(message["timeoutMs"])
    else:
        milliseconds = whole_number(message.get("timeout"), default=0) * 1000
    if milliseconds < 0:
        raise WireError("the timeout is negative")
    return milliseconds or None


def _args(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise WireError("args is not a list of texts")
    return tuple(value)


def _envs(value: object, key: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and name and "=" not in name and isinstance(text, str) for name, text in value.items()
    ):
        raise WireError(f"{key} is not a map of texts")
    return dict(value)


def _started(start: object) -> Started:
    if not isinstance(start, dict):
        raise WireError("a start event is not an object")
    cmd_id = start.get("cmdId")
    return Started(whole_number(start.get("pid")), cmd_id if isinstance(cmd_id, str) and cmd_id else None)


def _outputs(data: object) -> list[ProcessEvent]:
    if not isinstance(data, dict):
        raise WireError("a data event is not an object")
    events: list[ProcessEvent] = []
    streams: tuple[StreamName, ...] = ("stdout", "stderr", "pty")
    for stream in streams:
        text = data.get(stream)
        if text:
            events.append(OutputData(stream, decode_base64(text)))
    return events


def _ended(end: object) -> Ended:
    if not isinstance(end, dict):
        raise WireError("an end event is not an object")
    status = end.get("status")
    status = status if isinstance(status, str) else str(status) if type(status) is int else ""
    exited = end.get("exited") is not False
    return Ended(_exit_code(end, status, exited=exited), exited, status)


def _exit_code(end: Mapping[str, object], status: str, *, exited: bool) -> int | None:
    """The first steps of the ladder of wire contract 4.3; None leaves the rest to GetResult."""
    if end.get("exitCode") is not None:
        return whole_number(end["exitCode"])
    if match := _EXIT_STATUS.fullmatch(status):
        return int(match[1])
    return 1 if end.get("error") or not exited else None


def decode_base64(text: object) -> bytes:
    """Return the bytes of a `bytes` field.

    Raises:
        WireError: It is not standard base64 with padding.
    """
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str | bytes) else _not_base64()
    except ValueError:  # also for text that is not ASCII
        return _not_base64()


def _not_base64() -> bytes:
    raise WireError("a bytes field is not base64")
