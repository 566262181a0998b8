"""Files: entries of the Filesystem RPCs and of the REST helpers (wire contract 3.4, 4.2)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Final, Literal

from sandbox_tools.wire.envelope import WireError

SignedOperation = Literal["read", "write"]
"""GET and POST of a signed URL (wire contract 5.3)."""

EVENT_TYPES: Final = frozenset(
    f"EVENT_TYPE_{name}" for name in ("UNSPECIFIED", "CREATE", "WRITE", "REMOVE", "RENAME", "CHMOD")
)
"""Of a watcher (wire contract 4.2)."""

EntryType = Literal["file", "directory", "symlink", "other"]

_TYPE_TO_WIRE: Final[dict[EntryType, str]] = {
    "file": "FILE_TYPE_FILE",
    "directory": "FILE_TYPE_DIRECTORY",
    "symlink": "FILE_TYPE_SYMLINK",
    "other": "FILE_TYPE_UNSPECIFIED",
}
_TYPE_FROM_WIRE: Final[dict[str, EntryType]] = {wire: ours for ours, wire in _TYPE_TO_WIRE.items()}

DEFAULT_WORKSPACE: Final = "/root/workspace"
"""Where a sandbox works when its template names no other directory (wire contract 3.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file, directory or symlink in a sandbox.

    Attributes:
        size: In bytes.
        mode: The full `st_mode`, as SeaCloud sends it; permission bits only from an E2B runtime.
        modified: RFC 3339 UTC time, or "" when the server sent none.
    """

    name: str
    path: str
    type: EntryType
    size: int = 0
    mode: int = 0
    permissions: str = ""
    owner: str = ""
    group: str = ""
    modified: str = ""
    symlink_target: str | None = None


def entry_to_json(entry: Entry) -> dict[str, object]:
    """Return an EntryInfo (wire contract 4.2); numbers stay numbers (quirk 29)."""
    return {
        "name": entry.name,
        "type": _TYPE_TO_WIRE[entry.type],
        "path": entry.path,
        "size": entry.size,
        "mode": entry.mode,
        "permissions": entry.permissions,
        "owner": entry.owner,
        "group": entry.group,
        "modifiedTime": entry.modified,
        "symlinkTarget": entry.symlink_target,
    }


def entry_from_json(message: object) -> Entry:
    """Read an EntryInfo; absent fields are zero or empty, a size may be a string (wire contract 4.1).

    Raises:
        WireError: It is not an object with a name or path.
    """
    if not isinstance(message, dict):
        raise WireError("a file entry is not an object")
    path = _text(message, "path")
    name = _text(message, "name") or path.rsplit("/", 1)[-1]
    if not name:
        raise WireError("a file entry has no name")
    target = message.get("symlinkTarget")
    return Entry(
        name=name,
        path=path,
        type=_TYPE_FROM_WIRE.get(_text(message, "type"), "other"),
        size=whole_number(message.get("size"), default=0),
        mode=whole_number(message.get("mode"), default=0),
        permissions=_text(message, "permissions"),
        owner=_text(message, "owner"),
        group=_text(message, "group"),
        modified=_text(message, "modifiedTime"),
        symlink_target=target if isinstance(target, str) and target else None,
    )


def rest_entry_to_json(entry: Entry) -> dict[str, object]:
    """Return a RestEntry: `type` is "file" or "directory" (wire contract 3.4)."""
    return {"path": entry.path, "name": entry.name, "type": "directory" if entry.type == "directory" else "file"}


def file_signature(
    path: str, operation: SignedOperation, username: str, access_token: str, *, expiration: str | None
) -> str:
    """Return the `signature` of a signed /files URL (wire contract 5.3). The result is a credential.

    Args:
        path: As in the query, "" when it has none; so is `username`.
        expiration: `signature_expiration` as in the query: Unix time in seconds.
    """
    parts = [path, operation, username, access_token, *([] if expiration is None else [expiration])]
    digest = hashlib.sha256(":".join(parts).encode("utf-8", "surrogatepass")).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def watch_event_from_json(message: dict[str, object]) -> dict[str, object]:
    """Check an event of a watcher and return it: `name`, below the watched directory, and `type`.

    Raises:
        WireError: It is not one.
    """
    name, kind = _text(message, "name"), _text(message, "type")
    if not name or kind not in EVENT_TYPES:
        raise WireError("an event of a watcher is not one")
    return {"name": name, "type": kind}


def whole_number(value: object, *, default: int | None = None) -> int:
    """Return a whole number that may be a JSON number or a decimal string (wire contract 4.1).

    Raises:
        WireError: It is neither, or absent and there is no default.
    """
    if value is None and default is not None:
        return default
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 20:
        return int(value)
    raise WireError("a number is missing or not whole")


def _text(message: dict[str, object], key: str) -> str:
    value = message.get(key)
    return value if isinstance(value, str) else ""
