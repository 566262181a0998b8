"""OpenAI function calling: schemas for a request, and the answers to a model's tool calls.

For Chat Completions and for Responses, plain or streamed (pass the final message or response). Objects of the
`openai` package and plain dicts are both accepted, so the package itself is not imported.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import anyio

from sandbox_tools.blocking import BlockingToolset
from sandbox_tools.tools.base import Image, Tool
from sandbox_tools.toolset import ToolResult, Toolset

NOT_AN_OBJECT: Final = ToolResult(
    text="The arguments of this call are not a JSON object. Send them again as one valid JSON object.", is_error=True
)
"""The result of a call whose arguments cannot be read; they are not repeated."""


def openai_tools(
    toolset: Toolset | BlockingToolset, api: Literal["chat", "responses"] = "chat", *, strict: bool = False
) -> list[dict[str, Any]]:
    """Return the `tools` of a request.

    With `strict` the model is held to the schemas: it must give every argument, and null means the default.
    """
    functions = [_function(tool, strict=strict) for tool in toolset.tools]
    if api == "chat":
        return [{"type": "function", "function": function} for function in functions]
    return [{"type": "function", **function} for function in functions]


def run_tool_calls(toolset: BlockingToolset, message: Any) -> list[dict[str, Any]]:
    """Run the tool calls of a model's answer, one after the other; return the messages to send back.

    `message` is a Chat Completions response or message, or a Responses response. Every call is answered: of a
    failed one, an unknown tool or arguments that are not JSON the model reads why. No calls: an empty list.
    """
    return [
        call.answer(NOT_AN_OBJECT if call.arguments is None else toolset.call(call.name, call.arguments))
        for call in _calls(message)
    ]


async def arun_tool_calls(toolset: Toolset | BlockingToolset, message: Any) -> list[dict[str, Any]]:
    """Run the tool calls of a model's answer in parallel; otherwise like `run_tool_calls`.

    Cancelling it ends the work of all of them in the sandbox.
    """
    call_tool = toolset.acall if isinstance(toolset, BlockingToolset) else toolset.call
    calls = _calls(message)
    results = [NOT_AN_OBJECT] * len(calls)

    async def run(index: int, name: str, arguments: dict[str, object]) -> None:
        results[index] = await call_tool(name, arguments)

    async with anyio.create_task_group() as tasks:
        for index, call in enumerate(calls):
            if call.arguments is not None:
                tasks.start_soon(run, index, call.name, call.arguments)
    return [call.answer(result) for call, result in zip(calls, results, strict=True)]


def _function(tool: Tool[Any], *, strict: bool) -> dict[str, Any]:
    parameters = _strict(tool.input_schema) if strict else tool.input_schema
    # An absent `strict` makes the Responses API try strict mode on its own.
    return {"name": tool.name, "description": tool.description, "parameters": parameters, "strict": strict}


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Require every argument and drop defaults (all are null): our flat, closed schemas are then strict."""
    properties = {
        name: {key: value for key, value in argument.items() if key != "default"}
        for name, argument in schema["properties"].items()
    }
    return {**schema, "properties": properties, "required": list(properties)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call of a tool; `arguments` is None when they are not a JSON object."""

    api: Literal["chat", "responses"]
    call_id: str
    name: str
    arguments: dict[str, object] | None

    def answer(self, result: ToolResult) -> dict[str, Any]:
        if self.api == "chat":  # Chat Completions takes text only from a tool.
            return {"role": "tool", "tool_call_id": self.call_id, "content": result.text}
        return {"type": "function_call_output", "call_id": self.call_id, "output": _output(result)}


def _output(result: ToolResult) -> str | list[dict[str, str]]:
    if not result.images:
        return result.text
    return [{"type": "input_text", "text": result.text}, *map(_input_image, result.images)]


def _input_image(image: Image) -> dict[str, str]:
    data = base64.b64encode(image.data).decode()
    return {"type": "input_image", "image_url": f"data:{image.mime_type};base64,{data}"}


def _calls(message: Any) -> list[_Call]:
    """Find the calls in an answer: `output` is Responses; `choices` and `tool_calls` are Chat Completions."""
    output = _get(message, "output")
    if output is not None:
        items = (item for item in output if _get(item, "type") == "function_call")
        return [_call("responses", _get(item, "call_id"), item) for item in items]
    choices = _get(message, "choices")
    chosen = _get(choices[0], "message") if choices else message
    return [_call("chat", _get(call, "id"), _get(call, "function")) for call in _get(chosen, "tool_calls") or ()]


def _call(api: Literal["chat", "responses"], call_id: Any, function: Any) -> _Call:
    name, arguments = _get(function, "name"), _get(function, "arguments")
    return _Call(api=api, call_id=str(call_id), name=str(name), arguments=_object(arguments))


def _object(text: Any) -> dict[str, object] | None:
    """Read the arguments that a model wrote; no text at all means no arguments."""
    try:
        value = json.loads(text or "{}")
    except (TypeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
