"""LangGraph: what a graph keeps of its tools in checkpoints, and what it tells of them while it runs."""

from __future__ import annotations

import pickle
import secrets
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage

from sandbox_tools.adapters.langchain import SandboxToolkit
from sandbox_tools.runtime import CodeResult, RichResult
from sandbox_tools.testing import FakeRuntime, fake_toolset
from tests.leaks import oracle

pytest.importorskip("langgraph", reason="langgraph is not installed (it comes with the extra dev)")

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

VALUE = f"t{secrets.token_hex(16)}"

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("exec", {"command": "env"}),
    ("exec", {"command": ["not text"]}),
    ("read_file", {"path": "/f"}),
    ("read_file", {"path": "/missing"}),
    ("run_code", {"code": "plot()"}),
    ("no_such_tool", {}),
]


def scripted() -> FakeMessagesListChatModel:
    calls = [{"name": name, "args": arguments, "id": str(number)} for number, (name, arguments) in enumerate(CALLS)]
    return FakeMessagesListChatModel(responses=[AIMessage("", tool_calls=calls), AIMessage("done")])


async def test_no_checkpoint_and_no_event_of_a_graph_holds_it() -> None:
    text = f"token={VALUE}\n".encode()
    image = RichResult(text={"text/plain": VALUE}, images={"image/png": b"PNG" + text})
    runtime = FakeRuntime(stdout=text, stderr=text, files={"/f": text}, code_result=CodeResult(results=(image,)))
    toolset = fake_toolset(runtime, secrets={"CANARY": VALUE}, command_secrets={"CANARY": VALUE})
    model, saver = scripted(), InMemorySaver()

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", ask)
    graph.add_node("tools", ToolNode(SandboxToolkit(toolset=toolset, images=True).get_tools()))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    agent = graph.compile(checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "1"}}
    events = [repr(each) async for each in agent.astream_events({"messages": [HumanMessage("go")]}, config)]
    history = [state async for state in agent.aget_state_history(config)]
    kept = [pickle.dumps([dict(saver.blobs), list(saver.storage["1"].values()), list(saver.writes.values())])]
    kept += [dumps(state.values).encode() + repr(state).encode() for state in history]
    assert history[0].values["messages"][-1].content == "done"
    assert sum(part.count(b"[REDACTED:CANARY]") for part in kept) >= 3
    assert [part for part in (*kept, *(event.encode() for event in events)) if oracle.shows(part, VALUE)] == []
