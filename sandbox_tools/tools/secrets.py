"""exec for a toolset whose user lets commands use secrets: one argument more, which nobody else pays for."""

from __future__ import annotations

import re
from dataclasses import replace

from pydantic import Field

from sandbox_tools.errors import ToolError
from sandbox_tools.tools.base import Output, Tool, ToolContext
from sandbox_tools.tools.command import EXEC, ExecArguments, run_command


class SecretExecArguments(ExecArguments):
    secrets: list[str] | None = Field(None, description="Secrets that this command needs, by name.")


async def run_exec_with_secrets(context: ToolContext, args: SecretExecArguments) -> Output:
    known, named = context.secret_names, args.secrets or ()
    if not set(named) <= set(known):
        raise ToolError(f"There is no such secret. The secrets are: {', '.join(known)}.")
    output = await run_command(context, args, context.secret_values(named))
    used = dict.fromkeys(re.findall(r"\$\{?(\w+)", args.command))
    forgotten = ", ".join(name for name in used if name in known and name not in named)
    note = f"\n(Not set, because the argument secrets does not name it: {forgotten})" if forgotten else ""
    return replace(output, text=output.text + note)


def exec_with_secrets(names: str) -> Tool[SecretExecArguments]:
    """Return exec with these secrets, as a model reads them."""
    return Tool(
        name=EXEC.name,
        title=EXEC.title,
        description=(
            f"{EXEC.description} To use a secret, name it in `secrets`, then write $NAME: its value is hidden from "
            f"you. The secrets are: {names}."
        ),
        arguments=SecretExecArguments,
        hints=EXEC.hints,
        run=run_exec_with_secrets,
    )
