"""docs/client.md names the methods that there are, and every method of the clients that a table of routes is about."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from sandbox_tools.client.builds import Builds
from sandbox_tools.client.control import ControlPlane
from sandbox_tools.client.events import Events
from sandbox_tools.client.files import RemoteFiles
from sandbox_tools.client.filesystem import RemoteFilesystem
from sandbox_tools.client.machine import RemoteMachine
from sandbox_tools.client.observe import Observation
from sandbox_tools.client.teams import Teams
from sandbox_tools.client.templates import Templates
from sandbox_tools.client.volumes import Volumes
from sandbox_tools.client.webhooks import Webhooks

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")


RUNTIME = "## The runtime: files"
CONTROL = "## The control plane"


@pytest.mark.parametrize(
    ("heading", "prefix", "client"),
    [
        (RUNTIME, "files", RemoteFiles),
        (RUNTIME, "filesystem", RemoteFilesystem),
        (RUNTIME, "machine", RemoteMachine),
        (CONTROL, "observe", Observation),
        (CONTROL, "templates", Templates),
        (CONTROL, "builds", Builds),
        (CONTROL, "volumes", Volumes),
        (CONTROL, "events", Events),
        (CONTROL, "webhooks", Webhooks),
        (CONTROL, "teams", Teams),
    ],
)
def test_the_table_of_routes_names_every_method_and_no_other(heading: str, prefix: str, client: type) -> None:
    rows = [row for row in methods_of_rows(heading) if f"`{prefix}." in row]
    named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row.split(";")[0])}
    assert {name.removeprefix(f"{prefix}.") for name in named} == methods_of(client)


def test_the_table_of_routes_names_what_the_control_plane_itself_does() -> None:
    rows = [row for row in methods_of_rows(CONTROL) if not re.search(r"`\w+\.", row)]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == methods_of(ControlPlane) - {"aclose"}


def methods_of_rows(heading: str) -> list[str]:
    section = PAGE.split(heading, 1)[1].split("\n## ", 1)[0]
    return [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")]


def methods_of(client: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")}
