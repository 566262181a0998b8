"""The runtime's small REST routes: /ports, /metrics, /envs, /run (wire contract 3.4, 3.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.files import whole_number
from sandbox_tools.wire.preview import parse_port


@dataclass(frozen=True, slots=True, kw_only=True)
class ListeningPort:
    """A TCP port that something listens on.

    Attributes:
        address: "0.0.0.0", or "127.0.0.1" when only the sandbox itself can reach it.
        pid: Of the process, if the runtime says so.
        process_name: Likewise.
    """

    port: int
    address: str = ""
    pid: int | None = None
    process_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeMetrics:
    """What a sandbox uses now. A value that the runtime did not send is 0.

    Attributes:
        timestamp: Unix time, in seconds.
        cpu_used_percent: Of all its CPUs together.
        memory_cache: Bytes of `memory_used` that are cache.
    """

    timestamp: int
    cpu_count: int
    cpu_used_percent: float
    memory_total: int
    memory_used: int
    memory_cache: int
    disk_total: int
    disk_used: int
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a program ended that `/run` ran.

    Attributes:
        ended_abnormally: The runtime reported an error beside the exit code, as it does for a timeout.
        duration_ms: As the runtime measured it, in milliseconds.
    """

    stdout: str
    stderr: str
    exit_code: int
    ended_abnormally: bool
    duration_ms: int


def ports_from_json(entries: list[object]) -> tuple[ListeningPort, ...]:
    """Read PortEntry objects; what is none is left out. Raises WireError for a port that cannot be one."""
    return tuple(_port(entry) for entry in entries if isinstance(entry, dict))


def metrics_from_json(message: Mapping[str, object]) -> RuntimeMetrics:
    """Read the answer of `/metrics`; raises WireError."""
    numbers = {ours: whole_number(message.get(wire), default=0) for ours, wire in _METRICS.items()}
    return RuntimeMetrics(cpu_used_percent=_percent(message.get("cpu_used_pct")), **numbers)


def environment_names_from_json(message: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of the answer of `/envs`. Its values include secrets, so they end here."""
    return tuple(sorted(message))


def run_request_json(
    cmd: str, args: Sequence[str], *, cwd: str | None, envs: Mapping[str, str], timeout_ms: int, stdin: str | None
) -> dict[str, object]:
    """Return the body of `/run`. The variables are called `env` here (quirk 13); what is None is left out."""
    body: dict[str, object] = {"cmd": cmd, "args": list(args), "env": dict(envs), "timeoutMs": timeout_ms}
    return body | ({} if cwd is None else {"cwd": cwd}) | ({} if stdin is None else {"stdin": stdin})


def run_result_from_json(message: Mapping[str, object]) -> RunResult:
    """Read the answer of `/run`; raises WireError."""
    code = message.get("exit_code")
    return RunResult(
        stdout=_text(message.get("stdout")) or "",
        stderr=_text(message.get("stderr")) or "",
        exit_code=whole_number(message.get("exitCode") if code is None else code),
        ended_abnormally=bool(message.get("error")),
        duration_ms=whole_number(message.get("duration_ms"), default=0),
    )


_METRICS = {
    "timestamp": "ts",
    "cpu_count": "cpu_count",
    "memory_total": "mem_total",
    "memory_used": "mem_used",
    "memory_cache": "mem_cache",
    "disk_total": "disk_total",
    "disk_used": "disk_used",
    "received_bytes": "net_rx_bytes",
    "sent_bytes": "net_tx_bytes",
}


_MAX_PERCENT = 1e9


def _port(entry: dict[str, object]) -> ListeningPort:
    pid = entry.get("pid")
    return ListeningPort(
        port=parse_port(entry.get("port")),
        address=_text(entry.get("address")) or "",
        pid=None if pid is None else whole_number(pid),
        process_name=_text(entry.get("process_name")),
    )


def _percent(value: object) -> float:
    if value is None:
        return 0.0
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MAX_PERCENT:  # not for NaN
        return float(value)
    raise WireError("a share of the CPUs is not a number")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
