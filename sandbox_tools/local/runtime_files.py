"""The runtime's routes for the content of files: /file and /files/* (wire contract 3.4)."""

from __future__ import annotations

import base64
import errno
import mimetypes
import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.access import is_signed
from sandbox_tools.local.channel import AgentError, ChannelError
from sandbox_tools.local.encodings import chosen_encoding, pack, upload_chunks
from sandbox_tools.local.forms import FormReader
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.tasks import bounded
from sandbox_tools.local.web import OwningResponse, RequestError, json_response, read_json
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.files import DEFAULT_WORKSPACE, Entry, entry_from_json, rest_entry_to_json, whole_number
from sandbox_tools.wire.process import decode_base64

MAX_BATCH_FILES: Final = 1000
MAX_BATCH_BYTES: Final = 16 << 20
"""Of JSON that carries files: it is held in memory. Bigger files go raw or as a form, which stream."""

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
    """`GET /file`: send a file; `Range` for a part of it."""
    return await _send(request, sandbox, may_pack=False)


async def download(request: Request, sandbox: Sandbox) -> Response:
    """`GET /files`: like /file, and gzip for who asks for it and for no range."""
    return await _send(request, sandbox, may_pack="range" not in request.headers)


async def write(request: Request, sandbox: Sandbox) -> Response:
    """`POST /file`: the body is the file."""
    await _store(sandbox, {"path": _query_path(request)}, upload_chunks(request))
    return Response(status_code=204)


async def write_files(request: Request, sandbox: Sandbox) -> Response:
    """`POST /files`: the body is the file, or JSON with a path and text, or a form with files."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        written = await _store_form(request, sandbox)
    elif content_type == "application/json" and not is_signed(request):
        message = await read_json(request, MAX_BATCH_BYTES)
        path = checked_path(message.get("path"))
        written = [await _store(sandbox, {"path": path}, _once(_content_of(message)))]
    elif content_type in ("application/octet-stream", ""):
        written = [await _store(sandbox, {"path": _query_path(request)}, upload_chunks(request))]
    else:
        signed = " (a signed URL takes no JSON)" if is_signed(request) else ""
        raise RequestError(400, f"send application/octet-stream, multipart/form-data or application/json{signed}")
    return json_response([rest_entry_to_json(told_entry(answer.get("entry"))) for answer in written])


async def write_batch(request: Request, sandbox: Sandbox) -> Response:
    """`POST /files/batch`: several small files; not atomic as a whole."""
    files = (await read_json(request, MAX_BATCH_BYTES)).get("files")
    if not isinstance(files, list) or len(files) > MAX_BATCH_FILES or not all(isinstance(file, dict) for file in files):
        raise RequestError(400, f"files must be a list of at most {MAX_BATCH_FILES} objects")
    written = []
    for file in files:
        path, content = checked_path(file.get("path")), _content_of(file)
        mode = None if file.get("mode") is None else whole_number(file["mode"]) & 0o7777
        await _store(sandbox, {"path": path, "mode": mode}, _once(content))
        written.append({"path": path, "bytes_written": len(content)})
    return json_response({"files": written})


async def compose(request: Request, sandbox: Sandbox) -> Response:
    """`POST /files/compose`: concatenate files, then delete the sources."""
    message = await read_json(request)
    sources = message.get("source_paths")
    if not isinstance(sources, list) or not 0 < len(sources) <= MAX_BATCH_FILES:
        raise RequestError(400, f"source_paths must be a list of 1 to {MAX_BATCH_FILES} paths")
    path = checked_path(message.get("destination"))
    fields = {"sources": [checked_path(source) for source in sources], "path": path}
    answer = await run_task(sandbox, "compose", fields)
    return json_response(rest_entry_to_json(told_entry(answer.get("entry"))))


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
    if mime_type.startswith("image/"):
        if not whole:
            raise RequestError(413, f"the image is larger than {MAX_CONTENT_BYTES} bytes")
        return json_response({"type": "image", "mime_type": mime_type, "data": base64.b64encode(data).decode()})
    text = data.decode("utf-8", "replace")
    shown = text[: max(limit, 0) * _CHARACTERS_PER_TOKEN]
    return json_response({"type": "text", "content": shown, "truncated": not whole or len(shown) < len(text)})


async def run_task(sandbox: Sandbox, name: str, fields: Mapping[str, object]) -> dict[str, object]:
    """Return the one line that a task answers."""
    async with sandbox.task(name, fields) as answer:
        return await answer.header()


def told_entry(entry: object) -> Entry:
    """Return an entry that a sandbox told.

    Raises:
        ChannelError: It is none.
    """
    try:
        return entry_from_json(entry)
    except WireError as error:
        raise ChannelError(str(error)) from None


def checked_path(path: object) -> str:
    """Return what can be a path, as an absolute one; the sandbox itself says whether it is one.

    `~` and relative paths start at the workspace (wire contract 3.3).

    Raises:
        RequestError: It is missing, empty, or holds a NUL.
    """
    if not isinstance(path, str) or not path:
        raise RequestError(400, "path is required")
    if "\0" in path or len(path) > 4096:
        raise RequestError(400, "path must have no NUL character and at most 4096 characters")
    if path == "~" or path.startswith("~/"):
        path = DEFAULT_WORKSPACE + path[1:]
    return path if path.startswith("/") else f"{DEFAULT_WORKSPACE}/{path}"


async def _send(request: Request, sandbox: Sandbox, *, may_pack: bool) -> Response:
    path = _query_path(request)
    offset, length = _range(request)
    packed = chosen_encoding(",".join(request.headers.getlist("accept-encoding")), may_pack=may_pack) == "gzip"
    stack = AsyncExitStack()
    try:
        fields = {"path": path, "offset": offset, "length": length}
        answer = await stack.enter_async_context(sandbox.task("read", fields))
        header = await answer.header()
        size, start, count = (bounded(header, name, 1 << 62) for name in ("size", "offset", "count"))
    except BaseException:
        await stack.aclose()
        raise
    ranged = "range" in request.headers
    headers = _headers(path, may_pack=may_pack)
    headers |= {"Content-Encoding": "gzip"} if packed else {"Content-Length": str(count)}
    if ranged:
        headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}" if count else f"bytes */{size}"
    return OwningResponse(
        pack(answer.content(count)) if packed else answer.content(count),
        owned=stack,
        status_code=200 if not ranged else 206 if count else 416,
        headers=headers,
        media_type="application/octet-stream",
    )


def _headers(path: str, *, may_pack: bool) -> dict[str, str]:
    """A browser may follow a signed URL: it gets a file to save, never a page of this service's origin."""
    name = quote(path.rstrip("/").rpartition("/")[2], safe="", errors="replace")
    return {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"inline; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
        **({"Vary": "Accept-Encoding"} if may_pack else {}),
    }


async def _store(sandbox: Sandbox, fields: Mapping[str, object], chunks: AsyncIterable[bytes]) -> dict[str, object]:
    """Write a file and return the task's answer. When the chunks end with an exception, the old file stays."""
    async with sandbox.upload(fields) as upload:
        async for chunk in chunks:
            await upload.write(chunk)
        return await upload.commit()


async def _store_form(request: Request, sandbox: Sandbox) -> list[dict[str, object]]:
    """Write every part named `file`; not atomic as a whole.

    `?path=` is a directory when it is one or ends with "/", and else the file itself (wire contract, quirk 40).
    Without it the file's name is its path.
    """
    form = FormReader(upload_chunks(request), request.headers["content-type"])
    written: list[dict[str, object]] = []
    async for part in form.parts():
        if part.name != "file":
            continue
        if any(answer.get("below") is False for answer in written) and "path" in request.query_params:
            raise RequestError(400, "path names one file, and the form has several")
        written.append(await _store(sandbox, _form_target(request, part.filename), form.content()))
    if not written:
        raise RequestError(400, "the form has no part named 'file'")
    return written


def _form_target(request: Request, filename: str | None) -> dict[str, object]:
    if filename is not None and (".." in filename.split("/") or "\0" in filename):
        raise RequestError(400, "the name of a file in the form must not lead upwards")
    path = request.query_params.get("path")
    if not path:
        return {"path": checked_path(filename)}
    return {"path": checked_path(path), "name": filename and filename.lstrip("/")}


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


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
    return checked_path(request.query_params.get("path"))
