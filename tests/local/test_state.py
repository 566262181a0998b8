"""The files of sandboxes on the host: hostile trees are removed, and nothing beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox_tools.local.state import State, default_state_directory, remove_tree


def test_a_tree_is_removed_without_following_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "dir").symlink_to(outside)
    (tree / "file").symlink_to(outside / "keep")
    (tree / "a" / "self").symlink_to(tree)
    os.mkfifo(tree / "fifo")
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "keep").read_text() == "x"


def test_a_very_deep_tree_without_permissions_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    here = os.open(tree, os.O_RDONLY)
    opened = [here]
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        here = os.open("d", os.O_RDONLY, dir_fd=here)
        opened.append(here)
        if len(opened) > 2:
            os.close(opened.pop(0))
    os.fchmod(here, 0)
    for fd in opened:
        os.close(fd)
    (tree / "closed").mkdir(mode=0)
    remove_tree(tree)
    assert not tree.exists()


def test_the_directories_are_closed_to_other_users(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.prepare()
    home = state.new_home("sb-1", None)
    for directory in (tmp_path / "state", tmp_path / "state" / "sandboxes", home.path):
        assert directory.stat().st_mode & 0o077 == 0
    home.remove()
    assert not home.path.exists()


def test_only_abandoned_homes_are_removed(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.prepare()
    used, abandoned = state.new_home("sb-used", None), state.new_home("sb-abandoned", None)
    os.close(abandoned.lock)  # as the kernel does when a service is killed
    (tmp_path / "sandboxes" / "link").symlink_to(tmp_path)
    state.remove_abandoned()
    assert used.workspace.exists()
    assert not abandoned.path.exists()
    used.remove()


def test_the_state_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert default_state_directory() == Path("/var/state/sandbox-tools")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_state_directory() == Path.home() / ".local/state/sandbox-tools"
