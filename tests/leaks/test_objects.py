"""Every object that holds a secret or can reach one: whatever is done with it in general shows no value."""

from __future__ import annotations

import copy
import pickle
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from sandbox_tools import BlockingToolset, InjectedSecret
from sandbox_tools.adapters.langchain import SandboxToolkit
from sandbox_tools.adapters.mcp import create_server
from sandbox_tools.client.control import ControlPlane, RuntimeAccess
from sandbox_tools.client.pinned import PinnedTransport
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.client.transport import Transport
from sandbox_tools.environment import secrets_of, variables_of
from sandbox_tools.local.inject import Injector
from sandbox_tools.redaction import RedactingFormatter, Redactor, Registry
from sandbox_tools.sandboxes.source import open_source
from tests.unit.test_redaction_secret import SINKS

VALUE = secrets.token_urlsafe(32)
URL = "http://127.0.0.1:9"


@contextmanager
def held(name: str) -> Iterator[Any]:
    """Give an object that has VALUE somewhere inside."""
    with ExitStack() as stack:
        yield HOLDERS[name](stack)


def toolset(stack: ExitStack) -> BlockingToolset:
    return stack.enter_context(
        BlockingToolset.open(base_url=URL, api_key=VALUE, secrets={"S": VALUE[::-1]}, envs={"MY_TOKEN": VALUE[::-1]})
    )


def handle() -> Any:
    return Registry().register("TOKEN", VALUE)


def registry() -> Registry:
    one = Registry()
    one.register("TOKEN", VALUE)
    return one


def injection() -> Any:
    return InjectedSecret(VALUE, hosts=["x.example"]).registered(Registry(), "TOKEN")


def access() -> RuntimeAccess:
    return RuntimeAccess(envd_url=URL, access_token=handle(), traffic_token=handle())


HOLDERS: dict[str, Callable[[ExitStack], Any]] = {
    "BlockingToolset": toolset,
    "Toolset": lambda stack: toolset(stack)._toolset,
    "its sandboxes": lambda stack: toolset(stack)._toolset._sandboxes,
    "its tools": lambda stack: toolset(stack).tools,
    "its result": lambda stack: toolset(stack).call("exec", {"command": VALUE, "secrets": [VALUE]}),
    "SandboxToolkit": lambda stack: SandboxToolkit(toolset=toolset(stack)),
    "a tool of LangChain": lambda stack: SandboxToolkit(toolset=toolset(stack)).get_tools()[0],
    "MCP server": lambda stack: create_server(toolset(stack)._toolset),
    "SandboxToolkit that opens": lambda stack: SandboxToolkit(secrets={"S": VALUE}, envs={"MY_TOKEN": VALUE}),
    "source": lambda stack: open_source(base_url=URL, api_key=VALUE, registry=Registry(), min_isolation=None),
    "RuntimeAccess": lambda stack: access(),
    "ControlPlane": lambda stack: ControlPlane(URL, handle(), Registry()),
    "RemoteRuntime": lambda stack: RemoteRuntime("s", access(), object()),  # type: ignore[arg-type]  # not used
    "Transport": lambda stack: Transport(URL, {"X-API-Key": handle()}),
    "PinnedTransport": lambda stack: PinnedTransport(URL, {"X-API-Key": handle()}),
    "secrets of commands": lambda stack: stack.enter_context(secrets_of(Registry(), {"S": VALUE})),
    "variables": lambda stack: stack.enter_context(variables_of(Registry(), {"A_KEY": VALUE}, on_notice=print)),
    "InjectedSecret": lambda stack: InjectedSecret(VALUE, hosts=["x.example"]),
    "Injection": lambda stack: injection(),
    "Injector": lambda stack: Injector([injection()], registry()),
    "Redactor": lambda stack: Redactor(registry()),
    "stream": lambda stack: Redactor(registry()).stream(),
    "formatter": lambda stack: RedactingFormatter(None, Redactor(registry())),  # type: ignore[arg-type]  # not used
}


@pytest.mark.parametrize("name", HOLDERS)
def test_nothing_that_prints_copies_or_serialises_it_shows_the_value(name: str) -> None:
    leaking = []
    with held(name) as holder:
        for sink, use in SINKS.items():
            try:
                shown = use(holder)
            except Exception as error:
                shown = error
            seen = f"{shown} {shown!r}"
            leaking += [sink] if VALUE in seen or VALUE[::-1] in seen else []
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with suppress(Exception):
                kept = pickle.dumps(copy.copy(holder), protocol)
                leaking += [f"pickle {protocol}"] if VALUE.encode() in kept or VALUE[::-1].encode() in kept else []
    assert leaking == []


@pytest.mark.parametrize("name", ["BlockingToolset", "Toolset"])
def test_a_toolset_says_why_it_cannot_be_pickled(name: str) -> None:
    with held(name) as holder, pytest.raises(TypeError, match=f"^{name} holds secret values and cannot"):
        pickle.dumps(holder)
