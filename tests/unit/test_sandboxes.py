"""Where sandboxes come from, whose they are, and how their list is paged; what needs no service."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping

import pytest

from sandbox_tools.redaction import Registry
from sandbox_tools.sandboxes import open_source, owner
from sandbox_tools.sandboxes.source import API_KEY_VARIABLE, BASE_URL_VARIABLES
from sandbox_tools.wire.listing import list_query, next_token_of
from sandbox_tools.wire.records import SandboxInfo

KEY = secrets.token_urlsafe(32)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in BASE_URL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(API_KEY_VARIABLE, KEY)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "base_url", "root"),
    [
        ({"SEACLOUD_BASE_URL": "https://a/api/v1/"}, None, "https://a/api/v1"),
        ({"SEACLOUD_BASE_URL": "https://a", "SEACLOUD_API_BASE_URL": "https://b"}, "https://c", "https://c"),
        ({"SEACLOUD_BASE_URL": "https://a", "SEACLOUD_API_BASE_URL": "https://b"}, None, "https://a"),
        ({"SEACLOUD_API_BASE_URL": "https://b/x", "SEACLOUD_SANDBOX_URL": "https://d"}, None, "https://b/x"),
        ({"SEACLOUD_BASE_URL": "  ", "SEACLOUD_API_BASE_URL": " b/x "}, None, "https://b/x"),
        ({"SEACLOUD_SANDBOX_URL": "https://d"}, None, "https://d/api/sandbox/v1"),
        ({"SEACLOUD_SANDBOX_URL": "d/api/v1/sandbox"}, None, "https://d/api/v1/sandbox"),
        ({"SEACLOUD_SANDBOX_URL": "https://d/api/v12"}, None, "https://d/api/v12/api/sandbox/v1"),
    ],
)
def test_the_base_url_is_found_in_the_documented_order(
    variables: Mapping[str, str], base_url: str | None, root: str, settings: pytest.MonkeyPatch
) -> None:
    """Wire contract 1.1, 8.1."""
    for name, value in variables.items():
        settings.setenv(name, value)
    assert open_source(base_url=base_url, api_key=None, registry=Registry()).base_url == root


def test_a_sandbox_is_an_orphan_when_its_process_here_has_ended() -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "from sandbox_tools.sandboxes.owner import labels; print(labels()['sandbox-tools-owner'])",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    own = owner.labels()
    host = owner.this_host()

    def is_orphan(value: str) -> bool:
        info = SandboxInfo(sandbox_id="s", template_id="t", state="running", metadata={owner.OWNER: value})
        return owner.is_orphan(info)

    assert is_orphan(ended)
    assert ended.startswith(f"{host}.")
    assert not is_orphan(own[owner.OWNER])
    assert not is_orphan(f"{'0' * 12}.999999999")
    for broken in ("", ".", host, f"{host}.", f"{host}.x", f"{host}.-1", f"{host}.١"):  # noqa: RUF001 - a digit, not ASCII
        assert not is_orphan(broken)


def test_labels_say_nothing_private() -> None:
    labels = owner.labels()
    assert labels[owner.KEY] != owner.labels()[owner.KEY]
    for private in (os.uname().nodename, os.environ.get("HOME", "/root"), os.environ.get("USER", "root")):
        assert private not in " ".join(labels.values())


def test_the_age_of_a_sandbox_is_told_by_its_label_or_its_start() -> None:
    info = SandboxInfo(sandbox_id="s", template_id="t", state="running", started_at="2026-01-01T00:00:00Z")
    age_s = owner.age_s(info)
    assert age_s is not None
    assert age_s > 0
    assert owner.age_s(SandboxInfo(sandbox_id="s", template_id="t", state="running", started_at="soon")) is None


def test_labels_are_sent_in_either_form() -> None:
    labels = {"app": "a b&c", "team": "core"}
    brackets = list_query([], labels, 10, None, "brackets")
    assert brackets == {"limit": "10", "metadata[app]": "a b&c", "metadata[team]": "core"}
    assert list_query(["running", "paused"], labels, 10, "t", "map") == {
        "limit": "10",
        "state": "running,paused",
        "metadata": "app=a+b%26c&team=core",
        "nextToken": "t",
    }


@pytest.mark.parametrize(
    ("headers", "count", "after", "token"),
    [
        ({"x-has-next": "true", "x-next-token": "opaque=="}, 2, None, "opaque=="),
        ({"x-next-token": "opaque"}, 1, "whatever", "opaque"),
        ({"x-has-next": "false", "x-next-token": "opaque"}, 2, None, None),
        ({"x-has-next": "true"}, 1, None, "MQ"),
        ({}, 2, None, "Mg"),
        ({}, 2, "MjA", "MjI"),
        ({}, 2, "not ours", None),
        ({}, 1, None, None),
        ({"x-has-next": "true", "x-next-token": "opaque"}, 0, None, None),
        ({"x-has-next": "true", "x-next-token": "a\nb"}, 2, None, "Mg"),
    ],
)
def test_the_next_page_is_asked_for_by_the_token_of_the_service_or_by_offset(
    headers: Mapping[str, str], count: int, after: str | None, token: str | None
) -> None:
    """Wire contract 1.4: `20` is `MjA` in base64url; a page has two."""
    assert next_token_of(headers, count=count, limit=2, after=after) == token
