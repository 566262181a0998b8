"""THE CHOKE POINT: look up -> validate -> run -> redact -> budget -> ToolResult.

Every adapter calls tools through here and nowhere else. `Toolset.call` never raises for a failed tool: an exception
would reach a framework with its `__context__`, past the redactor.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from pydantic import ValidationError

from sandbox_tools.collect import FilePage, ProcessOutput
from sandbox_tools.environment import Environment, Given, GivenSecrets, secrets_of, variables_of
from sandbox_tools.errors import ConfigurationError, SandboxRequestError, SandboxToolsError, ToolError
from sandbox_tools.injection import Injection
from sandbox_tools.output import DEFAULT_MAX_CHARS, fit
from sandbox_tools.redaction import Redactor, Secret, default_registry
from sandbox_tools.redaction.blobs import is_clean
from sandbox_tools.redaction.secret import Opaque
from sandbox_tools.runtime import Runtime
from sandbox_tools.sandboxes import (
    DEFAULT_TEMPLATE,
    DEFAULT_TTL_S,
    PreviewSite,
    Sandboxes,
    SandboxOptions,
    SandboxSource,
    open_source,
)
from sandbox_tools.tools import catalogue
from sandbox_tools.tools.arguments import explain_arguments
from sandbox_tools.tools.base import Image, Output, SandboxArguments, Tool, ToolArguments
from sandbox_tools.tools.kept import KeptProcesses

_LOG: Final = logging.getLogger(__name__)

MIN_OUTPUT_CHARS: Final = 1_000
"""Room for what every result must say, whatever was left out of it."""

INSTRUCTIONS: Final = (
    "These tools use a sandbox: an isolated Linux computer of your own, created on the first call and kept until the "
    "session ends. Work in /root/workspace. Files and background processes persist between calls; run_code also "
    "keeps Python variables. Start servers with exec, background=true, then call get_preview_url. Long output is "
    "shown with its middle left out: write it to a file and read the part that you need. Text of the form "
    "[REDACTED:NAME] stands for a secret that is hidden from you."
)
"""What a model should know of all tools together; MCP clients show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """The outcome of one tool call: redacted, within the output budget.

    Attributes:
        text: What the model reads. Always there.
        is_error: The tool failed. A non-zero exit code, or an exception in user code, is not a failure of the tool.
        images: What the model sees, beside the text.
        structured: A small, complete record where the tool has one (get_preview_url), else None.
    """

    text: str
    is_error: bool = False
    images: tuple[Image, ...] = ()
    structured: Mapping[str, str | int | bool | None] | None = None


class SandboxProvider(Protocol):
    """Gives calls the sandbox that they use; `sandboxes.Sandboxes`, and a fake in `testing`."""

    @property
    def where(self) -> str: ...

    def use(self, sandbox_id: str | None) -> AbstractAsyncContextManager[Runtime]:
        """Give a runtime for one call. What fails in it because the sandbox is gone is raised as a ToolError."""
        ...


class Toolset(Opaque):
    """The tools of one principal, and the sandbox that they use. Open it with `Toolset.open`."""

    def __init__(
        self,
        sandboxes: SandboxProvider,
        redactor: Redactor,
        *,
        internet: bool = False,
        max_output_chars: int = DEFAULT_MAX_CHARS,
        secrets: Environment | None = None,
    ) -> None:
        self._sandboxes = sandboxes
        self._internet = internet
        self._max_output_chars = max_output_chars
        self._secrets = secrets or Environment()
        self._kept = KeptProcesses()
        self._by_name = {tool.name: tool for tool in catalogue(str(self._secrets))}
        self.redactor: Final = redactor

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        template: str | None = None,
        ttl_s: int = DEFAULT_TTL_S,
        internet: bool = False,
        max_output_chars: int = DEFAULT_MAX_CHARS,
        min_isolation: str | None = None,
        adopt: bool = True,
        private_previews: bool = False,
        preview_site: PreviewSite | None = None,
        redact_unknown_tokens: bool = True,
        secrets: GivenSecrets | None = None,
        envs: Given | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> AsyncIterator[Toolset]:
        """Open a toolset; leaving it deletes the sandboxes that it created.

        With an API key the sandboxes are SeaCloud's. Without one they run on this machine, isolated; that server is
        started on the first tool call.

        Args:
            base_url: API root; default `SEACLOUD_BASE_URL`.
            api_key: Default `SEACLOUD_API_KEY`.
            template: What a sandbox is made from; default `code-interpreter`, the one that can run code.
            ttl_s: Time to live of a sandbox, in seconds; extended while it is used.
            internet: Let sandboxes reach the internet; otherwise they reach nothing, in SeaCloud as well.
            max_output_chars: Characters of text in one result, at most.
            min_isolation: The least that a sandbox on this machine must have, `namespaces` or the weaker `landlock`;
                default `SANDBOX_TOOLS_MIN_ISOLATION`, else `namespaces`.
            adopt: Let a call name, with `sandbox_id`, a sandbox of the account that this toolset did not create.
            private_previews: Previews need a token. `get_preview_url` then returns a URL of a proxy on this machine
                that adds it, so that the user's browser, and nobody else's, can open the preview.
            preview_site: Where private previews are served instead, such as by an HTTP server.
            redact_unknown_tokens: Replace also what only looks like a token in what a sandbox prints. In errors and
                logs that is always done.
            secrets: What commands may use without the model seeing it: values by name, or names of variables of this
                process. A command that names one has it as a variable of its environment, and nothing else has. Of an
                `InjectedSecret`, or of what is named `NAME@HOST`, it has a placeholder only.
            envs: Variables of every process in the sandboxes that this toolset creates, given likewise. All code there
                can read them; those whose names say that they are secret (`..._TOKEN`, `..._KEY` ...) are redacted, but
                for a `PublicValue`, or what is named `NAME:public`.
            on_notice: Told where the tools run, and of a variable that cannot be redacted; default: the log, at INFO.

        Raises:
            ConfigurationError: A setting is missing or cannot be used.
            WeakSecretError: A secret is too short or too common to be redacted; the message says why.
        """
        if max_output_chars < MIN_OUTPUT_CHARS:
            raise ConfigurationError(f"max_output_chars must be at least {MIN_OUTPUT_CHARS}.")
        registry = default_registry()
        notice = _redacted(on_notice or _LOG.info, Redactor(registry))
        problem: SandboxToolsError | None = None
        with ExitStack() as stack:
            try:
                source = open_source(base_url=base_url, api_key=api_key, registry=registry, min_isolation=min_isolation)
                notice(f"The tools run in {source.where}.")
                for_commands = stack.enter_context(secrets_of(registry, secrets))
                for_all = stack.enter_context(variables_of(registry, envs, on_notice=notice))
            except SandboxToolsError as exc:
                problem = exc.with_traceback(None)
            del api_key, secrets, envs  # a traceback shows the variables of its frames, so it begins here
            if problem is not None:
                raise problem
            _refuse_key(source.api_key, for_commands, for_all)
            source = _with_injections(replace(source, adopt=adopt), for_commands.injections, internet=internet)
            options = SandboxOptions(
                template=template or DEFAULT_TEMPLATE,
                ttl_s=ttl_s,
                internet=internet,
                private_previews=private_previews,
                envs=for_all,
            )
            async with Sandboxes.open(source, options, on_notice=notice, preview_site=preview_site) as sandboxes:
                yield cls(
                    sandboxes,
                    Redactor(registry, unknown_in_output=redact_unknown_tokens),
                    internet=internet,
                    max_output_chars=max_output_chars,
                    secrets=for_commands,
                )

    @property
    def tools(self) -> tuple[Tool[Any], ...]:
        """The catalogue, in the order in which to list it."""
        return tuple(self._by_name.values())

    @property
    def instructions(self) -> str:
        """What a model should know of all tools together."""
        reach = "The sandbox can reach the internet." if self._internet else "The sandbox has no internet access."
        names = str(self._secrets)
        secrets = f" exec can use secrets of the user that are hidden from you: {names}." if names else ""
        return f"{INSTRUCTIONS} {reach}{secrets}"

    @property
    def where(self) -> str:
        """Where the tools run, for people."""
        return self._sandboxes.where

    async def call(self, name: str, arguments: Mapping[str, object]) -> ToolResult:
        """Run one tool. Never raises for a failed tool; cancelling it ends its work in the sandbox.

        Args:
            name: Of a tool in `tools`.
            arguments: As a model sent them; null means default.
        """
        output = await self._output(name, arguments)
        return self._finish(output)

    async def _output(self, name: str, arguments: Mapping[str, object]) -> Output:
        """Run the tool; what goes wrong becomes text for the model."""
        try:
            tool = self._by_name.get(name)
            if tool is None:
                return _failed(f"There is no such tool. The tools are: {', '.join(self._by_name)}.")
            return await self._run(tool, _validated(tool, arguments))
        except ToolError as exc:
            return _failed(str(exc))
        except SandboxRequestError as exc:
            return _failed(_advice(exc))
        except SandboxToolsError as exc:
            return _failed(str(exc))
        except Exception as exc:  # noqa: BLE001 - the boundary: whatever it is, its text stays here
            _LOG.error("tool %s failed: %s", name if name in self._by_name else "?", type(exc).__name__)
            return _failed(f"The tool failed for a reason of its own ({type(exc).__name__}). Try again.")

    async def _run(self, tool: Tool[Any], arguments: ToolArguments) -> Output:
        sandbox_id = arguments.sandbox_id if isinstance(arguments, SandboxArguments) else None
        async with self._sandboxes.use(sandbox_id) as runtime:
            context = _Context(runtime, self.redactor, self._max_output_chars, self._kept, self._secrets)
            output = await tool.run(context, arguments)
        return output  # noqa: RET504 - to a type checker, any context manager may swallow what is raised

    def _finish(self, output: Output) -> ToolResult:
        """Redact, then budget."""
        # Half of a surrogate pair cannot be sent by any adapter.
        redact = self.redactor.text if output.is_error else self.redactor.output
        text = redact(output.text).encode("utf-8", "replace").decode()
        images = tuple(image for image in output.images if is_clean(self.redactor, image.data))
        if withheld := len(output.images) - len(images):
            text += f"\n(Withheld: {withheld} of {len(output.images)} images, for a secret or what cannot be searched.)"
        structured = self.redactor.walk(output.structured)
        return ToolResult(
            text=fit(text, self._max_output_chars),
            is_error=output.is_error,
            images=images,
            structured=structured if isinstance(structured, dict) else None,
        )


@dataclass(frozen=True, slots=True)
class _Context:
    """Implements `tools.base.ToolContext`."""

    runtime: Runtime
    redactor: Redactor
    max_chars: int
    kept: KeptProcesses
    secrets: Environment

    @property
    def secret_names(self) -> tuple[str, ...]:
        return self.secrets.names

    def secret_values(self, names: Sequence[str]) -> Mapping[str, str]:
        return self.secrets.values(names)

    def find_placeholder(self, text: str) -> str | None:
        return self.redactor.find_placeholder(text)

    def collect_output(self) -> ProcessOutput:
        return ProcessOutput(self.redactor, self.max_chars)

    def redact(self, text: str) -> str:
        return self.redactor.output(text)

    def redact_start(self, text: str) -> str:
        # A stream gives what is certain; what it holds back may be a part of a secret.
        return self.redactor.stream().feed(text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")

    def collect_page(self, *, first: int, limit: int | None) -> FilePage:
        return FilePage(self.redactor, self.max_chars, first=first, limit=limit)


def _redacted(tell: Callable[[str], None], redactor: Redactor) -> Callable[[str], None]:
    """A service could say a token where the name of something belongs."""
    return lambda text: tell(redactor.text(text))


def _refuse_key(api_key: Secret | None, *environments: Environment) -> None:
    """Our own credential never enters a sandbox, not even when a user gives it to one."""
    if api_key is not None and any(environment.holds(api_key) for environment in environments):
        raise ConfigurationError("The API key of the sandboxes must not be in one. Leave it out of secrets and envs.")


def _with_injections(source: SandboxSource, injections: tuple[Injection, ...], *, internet: bool) -> SandboxSource:
    if injections and source.base_url is not None:
        raise ConfigurationError("An InjectedSecret needs the proxy of a sandbox on this machine; SeaCloud has none.")
    if injections and not internet:
        raise ConfigurationError("An InjectedSecret needs internet=True: its hosts could not be reached.")
    return replace(source, injections=injections)


def _validated(tool: Tool[Any], arguments: Mapping[str, object]) -> ToolArguments:
    """Return the arguments; raises ToolError in words that echo no value."""
    try:
        validated: ToolArguments = tool.arguments.model_validate(dict(arguments))
    except ValidationError as exc:
        problem = explain_arguments(tool, exc)
    else:
        return validated
    raise ToolError(problem)


def _advice(error: SandboxRequestError) -> str:
    """Say what failed and what to do next."""
    may_repeat = error.retryable and not error.maybe_done
    return f"{error} Call again; if it happens again, tell the user." if may_repeat else str(error)


def _failed(text: str) -> Output:
    return Output(text=text, is_error=True)
