"""docs/client.md names the methods that there are, and every method of the clients of files and of the machine."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from sandbox_tools.client.files import RemoteFiles
from sandbox_tools.client.filesystem import RemoteFilesystem
from sandbox_tools.client.machine import RemoteMachine

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("prefix", "client"), [("files", RemoteFiles), ("filesystem", RemoteFilesystem), ("machine", RemoteMachine)]
)
def test_the_table_of_routes_names_every_method_and_no_other(prefix: str, client: type) -> None:
    section = PAGE.split("## The runtime: files", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("|")]
    named = {name for row in rows if f"`{prefix}." in row for name in re.findall(r"`([\w.]+)`", row.split(";")[0])}
    methods = {name for name, _ in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")}
    assert {name.removeprefix(f"{prefix}.") for name in named} == methods
