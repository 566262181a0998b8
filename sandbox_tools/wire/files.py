"""Files: entries of the Filesystem RPCs and of the REST helpers (wire contract 3.4, 4.2)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from sandbox_tools.wire.envelope import WireError

SignedOperation = Literal["read", "write"]
"""GET and POST of a signed URL (wire contract 5.3)."""

EVENT_TYPES: Final = frozenset(
    f"EVENT_TYPE_{name}" for name in ("UNSPECIFIED", "CREATE", "WRITE", "REMOVE", "RENAME", "CHMOD")
)
"""Of a watcher (wire contract 4.2)."""

WatchEventType = Literal["create", "write", "remove", "rename", "chmod", "other"]

EntryType = Literal["file", "directory", "symlink", "other"]

_TYPE_TO_WIRE: Final[dict[EntryType, str]] = {
    "file": "FILE_TYPE_FILE",
    "directory": "FILE_TYPE_DIRECTORY",
    "symlink": "FILE_TYPE_SYMLINK",
    "other": "FILE_TYPE_UNSPECIFIED",
}
_TYPE_FROM_WIRE: Final[dict[str, EntryType]] = {wire: ours for ours, wire in _TYPE_TO_WIRE.items()}

_WATCH_TYPES: Final[dict[str, WatchEventType]] = {
    "EVENT_TYPE_CREATE": "create",
    "EVENT_TYPE_WRITE": "write",
    "EVENT_TYPE_REMOVE": "remove",
    "EVENT_TYPE_RENAME": "rename",
    "EVENT_TYPE_CHMOD": "chmod",
}

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """Something happened in a watched directory.

    Attributes:
        name: Path of the entry, relative to the watched directory.
        type: What happened; "other" when the server names it differently.
    """

    name: str
    type: WatchEventType


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A small file to write, with others, in one request.

    Attributes:
        mode: Permission bits; the server's default when left out.
    """

    path: str
    data: bytes
    mode: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """A file as `/files/content` shows it: text, or an image (wire contract 3.4).

    Attributes:
        text: "" for an image.
        truncated: Whether the text is only the start of the file.
        image: Decoded image file; b"" for text.
        mime_type: Of the image; "" for text.
    """

    text: str = ""
    truncated: bool = False
    image: bytes = b""
    mime_type: str = ""


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


def entry_of_answer(message: dict[str, object]) -> Entry:
    """Read `{"entry": EntryInfo}`; raises WireError."""
    return entry_from_json(message.get("entry"))


def entries_of_answer(message: dict[str, object]) -> tuple[Entry, ...]:
    """Read `{"entries": [EntryInfo]}`; absent entries are none (Connect leaves empty lists out). Raises WireError."""
    entries = message.get("entries")
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise WireError("the entries are not a list")
    return tuple(map(entry_from_json, entries))


def batch_to_json(files: Iterable[NewFile]) -> dict[str, object]:
    """Return the body of `/files/batch`; content goes as base64, so that every byte survives."""
    return {"files": [_write_entry(file) for file in files]}


def batch_sizes_from_json(message: dict[str, object]) -> tuple[int, ...]:
    """Return `bytes_written` of each file in the answer of `/files/batch`; raises WireError."""
    files = message.get("files")
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        raise WireError("the written files are not a list of objects")
    return tuple(whole_number(file.get("bytes_written")) for file in files)


def content_from_json(message: dict[str, object]) -> FileContent:
    """Read the answer of `/files/content`; raises WireError."""
    kind = message.get("type")
    if kind == "text" and isinstance(message.get("content"), str):
        return FileContent(text=_text(message, "content"), truncated=message.get("truncated") is True)
    if kind == "image":
        return FileContent(image=_base64(message.get("data")), mime_type=_text(message, "mime_type"))
    raise WireError("the content is neither text nor an image")


def content_range(header: str) -> tuple[int, int, int | None]:
    """Return start, count and size of the file, if told, of a `Content-Range`; raises WireError."""
    match = _CONTENT_RANGE.fullmatch(header)
    if match is None:
        raise WireError("the range of a part is missing or not one")
    first, last, size = match.groups()
    count = int(last) - int(first) + 1
    if count <= 0 or (size != "*" and int(size) <= int(last)):
        raise WireError("the range of a part is not possible")
    return int(first), count, None if size == "*" else int(size)


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


def watch_event(message: object) -> WatchEvent:
    """Read an event of a watcher, as a client; raises WireError."""
    if not isinstance(message, dict):
        raise WireError("an event of a watcher is not an object")
    name = _text(message, "name")
    if not name:
        raise WireError("an event of a watcher has no name")
    return WatchEvent(name=name, type=_WATCH_TYPES.get(_text(message, "type"), "other"))


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


def _write_entry(file: NewFile) -> dict[str, object]:
    mode = {} if file.mode is None else {"mode": file.mode}
    return {"path": file.path, "data": base64.b64encode(file.data).decode(), **mode}


def _base64(value: object) -> bytes:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return base64.b64decode(value, validate=True)
    raise WireError("the data of an image is not base64")
