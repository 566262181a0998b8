"""Paths of a sandbox that has no file system of its own: what every other sandbox calls /root/workspace and /tmp.

Standard library only. Requests are translated where a path can stand: a whole text, or a part of a list such as PATH.
Text in a shell line or a program is not: code must use $HOME and $TMPDIR, which are right everywhere.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any


class Places:
    """Where the workspace really is; /tmp is a directory in it.

    Raises:
        OSError: The directory for temporary files cannot be made.
    """

    def __init__(self, workspace: str) -> None:
        temporary = f"{workspace}/.tmp"
        if os.path.islink(temporary) or not os.path.isdir(temporary):  # what code left there before a pause
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            os.mkdir(temporary, mode=0o700)
        self._real = {"/root/workspace": workspace, "/tmp": temporary, workspace: workspace}
        known = "|".join(re.escape(path) for path in (workspace, "/root/workspace", "/tmp"))
        self._pattern = re.compile(f"(?:(?<=^)|(?<=:))(?:{known})(?=/|:|$)")

    def request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a request of the host with real paths."""
        real: dict[str, Any] = self._translated(request)
        if "env" in real:
            real["env"].setdefault("TMPDIR", self._real["/tmp"])
            real["env"].setdefault("GIT_CONFIG_NOSYSTEM", "1")  # git stops at an /etc/gitconfig that it may not read
        return real

    def _translated(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._pattern.sub(lambda found: self._real[found[0]], value)
        if isinstance(value, dict):
            return {key: self._translated(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._translated(item) for item in value]
        return value
