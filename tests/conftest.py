from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.local.service import LocalServer, running_service


@pytest.fixture(scope="session")
def local_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A local service, in a process of its own, for all tests."""
    with running_service(tmp_path_factory.mktemp("state")) as service:
        yield service
