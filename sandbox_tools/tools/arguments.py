"""What is wrong with the arguments of a call, in words for the model."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from sandbox_tools.tools.base import Tool


def explain_arguments(tool: Tool[Any], error: ValidationError) -> str:
    """Say what is wrong and what the tool takes; echo no value. The text is not redacted yet."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    problems = [_problem(str(each["loc"][0]) if each["loc"] else "", each["type"], each["msg"]) for each in errors]
    return f"Invalid arguments for {tool.name}: {'; '.join(problems)}. It takes: {', '.join(tool.argument_names)}."


def _problem(argument: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        # The name is the model's own text: it is only repeated when it can be nothing but a name.
        return f"unknown argument {argument}" if argument.isidentifier() and len(argument) <= 32 else "unknown argument"
    if kind == "missing":
        return f"{argument} is required"
    return f"{argument}: {message[:1].lower()}{message[1:]}"
