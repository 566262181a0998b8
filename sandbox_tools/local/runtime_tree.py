"""The runtime's Filesystem RPCs, apart from watchers (wire contract 4.2)."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.runtime_files import checked_path, run_task, told_entry
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.tasks import bounded
from sandbox_tools.local.web import RequestError, json_response, read_json
from sandbox_tools.wire.files import entry_to_json, whole_number

MAX_ENTRIES: Final = 10_000
"""In the answer of ListDir; more is refused, so that a client does not take a part for the whole."""

MAX_DEPTH: Final = 64


async def stat(request: Request, sandbox: Sandbox) -> Response:
    return _entry(await run_task(sandbox, "stat", {"path": await _message_path(request)}))


async def list_directory(request: Request, sandbox: Sandbox) -> Response:
    message = await read_json(request)
    depth = min(max(whole_number(message.get("depth"), default=1), 1), MAX_DEPTH)
    fields = {"path": checked_path(message.get("path")), "depth": depth, "limit": MAX_ENTRIES + 1}
    entries: list[dict[str, object]] = []
    async with sandbox.task("list", fields) as answer:
        await answer.header()
        while (item := await answer.item()) is not None:
            entries.append(entry_to_json(told_entry(item)))
            if len(entries) > MAX_ENTRIES:
                raise RequestError(400, f"more than {MAX_ENTRIES} entries; list a directory further down")
    return json_response({"entries": entries})


async def make_directory(request: Request, sandbox: Sandbox) -> Response:
    return _entry(await run_task(sandbox, "mkdir", {"path": await _message_path(request)}))


async def remove(request: Request, sandbox: Sandbox) -> Response:
    await run_task(sandbox, "remove", {"path": await _message_path(request)})
    return json_response({})


async def move(request: Request, sandbox: Sandbox) -> Response:
    message = await read_json(request)
    fields = {"path": checked_path(message.get("source")), "destination": checked_path(message.get("destination"))}
    return _entry(await run_task(sandbox, "move", fields))


async def edit(request: Request, sandbox: Sandbox) -> Response:
    """Replace a text that is in the file exactly once (the contract names no rule)."""
    message = await read_json(request)
    old, new = message.get("oldText"), message.get("newText")
    if not isinstance(old, str) or not isinstance(new, str) or not old:
        raise RequestError(400, "oldText and newText must be text, and oldText not empty")
    fields = {"path": checked_path(message.get("path")), "old": _hex(old), "new": _hex(new)}
    found = bounded(await run_task(sandbox, "edit", fields), "found", 2)
    if found != 1:
        often = "more than once" if found else "nowhere"
        raise RequestError(400, f"oldText is {often} in the file; it must be there exactly once. Nothing was changed")
    return json_response({"message": "ok"})


def _hex(text: str) -> str:
    """Of text that is no path: a sandbox without a file system of its own translates what looks like one."""
    try:
        return text.encode().hex()
    except UnicodeEncodeError:
        pass
    raise RequestError(400, "oldText and newText must be text of whole characters")


async def _message_path(request: Request) -> str:
    return checked_path((await read_json(request)).get("path"))


def _entry(answer: dict[str, object]) -> Response:
    return json_response({"entry": entry_to_json(told_entry(answer.get("entry")))})
