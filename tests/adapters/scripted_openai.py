"""A server that speaks as much of the OpenAI API as the real client needs, and answers from a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Turn = str | Sequence[tuple[str, str]]
"""What the model says: a text, or calls of (tool name, arguments as the model wrote them)."""


class ScriptedOpenAI:
    """Answers each request with the next turn; keeps the requests."""

    def __init__(self, *turns: Turn) -> None:
        self.turns = list(turns)
        self.requests: list[dict[str, Any]] = []
        self.base_url = ""

    @contextmanager
    def serve(self) -> Iterator[ScriptedOpenAI]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.base_url = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, path: str, request: dict[str, Any]) -> tuple[str, bytes]:
        self.requests.append(request)
        turn, number = self.turns.pop(0), len(self.requests)
        if path.endswith("/responses"):
            response = _response(turn, number)
            return _sse(_response_events(response), named=True) if request.get("stream") else _json(response)
        completion = _completion(turn, number)
        return _sse(_chunks(completion), named=False) if request.get("stream") else _json(completion)


def _handler(script: ScriptedOpenAI) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content_type, body = script.answer(self.path, request)
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _json(value: object) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


def _sse(events: Sequence[dict[str, Any]], *, named: bool) -> tuple[str, bytes]:
    lines = [(f"event: {event['type']}\n" if named else "") + f"data: {json.dumps(event)}\n\n" for event in events]
    return "text/event-stream", "".join([*lines, "" if named else "data: [DONE]\n\n"]).encode()


def _completion(turn: Turn, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    if isinstance(turn, str):
        message["content"] = turn
    else:
        message["tool_calls"] = [
            {"id": f"call_{number}_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(turn)
        ]
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {"id": f"c{number}", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def _chunks(completion: dict[str, Any]) -> list[dict[str, Any]]:
    message = completion["choices"][0]["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": message["content"]}]
    for i, call in enumerate(message.get("tool_calls", ())):
        function, arguments = call["function"], call["function"]["arguments"]
        deltas.append({"tool_calls": [{**call, "index": i, "function": {**function, "arguments": ""}}]})
        half = len(arguments) // 2
        deltas += [
            {"tool_calls": [{"index": i, "function": {"arguments": part}}]}
            for part in (arguments[:half], arguments[half:])
        ]
    base = {**completion, "object": "chat.completion.chunk"}
    chunks = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    return [*chunks, {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]


def _response(turn: Turn, number: int) -> dict[str, Any]:
    output: list[dict[str, Any]]
    if isinstance(turn, str):
        text = {"type": "output_text", "text": turn, "annotations": []}
        output = [{"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [text]}]
    else:
        output = [
            {
                "id": f"f{number}_{i}",
                "type": "function_call",
                "call_id": f"call_{number}_{i}",
                "name": name,
                "arguments": arguments,
                "status": "completed",
            }
            for i, (name, arguments) in enumerate(turn)
        ]
    return {
        "id": f"r{number}",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "m",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def _response_events(response: dict[str, Any]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"type": "response.created", "response": {**response, "output": []}}]
    for i, item in enumerate(response["output"]):
        events += _item_events(i, item)
    events.append({"type": "response.completed", "response": response})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _item_events(index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    at: dict[str, Any] = {"output_index": index, "item_id": item["id"]}
    done = {"type": "response.output_item.done", "output_index": index, "item": item}
    added = {"type": "response.output_item.added", "output_index": index}
    if item["type"] == "message":
        part = item["content"][0]
        at["content_index"] = 0
        return [
            {**added, "item": {**item, "content": []}},
            {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
            {"type": "response.output_text.delta", **at, "delta": part["text"], "logprobs": []},
            {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []},
            done,
        ]
    arguments = item["arguments"]
    return [
        {**added, "item": {**item, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", **at, "delta": arguments},
        {"type": "response.function_call_arguments.done", **at, "name": item["name"], "arguments": arguments},
        done,
    ]
