"""Schemas that every provider takes (design: flat arguments, null means default)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox_tools.adapters.mcp.server import create_server
from sandbox_tools.testing import fake_toolset
from sandbox_tools.tools import CATALOGUE
from sandbox_tools.tools.base import Tool

MAX_LIST_BYTES = 8_000
"""Compact JSON of all schemas and descriptions: about 2,000 tokens of every conversation."""

REFUSED = ("oneOf", "allOf", "$ref", "$defs", "format", "minLength", "maxLength", "pattern", "uniqueItems", "title")
"""Refused by at least one provider's strict mode, or noise."""

RESERVED = {"runtime", "config", "callbacks", "run_manager"}
"""Names that LangChain fills itself."""

every_tool = pytest.mark.parametrize("tool", CATALOGUE, ids=[tool.name for tool in CATALOGUE])


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a JSON value."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(child)


@every_tool
def test_the_name_is_one_that_every_provider_takes(tool: Tool[Any]) -> None:
    assert re.fullmatch("[a-z_]{1,64}", tool.name)


@every_tool
def test_the_schema_is_closed_and_flat(tool: Tool[Any]) -> None:
    schema = tool.input_schema
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    for argument in schema["properties"].values():
        kinds = {part.get("type") for part in argument.get("anyOf", [argument])}
        assert kinds <= {"string", "integer", "number", "boolean", "null", "array"}


@every_tool
def test_nothing_is_in_the_schema_that_a_provider_refuses(tool: Tool[Any]) -> None:
    for node in nodes(tool.input_schema):
        assert not set(REFUSED) & set(node)
        assert node.get("default") is None


@every_tool
def test_every_argument_is_described_and_has_a_name_of_its_own(tool: Tool[Any]) -> None:
    properties = tool.input_schema["properties"]
    assert all(argument["description"] for argument in properties.values())
    assert not RESERVED & set(properties)


async def test_the_whole_list_is_small() -> None:
    entry = create_server(fake_toolset()).get_request_handler("tools/list")
    assert entry is not None
    listed: Any = await entry.handler(None, None)  # type: ignore[arg-type]  # it uses neither
    tools = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed.tools]
    assert len(json.dumps(tools, separators=(",", ":"))) <= MAX_LIST_BYTES
