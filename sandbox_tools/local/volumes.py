"""Where in a sandbox a volume may be: a directory by a name, kept for later sandboxes.

A mount point must not lie where a sandbox can write, or a link that it planted there could lead the next mount astray.
So volumes are directories of their own at the top, mounted before the workspace, and none lies in another.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

from sandbox_tools.local.layout import Layout
from sandbox_tools.wire.control import VolumeMount
from sandbox_tools.wire.envelope import WireError

MAX_VOLUMES: Final = 16
MAX_PATH_CHARS: Final = 255

NAME_RULE: Final = "a name has 1 to 63 letters, digits, '_', '.' or '-', a letter or digit first"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_PATH: Final = re.compile(r"(/[A-Za-z0-9_.-]+)+")
_OWN: Final = ("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin", "sys")
_OWN_TOO: Final = ("tmp", "usr", "var")


def check(mounts: Sequence[VolumeMount], layout: Layout) -> None:
    """See to it that volumes can be mounted safely.

    Raises:
        WireError: One cannot. The message says which and why.
    """
    if len(mounts) > MAX_VOLUMES:
        raise WireError(f"volumeMounts has more than {MAX_VOLUMES} entries")
    taken = {*_OWN, *_OWN_TOO, *_tops(target for _, target in layout.binds)}
    for mount in mounts:
        _check_one(mount, taken)
    paths = [PurePosixPath(mount.path) for mount in mounts]
    if any(one.is_relative_to(other) for one in paths for other in paths if one is not other):
        raise WireError("volumeMounts: one path lies in another; a volume cannot be mounted inside a volume")
    if len({mount.name for mount in mounts}) < len(mounts):
        raise WireError("volumeMounts names a volume twice")


def is_name(name: object) -> bool:
    """Whether a volume may be called so."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _check_one(mount: VolumeMount, taken: set[str]) -> None:
    if not is_name(mount.name):
        raise WireError(f"volumeMounts: {NAME_RULE}")
    path = mount.path
    if len(path) > MAX_PATH_CHARS or not _PATH.fullmatch(path) or posixpath.normpath(path) != path:
        raise WireError("volumeMounts: a path is absolute, without '..', of letters, digits, '_', '.', '-' and '/'")
    if path.split("/")[1] in taken:
        raise WireError(f"volumeMounts: {path} is below a directory that every sandbox has; use one such as /data")


def _tops(paths: Iterable[str]) -> Iterable[str]:
    return (path.split("/")[1] for path in paths)
