"""Who made a sandbox: labels by which those that a dead process left behind are found. Nothing in them is private."""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from sandbox_tools.wire.fields import moment
from sandbox_tools.wire.records import SandboxInfo

MADE_BY: Final = {"created-by": "sandbox-tools"}
"""On every sandbox that a toolset made."""

OWNER: Final = "sandbox-tools-owner"
"""Label: the host and the process that made it, `HOST.PID`."""

KEY: Final = "sandbox-tools-key"
"""Label: stands for one creation, so that a sandbox is found whose creation was not answered."""

CREATED: Final = "sandbox-tools-created"
"""Label: when, RFC 3339 UTC."""


def labels() -> dict[str, str]:
    """Return the labels of a new sandbox of this process."""
    return {
        **MADE_BY,
        OWNER: f"{this_host()}.{os.getpid()}",
        KEY: secrets.token_hex(8),
        CREATED: datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def is_orphan(info: SandboxInfo) -> bool:
    """Tell whether a process of this host made a sandbox and has ended.

    False for another host's, because nothing can be known about that. A process id that was given out again hides an
    orphan until its time to live ends; it never makes a used sandbox an orphan.
    """
    pid = info.metadata.get(OWNER, "").partition(".")[2]
    return is_of_this_host(info) and pid.isascii() and pid.isdigit() and not _is_alive(int(pid[:9]))


def is_of_this_host(info: SandboxInfo) -> bool:
    """Tell whether a process of this host made a sandbox, whatever became of it."""
    return info.metadata.get(OWNER, "").partition(".")[0] == this_host()


def age_s(info: SandboxInfo) -> float | None:
    """Return how long ago a sandbox was created, in seconds by this machine's clock; None: nobody knows."""
    for text in (info.metadata.get(CREATED, ""), info.started_at):
        created = moment(text)
        if created is not None:
            return (datetime.now(timezone.utc) - created).total_seconds()
    return None


@functools.cache
def this_host() -> str:
    """Return a name for where process ids of ours mean something: this boot of this machine, this PID namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        where = f"{boot}{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        where = f"{uuid.getnode()}"
    return hashlib.sha256(where.encode()).hexdigest()[:12]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
