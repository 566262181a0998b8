"""The OpenAI adapter, with the real client against a scripted server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Literal

import anyio
import pytest
from openai import OpenAI

from sandbox_tools.adapters.openai import arun_tool_calls, openai_tools, run_tool_calls
from sandbox_tools.blocking import BlockingToolset
from sandbox_tools.testing import FakeRuntime
from sandbox_tools.toolset import Toolset
from tests.adapters.conftest import PNG, until
from tests.adapters.scripted_openai import ScriptedOpenAI

EXEC = ("exec", json.dumps({"command": "ls"}))
PREVIEW = ("get_preview_url", json.dumps({"port": 8000}))
BROKEN = ("exec", '{"command": "ls')


@pytest.fixture
def model() -> Iterator[ScriptedOpenAI]:
    """Calls three tools at once, one of them with half an argument, then is done."""
    with ScriptedOpenAI([EXEC, BROKEN, PREVIEW], "all done").serve() as server:
        yield server


@pytest.fixture
def client(model: ScriptedOpenAI) -> Iterator[OpenAI]:
    with OpenAI(base_url=model.base_url, api_key="none", max_retries=0) as client:
        yield client


def expected(toolset: BlockingToolset) -> list[str]:
    return [
        toolset.call("exec", {"command": "ls"}).text,
        "The arguments of this call are not a JSON object. Send them again as one valid JSON object.",
        toolset.call("get_preview_url", {"port": 8000}).text,
    ]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_chat_completions_loop(
    client: OpenAI, model: ScriptedOpenAI, blocking: BlockingToolset, stream: bool
) -> None:
    messages: list[Any] = [{"role": "user", "content": "go"}]
    tools: list[Any] = openai_tools(blocking)
    while True:
        if stream:
            with client.chat.completions.stream(model="m", messages=messages, tools=tools) as events:
                response: Any = events.get_final_completion()
        else:
            response = client.chat.completions.create(model="m", messages=messages, tools=tools)
        answers = run_tool_calls(blocking, response)
        if not answers:
            break
        message = response.choices[0].message
        messages += [message.model_dump(exclude_none=True, exclude={"parsed"}), *answers]
    assert response.choices[0].message.content == "all done"
    sent = [message for message in model.requests[1]["messages"] if message["role"] == "tool"]
    assert [message["tool_call_id"] for message in sent] == ["call_1_0", "call_1_1", "call_1_2"]
    assert [message["content"] for message in sent] == expected(blocking)
    assert model.requests[0]["tools"] == tools


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_responses_loop(client: OpenAI, model: ScriptedOpenAI, blocking: BlockingToolset, stream: bool) -> None:
    items: list[Any] = [{"role": "user", "content": "go"}]
    tools: list[Any] = openai_tools(blocking, "responses")
    while True:
        if stream:
            with client.responses.stream(model="m", input=items, tools=tools) as events:
                events.until_done()
                response: Any = events.get_final_response()
        else:
            response = client.responses.create(model="m", input=items, tools=tools)
        answers = run_tool_calls(blocking, response)
        if not answers:
            break
        output = [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in response.output]
        items += [*output, *answers]
    assert response.output_text == "all done"
    sent = [item for item in model.requests[1]["input"] if item.get("type") == "function_call_output"]
    assert [item["call_id"] for item in sent] == ["call_1_0", "call_1_1", "call_1_2"]
    assert [item["output"] for item in sent] == expected(blocking)
    assert model.requests[0]["tools"] == tools


def chat_message(*calls: tuple[str, str]) -> dict[str, Any]:
    return {
        "role": "assistant",
        "tool_calls": [
            {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(calls)
        ],
    }


def test_plain_dicts_of_a_message_and_of_a_response_are_accepted(blocking: BlockingToolset) -> None:
    message = chat_message(EXEC)
    call = {"type": "function_call", "call_id": "call_0", "name": EXEC[0], "arguments": EXEC[1]}
    text = expected(blocking)[0]
    answer = {"role": "tool", "tool_call_id": "call_0", "content": text}
    assert run_tool_calls(blocking, message) == [answer]
    assert run_tool_calls(blocking, {"choices": [{"message": message}]}) == [answer]
    assert run_tool_calls(blocking, {"output": [{"type": "reasoning"}, call]}) == [
        {"type": "function_call_output", "call_id": "call_0", "output": text}
    ]


@pytest.mark.parametrize(
    "message",
    [{"role": "assistant", "content": "hi"}, {"output": []}, {"choices": []}],
    ids=["chat", "output", "choices"],
)
def test_an_answer_without_calls_gives_no_messages(blocking: BlockingToolset, message: dict[str, Any]) -> None:
    assert run_tool_calls(blocking, message) == []


@pytest.mark.parametrize(
    "arguments",
    ["", "null", "[1]", '"text"', "{", "nonsense", '{"a": ' * 100_000, "1" * 10_000, '{"command": "\\ud800"}', "{}"],
    ids=["empty", "null", "list", "text", "half", "nonsense", "deep", "long-number", "surrogate", "no-arguments"],
)
@pytest.mark.parametrize("name", ["exec", "no_such_tool", ""])
def test_whatever_a_model_writes_gets_a_text_as_answer(blocking: BlockingToolset, name: str, arguments: str) -> None:
    (answer,) = run_tool_calls(blocking, chat_message((name, arguments)))
    assert answer["tool_call_id"] == "call_0"
    assert isinstance(answer["content"], str)
    assert answer["content"]


def test_an_image_is_for_responses_only(blocking: BlockingToolset) -> None:
    code = json.dumps({"code": "plot()"})
    call = {"type": "function_call", "call_id": "c", "name": "run_code", "arguments": code}
    (answer,) = run_tool_calls(blocking, {"output": [call]})
    words, image = answer["output"]
    assert words["type"] == "input_text"
    assert image == {
        "type": "input_image",
        "image_url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}",
    }
    (answer,) = run_tool_calls(blocking, chat_message(("run_code", code)))
    assert answer["content"] == words["text"]


async def test_async_calls_run_in_parallel_and_answer_in_order(toolset: Toolset, runtime: FakeRuntime) -> None:
    runtime.hangs = True
    calls = [("exec", json.dumps({"command": f"sleep {i}"})) for i in range(3)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(arun_tool_calls, toolset, chat_message(*calls))
        await until(lambda: len(runtime.commands) == 3)  # none has ended
        tasks.cancel_scope.cancel()
    assert runtime.cancelled
    runtime.hangs = False
    answers = await arun_tool_calls(toolset, chat_message(EXEC, BROKEN, PREVIEW))
    assert [answer["tool_call_id"] for answer in answers] == ["call_0", "call_1", "call_2"]


async def test_the_async_form_takes_a_blocking_toolset_too(blocking: BlockingToolset) -> None:
    answers = await arun_tool_calls(blocking, chat_message(EXEC, BROKEN, PREVIEW))
    assert [answer["content"] for answer in answers] == expected(blocking)


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("strict", [False, True])
def test_strict_is_always_said(blocking: BlockingToolset, api: Literal["chat", "responses"], strict: bool) -> None:
    for tool in openai_tools(blocking, api, strict=strict):
        assert (tool["function"] if api == "chat" else tool)["strict"] is strict


def test_strict_schemas_are_what_the_openai_package_makes_of_the_same_models(blocking: BlockingToolset) -> None:
    from openai import pydantic_function_tool

    for seen, tool in zip(openai_tools(blocking, strict=True), blocking.tools, strict=True):
        theirs: Any = pydantic_function_tool(tool.arguments, name=tool.name, description=tool.description)
        assert comparable(seen) == comparable(theirs)


def comparable(value: Any) -> Any:
    """Drop titles, the docstring of the model, which the package adds, and the order of `required`."""
    if not isinstance(value, dict):
        return value
    drop = {"title", "description"} if "properties" in value else {"title"}
    kept = {key: comparable(item) for key, item in value.items() if key not in drop}
    return {**kept, "required": sorted(kept["required"])} if "required" in kept else kept
