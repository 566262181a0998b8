"""Secrets that a command makes for its user: in a file, because a terminal may be recorded."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def secret_file(name: str) -> Path:
    """Return where a secret of this name is, or would be."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "sandbox-tools" / name


def new_secret_file(name: str) -> tuple[Path, str]:
    """Make a secret, and leave it in a file that only this user can read; one of an earlier run is replaced."""
    file = secret_file(name)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    secret = secrets.token_urlsafe(32)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(secret)
    return file, secret
