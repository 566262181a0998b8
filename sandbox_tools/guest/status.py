"""What listens in a sandbox, and what it uses of disk and network. Tasks of `tasks.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from sandbox_tools.guest.answer import Answer

_TCP_LISTEN = "0A"


def ports(_request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """List listening TCP ports, from the tables of this network namespace."""
    answer.line({})
    seen = set()
    for table, any_address, own in (("tcp", "0.0.0.0", "127.0.0.1"), ("tcp6", "::", "::1")):
        for local, state in _sockets(table):
            address, port = local.split(":")
            shown = any_address if not int(address, 16) else own
            if state == _TCP_LISTEN and (port, shown) not in seen:
                seen.add((port, shown))
                answer.line({"port": int(port, 16), "address": shown})


def usage(request: dict[str, Any], answer: Answer, _: list[int]) -> None:
    """Say what only the inside can see: its file systems and its network, in bytes."""
    home = request["home"]
    disk = os.statvfs(home)
    received, sent = _traffic()
    answer.line(
        {
            "tmpfs": sum(_used(os.statvfs(path)) for path in request["memory"] if not _same_disk(path, home)),
            "disk_used": _used(disk),
            "disk": disk.f_blocks * disk.f_frsize,
            "received": received,
            "sent": sent,
        }
    )


def _same_disk(path: str, other: str) -> bool:
    return os.stat(path).st_dev == os.stat(other).st_dev


def _used(info: os.statvfs_result) -> int:
    return (info.f_blocks - info.f_bfree) * info.f_frsize


def _traffic() -> tuple[int, int]:
    """Return the bytes that went in and out of this network namespace, without the loopback device."""
    received = sent = 0
    with open("/proc/net/dev") as lines:
        for line in lines:
            device, colon, counters = line.partition(":")
            if colon and device.strip() != "lo":
                fields = counters.split()
                received, sent = received + int(fields[0]), sent + int(fields[8])
    return received, sent


def _sockets(table: str) -> Iterator[tuple[str, str]]:
    try:
        with open(f"/proc/net/{table}") as lines:
            next(lines)
            for line in lines:
                fields = line.split()
                yield fields[1], fields[3]
    except FileNotFoundError:  # no IPv6
        return
