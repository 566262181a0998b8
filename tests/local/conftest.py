from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.local.service import Box, LocalServer

__all__ = ["LocalServer"]


@pytest.fixture
def box(local_server: LocalServer) -> Iterator[Box]:
    """A new sandbox."""
    with local_server.sandbox() as sandbox:
        yield sandbox
