"""A scripted sandbox below real toolsets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from sandbox_tools.blocking import BlockingToolset
from sandbox_tools.runtime import CodeResult, RichResult
from sandbox_tools.testing import FakeRuntime, fake_toolset
from sandbox_tools.toolset import Toolset

PNG = b"\x89PNG\r\n\x1a\n-a-figure"


@pytest.fixture
def runtime() -> FakeRuntime:
    """Every command prints hello; code shows a figure; a server listens on 8000."""
    return FakeRuntime(
        stdout=b"hello\n",
        code_result=CodeResult(results=(RichResult(images={"image/png": PNG}),)),
        files={"/tmp/note": b"a note\n"},
        ports=frozenset({8000}),
    )


@pytest.fixture
def toolset(runtime: FakeRuntime) -> Toolset:
    return fake_toolset(runtime)


@pytest.fixture
def blocking(runtime: FakeRuntime) -> Iterator[BlockingToolset]:
    with start_blocking_portal("asyncio") as portal:
        yield BlockingToolset(portal, fake_toolset(runtime))


async def until(condition: Callable[[], object], *, within_s: float = 10) -> None:
    """Wait for a condition that no event tells."""
    with anyio.fail_after(within_s):
        while not condition():
            await anyio.sleep(0.005)
