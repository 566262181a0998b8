"""The commands, thin: each one calls the part of the package that does it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sandbox_tools.cli.sandbox import Form
from sandbox_tools.cli.sandbox import app as sandbox_app

app = typer.Typer(
    help="A computer of its own for an LLM agent: sandbox tools for MCP, LangChain and OpenAI.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(sandbox_app, name="sandbox")


_Internet = Annotated[bool, typer.Option("--internet", help="Let the sandbox reach the internet.")]
_MinIsolation = Annotated[
    str | None,
    typer.Option(
        envvar="SANDBOX_TOOLS_MIN_ISOLATION",
        help="The least isolation of a sandbox on this machine: namespaces (default), or landlock, which is weaker.",
    ),
]
_Secret = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[@HOST]",
        help="Variable of this environment that commands may use without the model seeing its value; with a host: "
        "without the sandbox seeing it either, in requests for http://HOST. Repeatable.",
    ),
]
_Env = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[:public]",
        help="Variable of this environment to set in sandboxes. One named like a secret is redacted, unless it is said "
        "to be public. Repeatable.",
    ),
]
_ShowUnknown = Annotated[
    bool,
    typer.Option(
        "--show-unknown-tokens", help="Show what only looks like a token in output, and is registered nowhere."
    ),
]


@app.command()
def mcp(
    *,
    internet: _Internet = False,
    min_isolation: _MinIsolation = None,
    secret: _Secret = None,
    env: _Env = None,
    show_unknown_tokens: _ShowUnknown = False,
    private_previews: Annotated[
        bool, typer.Option("--private-previews", help="Only a browser on this machine can open previews.")
    ] = False,
) -> None:
    """Serve the tools over MCP on stdin and stdout."""
    from sandbox_tools.adapters.mcp.stdio import main  # noqa: PLC0415 - heavy, only for this command

    main(
        internet=internet,
        min_isolation=min_isolation,
        private_previews=private_previews,
        redact_unknown_tokens=not show_unknown_tokens,
        secrets=secret or (),
        envs=env or (),
    )


@app.command()
def mcp_http(
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback needs a TLS proxy.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8931,
    tokens_file: Annotated[
        Path | None, typer.Option(help="Who may call, one `name token` a line; default: one new token, in a file.")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(help="How users reach this server through a TLS proxy: https://sandbox.example.com")
    ] = None,
    internet: _Internet = False,
    min_isolation: _MinIsolation = None,
    show_unknown_tokens: _ShowUnknown = False,
) -> None:
    """Serve the tools over MCP on HTTP, to several callers with sandboxes of their own."""
    from sandbox_tools.cli.mcp_http import run_mcp_http  # noqa: PLC0415 - heavy, only for this command

    run_mcp_http(
        host=host,
        port=port,
        tokens_file=tokens_file,
        public_url=public_url,
        internet=internet,
        min_isolation=min_isolation,
        redact_unknown_tokens=not show_unknown_tokens,
    )


@app.command()
def local(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with the API key to accept; default: SEACLOUD_API_KEY, else a new one.")
    ] = None,
    min_isolation: _MinIsolation = None,
    child: Annotated[
        bool, typer.Option("--child", hidden=True, help="Read the key from stdin, and stop at its end.")
    ] = False,
) -> None:
    """Run the local sandbox service and print its base URL."""
    if sys.platform != "linux":
        _say("The local sandbox needs Linux: use WSL 2, a virtual machine, or set SEACLOUD_API_KEY.")
        raise typer.Exit(2)
    from sandbox_tools.cli.local import run_local  # noqa: PLC0415 - heavy, and only Linux has what it needs

    run_local(port=port, api_key_file=api_key_file, min_isolation=min_isolation, child=child)


@app.command()
def call(
    tool: Annotated[str, typer.Argument(help="Name of the tool, such as exec.")],
    arguments: Annotated[str, typer.Argument(help='Its arguments as JSON, such as \'{"command": "ls"}\'.')] = "{}",
    *,
    internet: _Internet = False,
    min_isolation: _MinIsolation = None,
    secret: _Secret = None,
    env: _Env = None,
    show_unknown_tokens: _ShowUnknown = False,
) -> None:
    """Call one tool in a new sandbox and print exactly the text that a model would read."""
    from sandbox_tools.blocking import BlockingToolset  # noqa: PLC0415 - heavy, only for this command
    from sandbox_tools.errors import SandboxToolsError  # noqa: PLC0415

    parsed = _json_object(arguments)
    try:
        with BlockingToolset.open(
            internet=internet,
            min_isolation=min_isolation,
            secrets=secret or (),
            envs=env or (),
            redact_unknown_tokens=not show_unknown_tokens,
            on_notice=_say,
        ) as tools:
            result = tools.call(tool, parsed)
    except SandboxToolsError as exc:
        _say(str(exc))
        raise typer.Exit(2) from None
    sys.stdout.buffer.write(result.text.encode("utf-8", "replace") + b"\n")
    sys.stdout.flush()
    raise typer.Exit(1 if result.is_error else 0)


@app.command()
def doctor(
    output: Annotated[Form, typer.Option("--output", "-o", help="How to print the report.")] = Form.table,
    leaks: Annotated[
        bool, typer.Option("--leaks", help="Send a canary through every channel of a new sandbox, and look for it.")
    ] = False,
) -> None:
    """Say where tools would run, and whether this machine can isolate a local sandbox."""
    if leaks:
        from sandbox_tools.cli.doctor_leaks import run_leak_check  # noqa: PLC0415 - heavy, only for this command

        raise typer.Exit(run_leak_check(as_json=output is Form.json))
    from sandbox_tools.cli.doctor import run_doctor  # noqa: PLC0415 - heavy, only for this command

    raise typer.Exit(run_doctor(as_json=output is Form.json))


@app.command()
def demo() -> None:
    """Show the whole main job: an MCP client, the tools, a real sandbox, and an attempt to steal its secrets."""
    from sandbox_tools.cli.demo import run_demo  # noqa: PLC0415 - heavy, only for this command

    raise typer.Exit(run_demo())


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter('The arguments must be one JSON object, such as \'{"command": "ls"}\'.')
    return value


def _say(text: str) -> None:
    """stdout belongs to the result; everything else goes to stderr."""
    print(f"sandbox-tools: {text}", file=sys.stderr)  # noqa: T201
