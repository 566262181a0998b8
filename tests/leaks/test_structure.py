"""What is not there cannot leak: nothing of the host is in a sandbox, and results have only the fields they need."""

from __future__ import annotations

import dataclasses
import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import ToolCall
from mcp import Client

from sandbox_tools import BlockingToolset, ToolResult, Toolset
from sandbox_tools.adapters.langchain import SandboxToolkit
from sandbox_tools.adapters.mcp import create_server
from sandbox_tools.adapters.openai import arun_tool_calls
from sandbox_tools.redaction import Redactor, Registry, default_registry
from sandbox_tools.runtime import CodeResult, RichResult
from sandbox_tools.testing import FakeRuntime, fake_toolset

HOST_NAME = f"HOST_{secrets.token_hex(8)}"
HOST_VALUE = f"host-{secrets.token_hex(16)}"

SCAN = """
import json, os, sys

mounts = {line.split()[4] for line in open("/proc/self/mountinfo")}
wanted = [bytes(byte ^ 90 for byte in bytes.fromhex(word)) for word in sys.argv[1:]]
found = [[] for _ in wanted]
paths = [f"/proc/{pid}/{name}" for pid in os.listdir("/proc") if pid.isdigit() for name in ("environ", "cmdline")]
for top in ("/root", "/tmp", "/etc", "/run", "/var", "/dev/shm"):
    for folder, below, names in os.walk(top):
        below[:] = [name for name in below if os.path.join(folder, name) not in mounts]  # such as a whole Python
        paths += [os.path.join(folder, name) for name in names]
for path in paths:
    try:
        with open(path, "rb") as file:
            data = path.encode() + file.read(1 << 20)
    except OSError:
        continue
    for places, word in zip(found, wanted):
        if word in data:
            places.append(path)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state-of-the-host")


@pytest.fixture(scope="module")
def tools(host: Path) -> Iterator[BlockingToolset]:
    """A real sandbox of a process with a secret in its environment."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("SEACLOUD_API_KEY", raising=False)
        environment.setenv(HOST_NAME, HOST_VALUE)
        environment.setenv("XDG_STATE_HOME", str(host))
        with BlockingToolset.open() as toolset:
            yield toolset


def hidden(word: str) -> str:
    """Write a word so that the scan finds it, and not the command line of the scan."""
    return bytes(byte ^ 90 for byte in word.encode()).hex()


def test_no_token_and_nothing_of_the_hosts_environment_is_in_a_sandbox(tools: BlockingToolset) -> None:
    """The scan sees what a process has in its environment, and a file: it is looked for as well."""
    control = secrets.token_hex(16)
    tools.call("exec", {"command": f"CONTROL={control} sleep 60", "background": True})
    tools.call("write_file", {"path": "/tmp/control", "content": control})
    tools.call("write_file", {"path": "/tmp/scan.py", "content": SCAN})
    tools.call("run_code", {"code": "1"})  # its kernel is a process to look at, too
    tokens = list(default_registry()._by_value)
    words = [control, HOST_VALUE, HOST_NAME, *tokens]
    command = " ".join(["python3 /tmp/scan.py", *map(hidden, words)])
    result = tools.call("exec", {"command": command})
    assert len(tokens) >= 2  # the key of the service, and the token of the sandbox
    by_control, *others = json.loads(result.text.splitlines()[-1])
    assert "/tmp/control" in by_control
    assert any(path.endswith("/environ") for path in by_control)
    assert [places for places in others if places] == []


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("exec", {"command": "env; pwd; cat /proc/self/mounts > /dev/null"}),
    ("exec", {"command": "cat", "cwd": "/missing"}),
    ("exec", {"command": "python3 -m http.server 8000", "background": True}),
    ("process", {"action": "list"}),
    ("process", {"action": "output", "pid": 4_000_000}),
    ("run_code", {"code": "import os; os.listdir('/missing')"}),
    ("run_code", {"code": "1", "language": "bash"}),
    ("write_file", {"path": "notes/a", "content": "one\ntwo\n"}),
    ("write_file", {"path": "/proc/x", "content": "no"}),
    ("read_file", {"path": "notes/a"}),
    ("read_file", {"path": "/missing"}),
    ("edit_file", {"path": "notes/a", "old_text": "one", "new_text": "1"}),
    ("edit_file", {"path": "notes/a", "old_text": "three", "new_text": "3"}),
    ("list_files", {"path": "/root"}),
    ("list_files", {"path": "/missing"}),
    ("get_preview_url", {"port": 8000}),
    ("get_preview_url", {"port": 0}),
    ("exec", {"command": "true", "sandbox_id": "sb-of-somebody-else"}),
    ("read_file", {"path": "a", "sandbox_id": "../../x?y=z"}),
    ("no_such_tool", {"path": "/x"}),
]


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_no_path_of_the_host_no_file_url_no_query_and_no_header_is_in_a_result(
    tools: BlockingToolset, host: Path, name: str, arguments: dict[str, Any]
) -> None:
    seen = repr(tools.call(name, arguments)).replace(str(arguments.get("sandbox_id")), "")
    seen = seen.replace(sys.prefix, "")  # Python's own files are at the same path inside
    never = [str(host), str(Path.cwd()), "file://", "envd", "X-Access-Token", "X-API-Key", "signature"]
    never += [] if name == "get_preview_url" else ["http://", "https://"]
    assert [word for word in never if word.lower() in seen.lower()] == []
    assert "?" not in seen


def toolset_with_all_fields() -> Any:
    runtime = FakeRuntime(
        ports=frozenset({8000}), code_result=CodeResult(results=(RichResult(images={"image/png": b"PNG"}),))
    )
    return fake_toolset(runtime)


ALL: list[tuple[str, dict[str, Any]]] = [
    ("run_code", {"code": "plot()"}),
    ("get_preview_url", {"port": 8000}),
    ("read_file", {"path": "/missing"}),
]


def test_a_result_has_these_fields_and_no_others() -> None:
    assert {field.name for field in dataclasses.fields(ToolResult)} == {"text", "is_error", "images", "structured"}


async def test_what_a_framework_is_given_has_these_fields_and_no_others() -> None:
    """Whoever adds one decides here that a model, a trace and a checkpoint may see it."""
    toolset = toolset_with_all_fields()
    tools = {tool.name: tool for tool in SandboxToolkit(toolset=toolset, images=True).get_tools()}
    artifact: set[str] = set()
    openai: set[str] = set()
    mcp: set[str] = set()
    structured: set[str] = set()
    async with Client(create_server(toolset), mode="legacy") as client:
        for name, arguments in ALL:
            result = (await client.call_tool(name, arguments)).model_dump(exclude_none=True)
            mcp |= set(result) | {key for block in result["content"] for key in block}
            structured |= set(result.get("structured_content", {}))
            message = await tools[name].ainvoke(ToolCall(name=name, args=arguments, id="1", type="tool_call"))
            artifact |= set(message.artifact or {})
            call = {"id": "1", "function": {"name": name, "arguments": json.dumps(arguments)}}
            openai |= set((await arun_tool_calls(toolset, {"tool_calls": [call]}))[0])
    assert structured == {"url", "port", "sandbox_id"}
    assert artifact == {"is_error", "images"} | structured
    assert openai == {"role", "tool_call_id", "content"}
    assert mcp <= {"content", "structured_content", "is_error", "result_type", "type", "text", "data", "mime_type"}


async def test_a_structured_field_is_redacted() -> None:
    value = secrets.token_hex(16)
    toolset = fake_toolset(FakeRuntime(sandbox_id=value, ports=frozenset({8000})), secrets={"CANARY": value})
    result = await toolset.call("get_preview_url", {"port": 8000})
    assert result.structured is not None
    assert result.structured["sandbox_id"] == "[REDACTED:CANARY]"
    assert value not in repr(result)


async def test_an_error_hides_what_looks_like_a_token_where_output_may_keep_it() -> None:
    token = f"ghp_{secrets.token_hex(18)}"
    fake = fake_toolset(FakeRuntime(stdout=token.encode()))
    toolset = Toolset(fake._sandboxes, Redactor(Registry(), unknown_in_output=False))
    assert token in (await toolset.call("exec", {"command": "env"})).text
    failed = await toolset.call("read_file", {"path": f"/{token}"})
    assert failed.is_error
    assert "[REDACTED:unknown-token]" in failed.text


@pytest.mark.parametrize("is_told", [True, False])
async def test_what_a_user_is_told_is_redacted(is_told: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Also where nobody listens but the log. A service may say a token where a name belongs; here a URL does."""
    caplog.set_level("INFO", logger="sandbox_tools")
    key, told = secrets.token_hex(20), []
    async with Toolset.open(
        base_url=f"http://127.0.0.1:9/{key}", api_key=key, on_notice=told.append if is_told else None
    ):
        said = told if is_told else [record.getMessage() for record in caplog.records]
    assert said == ["The tools run in SeaCloud at http://127.0.0.1:9/[REDACTED:SEACLOUD_API_KEY]."]
