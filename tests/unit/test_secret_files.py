"""Secrets that commands keep for their user."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox_tools.cli.secret_files import kept_secret, secret_file


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_a_secret_is_made_once_for_its_user_alone() -> None:
    file, secret = kept_secret("api-key")
    assert file == secret_file("api-key")
    assert len(secret) >= 43
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert kept_secret("api-key") == (file, secret)
    assert kept_secret("mcp-token")[1] != secret
    file.unlink()
    assert kept_secret("api-key")[1] != secret


def _link_to_another(file: Path) -> None:
    other = file.with_name("other")
    other.write_text("a-value-that-is-somewhere-else")
    other.chmod(0o600)
    file.unlink()
    file.symlink_to(other)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.chmod(0o640),
        lambda file: file.chmod(0o604),
        lambda file: file.write_text(""),
        lambda file: file.write_text(" \n"),
        _link_to_another,
    ],
    ids=["group", "others", "empty", "blank", "link"],
)
def test_a_file_that_cannot_be_trusted_is_replaced(spoil: Callable[[Path], object]) -> None:
    file, secret = kept_secret("api-key")
    spoil(file)
    again, new = kept_secret("api-key")
    assert again == file
    assert new not in (secret, "a-value-that-is-somewhere-else")
    assert len(new) >= 43
    assert not file.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
