"""A process of a careless user: everything is logged, and it breaks with a token at hand. crashing.py HOW TOKENS_FILE

It uses a real service, as SEACLOUD_BASE_URL and SEACLOUD_API_KEY say, and leaves what must not be seen in TOKENS_FILE.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox_tools.cli.output import install_redaction

HOW, TOKENS_FILE = sys.argv[1], Path(sys.argv[2])

if HOW != "is a library":
    install_redaction()

from sandbox_tools import Toolset  # noqa: E402 - as the command does it
from sandbox_tools.redaction import default_registry  # noqa: E402


class Dying:
    """Fails where nobody can catch it."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __repr__(self) -> str:
        return f"<Dying {self.token}>"

    def __del__(self) -> None:
        fail(self.token)


def fail(token: str) -> None:
    error = RuntimeError(f"token {token}")
    if sys.version_info >= (3, 11):
        error.add_note(f"a note with {token}")  # the interpreter prints it line by line
    raise error


def in_thread(token: str) -> None:
    thread = threading.Thread(target=fail, args=(token,))
    thread.start()
    thread.join()


async def in_task(token: str) -> None:
    async def fail_later() -> None:
        fail(token)

    task = asyncio.create_task(fail_later())
    await asyncio.wait([task])
    del task  # "Task exception was never retrieved"


def with_cause(token: str) -> None:
    try:
        fail(token)
    except RuntimeError as exc:
        raise ValueError("no") from exc


BREAK: dict[str, Callable[[str], Any]] = {
    "thread": in_thread,
    "task": in_task,
    "del": lambda token: Dying(token) and None,
    "bad log": lambda token: logging.getLogger("careless").error("%d", token),
    "log": lambda token: logging.getLogger("careless").warning("token %s", token, stack_info=True),
    "warning": lambda token: warnings.warn(f"token {token}", stacklevel=1),
    "print": lambda token: print("token", [token.encode()], file=sys.stderr),
    "lines": lambda token: sys.stderr.writelines(["token ", token[:9], token[9:], "\n"]),
}


async def talk(tools: Toolset) -> None:
    """Give the output of a sandbox to a model, through libraries that log what they send."""
    from mcp import Client
    from openai import AsyncOpenAI

    from sandbox_tools.adapters.mcp import create_server
    from sandbox_tools.adapters.openai import arun_tool_calls, openai_tools
    from tests.adapters.scripted_openai import ScriptedOpenAI

    async with Client(create_server(tools)) as client:
        await client.call_tool("exec", {"command": "env"})
    with ScriptedOpenAI([("exec", '{"command": "env"}')], "done").serve() as model:
        async with AsyncOpenAI(base_url=model.base_url, api_key="none") as openai:
            offered: Any = openai_tools(tools)
            response = await openai.chat.completions.create(model="m", messages=[], tools=offered)
            answers: Any = await arun_tool_calls(tools, response)
            await openai.chat.completions.create(model="m", messages=answers, tools=offered)


async def main() -> None:
    async with Toolset.open(private_previews=True, envs={"GIVEN_TOKEN": "gt-4f7a90c2e8b1d356"}) as tools:
        await tools.call("exec", {"command": "env"})
        await tools.call("run_code", {"code": "print(1); 1/0"})
        await tools.call("write_file", {"path": "/missing\0/x", "content": "x"})
        await tools.call("exec", {"command": "python3 -m http.server 8000", "background": True})
        preview = await tools.call("get_preview_url", {"port": 8000})
        print(preview.text)
        default_registry().register("TWO_LINES", "f7Qk2\nz9Lw4")
        tokens = list(default_registry()._by_value)
        TOKENS_FILE.write_text(json.dumps(tokens))
        if HOW == "is a library":
            await talk(tools)
        if HOW == "goes on":
            for name, break_ in BREAK.items():
                print(f"== {name}", file=sys.stderr)
                for token in tokens:
                    print(token)
                    await (break_(token) or asyncio.sleep(0))
        if HOW == "ends":
            with_cause(" ".join(tokens))


class Everything(logging.Formatter):
    """Prints all that a record has, not only its message."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{super().format(record)} {vars(record)}"


handler = logging.StreamHandler()
handler.setFormatter(Everything())
logging.basicConfig(level=logging.DEBUG, handlers=[handler])
asyncio.run(main(), debug=True)
