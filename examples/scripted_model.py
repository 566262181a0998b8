"""For 05_openai.py: the OpenAI client; without OPENAI_API_KEY it talks to a small server that plays the model."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from openai import OpenAI

CODE = "sum(all(n % d for d in range(2, n)) for n in range(2, 1000))"
CALL = {"id": "call_1", "type": "function", "function": {"name": "run_code", "arguments": json.dumps({"code": CODE})}}


@contextmanager
def client_and_model() -> Iterator[tuple[OpenAI, str]]:
    """Yield a client and the name of the model to use."""
    if os.environ.get("OPENAI_API_KEY"):
        with OpenAI() as client:
            yield client, os.environ.get("OPENAI_MODEL", "gpt-5-mini")
        return
    server = HTTPServer(("127.0.0.1", 0), ScriptedModel)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with OpenAI(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}/v1") as client:
            yield client, "scripted"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ScriptedModel(BaseHTTPRequestHandler):
    """Calls run_code once, then repeats what it read."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        last = request["messages"][-1]
        message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        if last["role"] == "tool":
            message = {"role": "assistant", "content": f"There are this many:\n{last['content']}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "scripted", "choices": [choice]}
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Be quiet."""
