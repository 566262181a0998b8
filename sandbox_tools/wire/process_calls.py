"""Requests about a process that runs or has ended, and their answers (wire contract 4.3, 4.4)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.files import whole_number
from sandbox_tools.wire.process import SIGNALS, TerminalSize, decode_base64

Selector = int | str
"""Which process: its pid, or its tag."""

MAX_LISTED: Final = 10_000
"""Processes that we read of one list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedProcess:
    """A process of `List`. Its environment is left out: it may hold secrets.

    Attributes:
        args: May hold what a command line holds; not in `repr`.
        cmd_id: SeaCloud's name for it, for `GetResult`.
    """

    pid: int
    cmd: str
    args: tuple[str, ...] = field(default=(), repr=False)
    cwd: str | None = None
    tag: str | None = None
    cmd_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The answer of `GetResult`. Servers keep all of the output, or its start; as text (4.4)."""

    exit_code: int
    stdout: str = field(default="", repr=False)
    stderr: str = field(default="", repr=False)


def selector_json(selector: Selector) -> dict[str, object]:
    """Return a process selector."""
    return {"tag": selector} if isinstance(selector, str) else {"pid": selector}


def selector_from_json(message: Mapping[str, object]) -> Selector:
    """Read the process selector of a request: a pid, or a tag.

    Raises:
        WireError: It is missing, or names not exactly one.
    """
    selector = message.get("process")
    fields = selector if isinstance(selector, dict) else {}
    pid, tag = fields.get("pid"), fields.get("tag")
    if pid is not None and tag is None:
        return whole_number(pid)
    if isinstance(tag, str) and tag and pid is None:
        return tag
    raise WireError("process must have a pid or a tag")


def input_json(data: bytes, *, pty: bool) -> dict[str, object]:
    """Return the `input` of `SendInput` and `StreamInput`."""
    return {"pty" if pty else "stdin": base64.b64encode(data).decode()}


def input_from_json(message: Mapping[str, object], *, pty: bool) -> bytes:
    """Read the bytes of `SendInput`, for a process with or without a PTY. `stdin` is understood for both.

    Raises:
        WireError: There are none, or they are not base64, or they are for a PTY that the process does not have.
    """
    given = message.get("input")
    fields = given if isinstance(given, dict) else {}
    if fields.get("pty") is None:
        return decode_base64(fields.get("stdin"))
    if not pty:
        raise WireError("this process has no pty")
    return decode_base64(fields["pty"])


def signal_from_json(message: Mapping[str, object]) -> int:
    """Read the POSIX number of the signal of `SendSignal`; older clients leave `SIGNAL_` out (quirk 33).

    Raises:
        WireError: It is none of `SIGNALS`.
    """
    name = message.get("signal")
    number = SIGNALS.get("SIGNAL_" + name.removeprefix("SIGNAL_")) if isinstance(name, str) else None
    if number is None:
        raise WireError("signal must be one of " + ", ".join(SIGNALS))
    return number


def terminal_json(size: TerminalSize) -> dict[str, object]:
    """Return the `pty` of `Start` and `Update`."""
    return {"size": {"cols": size.cols, "rows": size.rows}}


def processes_from_json(message: Mapping[str, object]) -> tuple[ListedProcess, ...]:
    """Read the answer of `List`; absent is none (4.1).

    Raises:
        WireError: It is not a list of processes.
    """
    entries = message.get("processes")
    if entries is None:
        return ()
    if not isinstance(entries, list) or len(entries) > MAX_LISTED:
        raise WireError("processes is not a list, or too long")
    return tuple(_listed(entry) for entry in entries)


def exit_code_from_result(message: Mapping[str, object]) -> int:
    """Read the exit code of a `GetResult` or `/run` answer; absent is 0 (4.1).

    Raises:
        WireError: It is not a whole number.
    """
    value = message.get("exitCode")
    return whole_number(message.get("exit_code") if value is None else value, default=0)


def finished_from_json(message: Mapping[str, object]) -> Finished:
    """Read the answer of `GetResult`.

    Raises:
        WireError: The exit code is not a whole number.
    """
    return Finished(
        exit_code=exit_code_from_result(message),
        stdout=_text(message.get("stdout")) or "",
        stderr=_text(message.get("stderr")) or "",
    )


def _listed(entry: object) -> ListedProcess:
    if not isinstance(entry, dict):
        raise WireError("a process is not an object")
    config = entry.get("config")
    fields = config if isinstance(config, dict) else {}
    args = fields.get("args")
    return ListedProcess(
        pid=whole_number(entry.get("pid")),
        cmd=_text(fields.get("cmd")) or "",
        args=tuple(arg for arg in args if isinstance(arg, str)) if isinstance(args, list) else (),
        cwd=_text(fields.get("cwd")),
        tag=_text(entry.get("tag")),
        cmd_id=_text(entry.get("cmdId")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
