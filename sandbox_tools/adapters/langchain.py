"""LangChain and LangGraph: the toolset as a toolkit. Needs the extra `langchain`."""

from __future__ import annotations

import atexit
import base64
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeAlias

import anyio
from langchain_core.tools import BaseTool, BaseToolkit, StructuredTool, ToolException
from pydantic import PrivateAttr, ValidationError
from pydantic.v1 import ValidationError as ValidationErrorV1
from typing_extensions import Self

from sandbox_tools.blocking import BlockingToolset
from sandbox_tools.tools.arguments import explain_arguments
from sandbox_tools.tools.base import Image, Tool
from sandbox_tools.toolset import ToolResult, Toolset

Content: TypeAlias = str | list[dict[str, str]]
Artifact: TypeAlias = dict[str, str | int | bool | None]


class SandboxToolkit(BaseToolkit):
    """The sandbox tools: `create_agent(model, tools=SandboxToolkit().get_tools())`.

    Close it, or use it in `with` or `async with`: that deletes the sandboxes that it made; else the end of the process
    does. A toolset that the caller opened stays open.
    """

    # Private attributes: what is not a field cannot be in `repr`, in a dump or in a trace.
    _open: Callable[[], AbstractContextManager[BlockingToolset]] = PrivateAttr()
    _toolset: BlockingToolset | Toolset | None = PrivateAttr()
    _images: bool = PrivateAttr()
    _prefix: str = PrivateAttr()
    _exits: ExitStack = PrivateAttr(default_factory=ExitStack)

    def __init__(
        self,
        *,
        toolset: BlockingToolset | Toolset | None = None,
        images: bool = False,
        prefix: str = "",
        **options: Any,
    ) -> None:
        """Make a toolkit; its own toolset is opened by the first `get_tools`.

        Args:
            toolset: An open one to use. An async `Toolset` serves only `ainvoke` on the event loop that opened it.
            images: Whether results carry image blocks. Chat Completions refuses images in tool messages; Responses,
                Anthropic and Gemini take them.
            prefix: Put before every tool name, for two toolkits in one agent.
            options: Keywords of `BlockingToolset.open`.
        """
        super().__init__()
        self._open = lambda: BlockingToolset.open(**options)  # a `partial` would show the API key in its repr
        self._toolset, self._images, self._prefix = toolset, images, prefix

    def get_tools(self) -> list[BaseTool]:
        """Return the tools; each runs in sync and in async agents.

        Raises:
            ConfigurationError: The toolset cannot be opened with these options.
        """
        if self._toolset is None:
            self._toolset = self._exits.enter_context(self._open())
            atexit.register(self.close)  # tools outlive a toolkit that nobody keeps
        return [_structured_tool(self._toolset, tool, self._images, self._prefix) for tool in self._toolset.tools]

    def close(self) -> None:
        """End the toolset that this toolkit opened, with its sandboxes. Closing twice is fine."""
        atexit.unregister(self.close)
        self._exits.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)


def _structured_tool(toolset: BlockingToolset | Toolset, tool: Tool[Any], images: bool, prefix: str) -> StructuredTool:
    blocking = toolset if isinstance(toolset, BlockingToolset) else None
    call_async = toolset.acall if isinstance(toolset, BlockingToolset) else toolset.call

    def run(**arguments: Any) -> tuple[Content, Artifact]:
        assert blocking is not None
        return _content_and_artifact(blocking.call(tool.name, arguments), images=images)

    async def run_async(**arguments: Any) -> tuple[Content, Artifact]:
        return _content_and_artifact(await call_async(tool.name, arguments), images=images)

    def explain(error: ValidationError | ValidationErrorV1) -> str:
        assert isinstance(error, ValidationError)
        return toolset.redactor.text(explain_arguments(tool, error))

    return StructuredTool(
        name=prefix + tool.name,
        description=tool.description,
        args_schema=tool.arguments,
        func=run if blocking else None,
        coroutine=run_async,
        response_format="content_and_artifact",
        handle_tool_error=True,  # the text of the exception, which is the result's
        handle_validation_error=explain,
    )


def _content_and_artifact(result: ToolResult, *, images: bool) -> tuple[Content, Artifact]:
    if result.is_error:
        raise ToolException(result.text)
    artifact = {"is_error": False, "images": len(result.images), **(result.structured or {})}
    if not (images and result.images):
        return result.text, artifact
    return [{"type": "text", "text": result.text}, *map(_image_block, result.images)], artifact


def _image_block(image: Image) -> dict[str, str]:
    return {"type": "image", "base64": base64.b64encode(image.data).decode(), "mime_type": image.mime_type}
