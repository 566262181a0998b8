"""A secret that commands may use: the same in every adapter, and its value in none of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp import Client

from sandbox_tools.adapters.langchain import SandboxToolkit
from sandbox_tools.adapters.mcp import create_server
from sandbox_tools.adapters.openai import openai_tools
from sandbox_tools.errors import SandboxUnreachableError
from sandbox_tools.testing import FakeRuntime, fake_toolset
from sandbox_tools.toolset import Toolset
from tests.adapters.test_parity import through_chat, through_langchain, through_mcp, through_responses
from tests.leaks.test_adapters import SECRET, SPELLINGS, assert_no_secret, langchain, mcp, openai

WAYS = [through_mcp, through_langchain, through_chat, through_responses]


async def listed_by_mcp(toolset: Toolset) -> Any:
    async with Client(create_server(toolset)) as client:
        listed = await client.list_tools()
    return [tool.model_dump(mode="json") for tool in listed.tools]


async def listed_by_langchain(toolset: Toolset) -> Any:
    tools = SandboxToolkit(toolset=toolset).get_tools()
    return [[tool.name, tool.description, tool.get_input_schema().model_json_schema()] for tool in tools]


async def listed_by_openai(toolset: Toolset) -> Any:
    return openai_tools(toolset, "responses", strict=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("arguments", "given", "text"),
    [
        pytest.param({"secrets": ["CANARY"]}, {"CANARY": SECRET}, "[REDACTED:CANARY]", id="named"),
        pytest.param({"secrets": []}, {}, "[REDACTED:CANARY]", id="not-named"),
        pytest.param({"secrets": None}, {}, "[REDACTED:CANARY]", id="null"),
        pytest.param({"secrets": ["OTHER"]}, None, "There is no such secret. The secrets are: CANARY.", id="unknown"),
        pytest.param({"secrets": [SECRET]}, None, "There is no such secret. The secrets are: CANARY.", id="value"),
        pytest.param({"secrets": "CANARY"}, None, "secrets: input should be a valid list", id="no-list"),
        pytest.param({"secrets": ["CANARY"], "command": "[REDACTED:CANARY]"}, None, "Use $CANARY", id="placeholder"),
    ],
)
async def test_every_adapter_gives_it_to_the_command_that_names_it(
    way: Any, arguments: dict[str, Any], given: dict[str, str] | None, text: str
) -> None:
    runtime = FakeRuntime(stdout=SECRET.encode())
    toolset = fake_toolset(runtime, command_secrets={"CANARY": SECRET})
    said = await way(toolset, "exec", {"command": "deploy", **arguments})
    assert text in said
    assert runtime.environments == ([] if given is None else [given])
    assert_no_secret(said)


@pytest.mark.parametrize("listed", [listed_by_mcp, listed_by_langchain, listed_by_openai])
async def test_every_adapter_lists_the_name_and_not_the_value(listed: Any) -> None:
    toolset = fake_toolset(command_secrets={"CANARY": SECRET})
    text = json.dumps(await listed(toolset))
    assert "The secrets are: CANARY." in text
    assert '"secrets"' in text
    assert_no_secret(text, toolset.instructions)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("adapter", [mcp, langchain, openai])
async def test_no_adapter_shows_it(adapter: Any, spelling: str, caplog: pytest.LogCaptureFixture) -> None:
    arguments = {"command": f"echo {spelling}", "secrets": ["CANARY"], "background": True}
    runtime = FakeRuntime(stdout=spelling.encode(), stderr=spelling.encode(), hangs=True)
    toolset = fake_toolset(runtime, command_secrets={"CANARY": SECRET})
    seen = await adapter(toolset, "exec", arguments)
    seen += await adapter(toolset, "process", {"action": "list"})
    runtime.fails_with = SandboxUnreachableError(spelling)
    seen += await adapter(toolset, "exec", arguments)
    assert_no_secret(*seen, repr(toolset), caplog.text)


def test_a_toolkit_that_was_given_it_shows_it_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEACLOUD_API_KEY", raising=False)
    with SandboxToolkit(secrets={"CANARY": SECRET}, envs={"MY_TOKEN": SECRET}) as toolkit:
        tools = toolkit.get_tools()
        assert_no_secret(repr(toolkit), toolkit.model_dump(), toolkit.model_dump_json(), repr(tools))
        assert any("CANARY" in tool.description for tool in tools)
