"""A whole agent loop with the OpenAI client. Without OPENAI_API_KEY a scripted server stands in for the model."""

from __future__ import annotations

from typing import Any

from scripted_model import client_and_model

from sandbox_tools import BlockingToolset
from sandbox_tools.adapters.openai import openai_tools, run_tool_calls

QUESTION = "How many prime numbers are there below 1000? Compute it."


def main() -> None:
    with BlockingToolset.open() as toolset, client_and_model() as (client, model):
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        tools: list[Any] = openai_tools(toolset)
        while True:
            response = client.chat.completions.create(model=model, messages=messages, tools=tools)
            answers = run_tool_calls(toolset, response)
            if not answers:
                break
            messages += [response.choices[0].message, *answers]
            print("The sandbox says:", answers[0]["content"])
        print("The model says:", response.choices[0].message.content)


if __name__ == "__main__":
    main()
