"""A second user of the machine, and what it needs to run a service of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ORDINARY_UID = 12_345


@contextmanager
def passable_directory() -> Iterator[Path]:
    """Make a directory that every user can pass through; pytest closes its own to others, on every run."""
    # Not in /tmp, which means another place in a sandbox of the landlock level.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


def readable_python() -> str:
    """Return a Python of our version that an ordinary user can run."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        can_run = [*as_ordinary_user(), candidate, "-c", "import json"]
        if Path(candidate).exists() and subprocess.run(can_run, capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip("no Python of this version is readable by an ordinary user")


def as_ordinary_user() -> tuple[str, ...]:
    if os.getuid() != 0:
        return ()
    uid = str(ORDINARY_UID)
    # The shell, because what setpriv starts is still found with root's rights.
    return (
        "setpriv",
        "--reuid",
        uid,
        "--regid",
        uid,
        "--clear-groups",
        "--no-new-privs",
        "sh",
        "-c",
        'exec "$@"',
        "sh",
    )


def processes_of(uid: str) -> list[int]:
    """Return the living processes of a user."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            if fields["Uid"].split()[0] == uid and not fields["State"].startswith("Z"):
                found.append(int(status.parent.name))
    return found
