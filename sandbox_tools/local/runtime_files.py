"""The runtime's file routes: /file, /files, /files/* and /filesystem.Filesystem/* (wire contract 3.4, 4.2)."""

from __future__ import annotations

import base64
import errno
import mimetypes
import re
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.channel import AgentError
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.tasks import bounded
from sandbox_tools.local.web import (
    MAX_UPLOAD_BYTES,
    OwningResponse,
    RequestError,
    body_chunks,
    json_response,
    read_json,
)
from sandbox_tools.wire.files import Entry, entry_from_json, entry_to_json, rest_entry_to_json, whole_number
from sandbox_tools.wire.preview import parse_port
from sandbox_tools.wire.process import decode_base64

MAX_ENTRIES: Final = 10_000
"""In the answer of ListDir; more is refused, so that a client does not take a part for the whole."""

MAX_DEPTH: Final = 64
MAX_BATCH_FILES: Final = 1000
MAX_CONTENT_BYTES: Final = 4 << 20
"""Of a file in the answer of /files/content."""

_CHARACTERS_PER_TOKEN: Final = 4
"""How /files/content counts `max_tokens`; the contract does not say."""

_STATUS: Final = {
    errno.ENOENT: 404,
    errno.ENOSPC: 507,
    errno.EDQUOT: 507,
    errno.EFBIG: 413,
    errno.EACCES: 403,
    errno.EPERM: 403,
    errno.EROFS: 403,
    errno.EEXIST: 409,
    errno.EAGAIN: 503,
    errno.ENOMEM: 503,
}
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def file_error(error: AgentError) -> RequestError:
    """Return the answer for an errno; the text is the system's own phrase, which clients recognise."""
    return RequestError(_STATUS.get(error.number, 400), str(error))


async def read(request: Request, sandbox: Sandbox) -> Response:
    """Send a file; `Range` for a part of it."""
    offset, length = _range(request)
    stack = AsyncExitStack()
    try:
        fields = {"path": _query_path(request), "offset": offset, "length": length}
        answer = await stack.enter_async_context(sandbox.task("read", fields))
        header = await answer.header()
        size, start, count = (bounded(header, name, 1 << 62) for name in ("size", "offset", "count"))
    except BaseException:
        await stack.aclose()
        raise
    headers = {"Content-Length": str(count), "Accept-Ranges": "bytes"}
    if "range" in request.headers:
        headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}" if count else f"bytes */{size}"
    status = 200 if "range" not in request.headers else 206 if count else 416
    return OwningResponse(
        answer.content(count), owned=stack, status_code=status, headers=headers, media_type="application/octet-stream"
    )


async def write(request: Request, sandbox: Sandbox) -> Response:
    """`POST /file`: the body is the file."""
    await _store(sandbox, _query_path(request), _upload_chunks(request))
    return Response(status_code=204)


async def write_files(request: Request, sandbox: Sandbox) -> Response:
    """`POST /files`: the body is the file, or JSON with a path and text."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        message = await read_json(request)
        path = _checked_path(message.get("path"))
        await _store(sandbox, path, _once(_content_of(message)))
    elif content_type in ("application/octet-stream", ""):
        path = _query_path(request)
        await _store(sandbox, path, _upload_chunks(request))
    else:
        raise RequestError(415, "send application/octet-stream or application/json")
    return json_response([rest_entry_to_json(await _stat(sandbox, path))])


async def write_batch(request: Request, sandbox: Sandbox) -> Response:
    """`POST /files/batch`: several small files; not atomic as a whole."""
    files = (await read_json(request)).get("files")
    if not isinstance(files, list) or len(files) > MAX_BATCH_FILES or not all(isinstance(file, dict) for file in files):
        raise RequestError(400, f"files must be a list of at most {MAX_BATCH_FILES} objects")
    written = []
    for file in files:
        path, content = _checked_path(file.get("path")), _content_of(file)
        mode = None if file.get("mode") is None else whole_number(file["mode"]) & 0o7777
        await _store(sandbox, path, _once(content), mode=mode)
        written.append({"path": path, "bytes_written": len(content)})
    return json_response({"files": written})


async def compose(request: Request, sandbox: Sandbox) -> Response:
    """`POST /files/compose`: concatenate files, then delete the sources."""
    message = await read_json(request)
    sources = message.get("source_paths")
    if not isinstance(sources, list) or not sources:
        raise RequestError(400, "source_paths must be a list of paths")
    path = _checked_path(message.get("destination"))
    await _task(sandbox, "compose", {"sources": [_checked_path(source) for source in sources], "path": path})
    return json_response(rest_entry_to_json(await _stat(sandbox, path)))


async def content(request: Request, sandbox: Sandbox) -> Response:
    """`GET /files/content`: a file for a model, as text or as an image."""
    path = _query_path(request)
    limit = whole_number(request.query_params.get("max_tokens"), default=MAX_CONTENT_BYTES)
    fields = {"path": path, "offset": 0, "length": MAX_CONTENT_BYTES}
    async with sandbox.task("read", fields) as answer:
        header = await answer.header()
        data = b"".join([chunk async for chunk in answer.content(bounded(header, "count", MAX_CONTENT_BYTES))])
    whole = len(data) == bounded(header, "size", 1 << 62)
    mime_type = mimetypes.guess_type(path, strict=True)[0] or ""
    if mime_type.startswith("image/") and whole:
        return json_response({"type": "image", "mime_type": mime_type, "data": base64.b64encode(data).decode()})
    text = data.decode("utf-8", "replace")
    shown = text[: max(limit, 0) * _CHARACTERS_PER_TOKEN]
    return json_response({"type": "text", "content": shown, "truncated": not whole or len(shown) < len(text)})


async def stat(request: Request, sandbox: Sandbox) -> Response:
    return json_response({"entry": entry_to_json(await _stat(sandbox, await _message_path(request)))})


async def list_directory(request: Request, sandbox: Sandbox) -> Response:
    message = await read_json(request)
    depth = min(max(whole_number(message.get("depth"), default=1), 1), MAX_DEPTH)
    fields = {"path": _checked_path(message.get("path")), "depth": depth}
    entries: list[dict[str, object]] = []
    async with sandbox.task("list", fields) as answer:
        await answer.header()
        while line := await answer.line():
            entries.append(entry_to_json(entry_from_json(line)))
            if len(entries) > MAX_ENTRIES:
                raise RequestError(400, f"more than {MAX_ENTRIES} entries; list a directory further down")
    return json_response({"entries": entries})


async def make_directory(request: Request, sandbox: Sandbox) -> Response:
    header = await _task(sandbox, "mkdir", {"path": await _message_path(request)})
    return json_response({"entry": entry_to_json(entry_from_json(header.get("entry")))})


async def remove(request: Request, sandbox: Sandbox) -> Response:
    await _task(sandbox, "remove", {"path": await _message_path(request)})
    return json_response({})


async def move(request: Request, sandbox: Sandbox) -> Response:
    message = await read_json(request)
    fields = {"path": _checked_path(message.get("source")), "destination": _checked_path(message.get("destination"))}
    header = await _task(sandbox, "move", fields)
    return json_response({"entry": entry_to_json(entry_from_json(header.get("entry")))})


async def ports(_: Request, sandbox: Sandbox) -> Response:
    """`GET /ports`: what listens inside."""
    found: list[dict[str, object]] = []
    async with sandbox.task("ports", {}) as answer:
        await answer.header()
        while (line := await answer.line()) and len(found) < MAX_ENTRIES:
            address = "0.0.0.0" if line.get("address") in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104 - told, not bound
            found.append({"port": parse_port(line.get("port")), "protocol": "tcp", "address": address})
    return json_response(found)


async def _stat(sandbox: Sandbox, path: str) -> Entry:
    return entry_from_json((await _task(sandbox, "stat", {"path": path})).get("entry"))


async def _task(sandbox: Sandbox, name: str, fields: Mapping[str, object]) -> dict[str, object]:
    async with sandbox.task(name, fields) as answer:
        return await answer.header()


async def _store(sandbox: Sandbox, path: str, chunks: AsyncIterable[bytes], *, mode: int | None = None) -> None:
    """Write a file. When the chunks end with an exception, the old file stays."""
    async with sandbox.upload({"path": path, "mode": mode}) as upload:
        async for chunk in chunks:
            await upload.write(chunk)
        await upload.commit()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _upload_chunks(request: Request) -> AsyncIterator[bytes]:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding == "gzip":
        return _gunzip(body_chunks(request, MAX_UPLOAD_BYTES))
    if encoding != "identity":
        raise RequestError(415, "the content encoding must be gzip or identity")
    return body_chunks(request, MAX_UPLOAD_BYTES)


async def _gunzip(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Unpack piece by piece: a small body may hold a huge file, and only the file's own size limit stops that."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    size = 0
    async for chunk in chunks:
        rest = chunk
        while rest:
            try:
                data = unpacker.decompress(rest, 1 << 18)
            except zlib.error:
                raise RequestError(400, "the body is not gzip") from None
            size += len(data)
            if size > MAX_UPLOAD_BYTES:
                raise RequestError(413, f"the unpacked body is larger than {MAX_UPLOAD_BYTES} bytes")
            rest = unpacker.unconsumed_tail
            yield data
    if not unpacker.eof:
        raise RequestError(400, "the body is not whole gzip")


def _content_of(message: Mapping[str, object]) -> bytes:
    """Return the bytes of a written file: base64 in `data`, or text in `content`."""
    if message.get("data") is not None:
        return decode_base64(message["data"])
    text = message.get("content")
    if not isinstance(text, str):
        raise RequestError(400, "content must be text, or data base64")
    return text.encode("utf-8", "surrogatepass")


def _range(request: Request) -> tuple[int, int | None]:
    """Return offset (negative: from the end) and length of a single range."""
    header = request.headers.get("range")
    if header is None:
        return 0, None
    match = _RANGE.fullmatch(header.strip())
    first, last = match.groups() if match else ("", "")
    if first and last and int(last) >= int(first):
        return int(first), int(last) - int(first) + 1
    if first and not last:
        return int(first), None
    if last and not first and int(last) > 0:
        return -int(last), None
    raise RequestError(416, "the range must be one range of bytes")


def _query_path(request: Request) -> str:
    return _checked_path(request.query_params.get("path"))


async def _message_path(request: Request) -> str:
    return _checked_path((await read_json(request)).get("path"))


def _checked_path(path: object) -> str:
    """Accept what can be a path; the sandbox itself says whether it is one.

    Raises:
        RequestError: It is missing, empty, or holds a NUL.
    """
    if not isinstance(path, str) or not path:
        raise RequestError(400, "path is required")
    if "\0" in path or len(path) > 4096:
        raise RequestError(400, "path must have no NUL character and at most 4096 characters")
    return path
