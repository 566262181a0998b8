from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox_tools.redaction.tally import Tally
from tests.local.service import LocalServer, running_service


@pytest.fixture(autouse=True)
def blocked() -> Iterator[list[str]]:
    """The channels where the tripwire held a message back. A test that wants that empties the list; else it is none."""
    channels: list[str] = []
    count = Tally.count_blocked

    def count_and_note(tally: Tally, channel: str) -> None:
        count(tally, channel)
        channels.append(channel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tally, "count_blocked", count_and_note)
        yield channels
    assert channels == []


@pytest.fixture(scope="session")
def local_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A local service, in a process of its own, for all tests."""
    with running_service(tmp_path_factory.mktemp("state")) as service:
        yield service
