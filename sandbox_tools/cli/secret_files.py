"""Secrets that a command makes for its user: in a file, because a terminal may be recorded."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


def secret_file(name: str) -> Path:
    """Return where a secret of this name is, or would be."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "sandbox-tools" / name


def kept_secret(name: str) -> tuple[Path, str]:
    """Return the file of a secret that only this user can read, and the secret.

    It is made once, so that one service does not change what users of another one have copied; who wants a new one
    deletes the file. A file that others can read, or that is somebody else's, is not trusted and replaced.
    """
    file = secret_file(name)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if kept := _private_text(file):
            return file, kept
        file.unlink()
    secret = secrets.token_urlsafe(32)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(secret)
    return file, secret


def _private_text(file: Path) -> str:
    """Return what is in the file; nothing when it is not private, not a file, or empty."""
    if not stat.S_ISREG(file.lstat().st_mode):
        return ""
    with file.open(encoding="ascii", errors="replace") as source:
        status = os.fstat(source.fileno())
        return source.read(4096).strip() if status.st_uid == os.getuid() and not status.st_mode & 0o077 else ""
