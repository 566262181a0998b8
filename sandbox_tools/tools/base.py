"""What a tool is: its name, its arguments, its hints, and the function that does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from sandbox_tools.runtime import OutputStream, Runtime

if TYPE_CHECKING:
    from sandbox_tools.tools.kept import KeptProcesses


class ToolArguments(BaseModel):
    """Arguments of a tool: flat, closed, null means default (design: schemas that every provider accepts)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SandboxArguments(ToolArguments):
    """Arguments that every tool which uses a sandbox has."""

    sandbox_id: str | None = Field(None, description="Sandbox to use; omit for your default one.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolHints:
    """MCP's hints about what a tool does. Hints, not guarantees."""

    read_only: bool
    destructive: bool
    idempotent: bool
    open_world: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image for the model.

    Attributes:
        data: Encoded image file.
        mime_type: "image/png" or "image/jpeg".
    """

    data: bytes
    mime_type: str


class CollectedOutput(Protocol):
    """Output of a process as it is collected: redacted, bounded, with head and tail."""

    def feed(self, stream: OutputStream, data: bytes) -> None:
        """Take a piece of output; an `OutputSink`."""
        ...

    def render(self) -> str:
        """End the streams and return stdout and stderr as the model reads them; "" when there was no output."""
        ...

    def take(self) -> str:
        """As `render`, for what came since the last `take`, of a process that goes on."""
        ...


class CollectedPage(Protocol):
    """Some lines of a text file as they are collected: redacted, bounded."""

    @property
    def lines(self) -> int:
        """Lines seen so far."""
        ...

    def feed(self, data: bytes) -> bool:
        """Take a piece of the file; True when no more is needed."""
        ...

    def render(self, *, size: int | None, at_end: bool) -> str | None:
        """Return the lines and, when there is more, how to read on; None when the file ends before them.

        Args:
            size: Of the file in bytes, if known.
            at_end: Whether the whole file was fed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a tool function returns; raw, the toolset redacts it."""

    text: str
    is_error: bool = False
    images: tuple[Image, ...] = ()
    structured: Mapping[str, str | int | bool | None] | None = None


class ToolContext(Protocol):
    """What a tool function works with during one call."""

    @property
    def runtime(self) -> Runtime: ...

    @property
    def kept(self) -> KeptProcesses:
        """What calls left running."""
        ...

    @property
    def secret_names(self) -> tuple[str, ...]:
        """The secrets that a command may use."""
        ...

    def secret_values(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return what these secrets are set to, for the request that sets them and nothing else."""
        ...

    def find_placeholder(self, text: str) -> str | None:
        """Return the first placeholder of ours in a text; None: there is none."""
        ...

    def collect_output(self) -> CollectedOutput:
        """Return a fresh collector for the output of one process."""
        ...

    def redact(self, text: str) -> str:
        """Redact a text that is about to be spelled another way. Any other text the toolset redacts."""
        ...

    def redact_start(self, text: str) -> str:
        """Redact a text whose end was cut off. What may be the start of a secret at the cut is left out."""
        ...

    def collect_page(self, *, first: int, limit: int | None) -> CollectedPage:
        """Return a fresh collector for lines of a file, from line `first` (counted from 1), at most `limit`."""
        ...


ArgumentsT = TypeVar("ArgumentsT", bound=ToolArguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool(Generic[ArgumentsT]):
    """One tool of the catalogue.

    Attributes:
        name: `[a-z_]{1,64}`; self-explanatory, because some clients show models the bare name.
        title: For people.
        description: For the model.
        arguments: The model of its arguments.
        run: Does it. Raises `ToolError` for what the model can put right, `SandboxToolsError` for the rest.
    """

    name: str
    title: str
    description: str
    arguments: type[ArgumentsT]
    hints: ToolHints
    run: Callable[[ToolContext, ArgumentsT], Awaitable[Output]]

    @property
    def argument_names(self) -> tuple[str, ...]:
        """The arguments, the tool's own ones first."""
        return tuple(sorted(self.arguments.model_fields, key="sandbox_id".__eq__))

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments: compact, the same for every framework."""
        schema = self.arguments.model_json_schema()
        properties = {name: _without_title(schema["properties"][name]) for name in self.argument_names}
        result: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        if required := schema.get("required"):
            result["required"] = required
        return result


def _without_title(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "title"}
