"""Control plane, files and previews (wire contract 1.1, 2, 3.4, 4.2, 5.1)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_tools.wire.control import NewSandbox, create_request_json, normalize_base_url, sandbox_path
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.files import Entry, entry_from_json, entry_to_json, rest_entry_to_json, whole_number
from sandbox_tools.wire.network import NetworkRules
from sandbox_tools.wire.preview import parse_port, preview_url
from sandbox_tools.wire.records import (
    Isolation,
    RuntimeCredentials,
    credentials_from_json,
    sandbox_from_json,
    sandboxes_from_json,
)

CREATED = {
    "templateID": "tpl-base-0a1b",
    "sandboxID": "sandbox_01",
    "envdAccessToken": "not-a-real-token",
    "envdUrl": "https://sandbox-router.example/9000-sandbox_01",
    "status": "running",
    "state": "Running",
    "startedAt": "2026-06-10T08:55:50Z",
    "endAt": "2026-06-10T09:25:50Z",
    "timeline": [],
    "surprise": {"new": True},
}


def test_a_sandbox_record_holds_public_facts_only() -> None:
    info = sandbox_from_json(CREATED)
    assert (info.sandbox_id, info.template_id, info.state) == ("sandbox_01", "tpl-base-0a1b", "running")
    assert "not-a-real-token" not in repr(info)
    assert "router" not in repr(info)


def test_credentials_are_read_apart_and_never_shown() -> None:
    credentials = credentials_from_json(CREATED)
    assert credentials.access_token == "not-a-real-token"
    assert repr(credentials) == "RuntimeCredentials()"


@pytest.mark.parametrize("message", [{}, None, [], {"envdUrl": None, "envdAccessToken": None}, {"envdUrl": 5}])
def test_a_sandbox_that_is_not_ready_has_no_credentials(message: object) -> None:
    assert credentials_from_json(message) == RuntimeCredentials(envd_url=None, access_token=None)


def test_status_serves_where_there_is_no_state() -> None:
    assert sandbox_from_json({"sandboxID": "s", "status": "PAUSED"}).state == "paused"


@pytest.mark.parametrize("message", [None, [], {}, {"sandboxID": ""}, {"sandboxID": 5}])
def test_a_record_without_an_id_is_a_wire_error(message: object) -> None:
    with pytest.raises(WireError):
        sandbox_from_json(message)


def test_the_list_of_sandboxes_is_a_bare_array() -> None:
    assert [info.sandbox_id for info in sandboxes_from_json([{"sandboxID": "a"}, {"sandboxID": "b"}])] == ["a", "b"]
    with pytest.raises(WireError):
        sandboxes_from_json({"items": []})


def test_a_create_request_names_only_what_is_set() -> None:
    assert create_request_json(NewSandbox()) == {"waitReady": True}
    new = NewSandbox(
        template="base",
        ttl_s=60,
        metadata={"a": "b"},
        envs={"K": "v"},
        network=NetworkRules(internet=False, allow_out=("198.51.100.0/24",), public_previews=False),
    )
    assert create_request_json(new) == {
        "waitReady": True,
        "templateID": "base",
        "timeout": 60,
        "metadata": {"a": "b"},
        "envVars": {"K": "v"},
        "allowInternetAccess": False,
        "network": {"allowOut": ["198.51.100.0/24"], "allowPublicTraffic": False},
    }


@pytest.mark.parametrize(
    ("value", "root"),
    [
        (" https://h.example/api/v1/sandbox/ ", "https://h.example/api/v1/sandbox"),
        ("h.example/api/v1", "https://h.example/api/v1"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
def test_base_urls(value: str, root: str) -> None:
    assert normalize_base_url(value) == root


@pytest.mark.parametrize(
    "value", ["", "  ", "ftp://h", "https://u:p@h", "https://h/?k=v", "https://h/#f", "https://h\n/x"]
)
def test_base_urls_that_are_refused(value: str) -> None:
    with pytest.raises(WireError):
        normalize_base_url(value)


def test_an_id_is_percent_encoded_with_nothing_safe() -> None:
    assert sandbox_path("sb/1", "connect") == "/sandboxes/sb%2F1/connect"
    assert sandbox_path("../x?y") == "/sandboxes/..%2Fx%3Fy"


@pytest.mark.parametrize(
    ("envd_url", "url"),
    [
        ("https://router.example/9000-s", "https://router.example/9000-s/proxy/3000/"),
        ("https://router.example/9000-s/", "https://router.example/9000-s/proxy/3000/"),
        ("https://u:p@router.example:8443/p?token=x#f", "https://router.example:8443/p/proxy/3000/"),
        ("http://[::1]:9/rt/s", "http://[::1]:9/rt/s/proxy/3000/"),
    ],
)
def test_preview_urls_keep_the_prefix_and_drop_user_query_and_fragment(envd_url: str, url: str) -> None:
    assert preview_url(envd_url, 3000) == url


@pytest.mark.parametrize("value", [1, 65535, "8080"])
def test_ports(value: object) -> None:
    assert parse_port(value) == int(str(value))


@pytest.mark.parametrize("value", [0, -1, 65536, 70000, "0", "", "80a", " 80", "٣", True, None, 80.0, "080000"])
def test_ports_that_are_refused(value: object) -> None:
    with pytest.raises(WireError):
        parse_port(value)


@given(
    st.builds(
        Entry,
        name=st.text(min_size=1, max_size=5),
        path=st.text(max_size=9),
        type=st.sampled_from(["file", "directory", "symlink", "other"]),
        size=st.integers(0, 2**60),
        mode=st.integers(0, 0o177777),
        symlink_target=st.none() | st.text(min_size=1, max_size=5),
    )
)
def test_an_entry_survives_the_wire(entry: Entry) -> None:
    assert entry_from_json(entry_to_json(entry)) == entry


def test_an_entry_of_a_protobuf_server_omits_zeros_and_has_numbers_as_text() -> None:
    assert entry_from_json({"path": "/tmp/a", "size": "12"}) == Entry(name="a", path="/tmp/a", type="other", size=12)


def test_rest_entries_know_files_and_directories() -> None:
    assert rest_entry_to_json(Entry(name="d", path="/d", type="directory"))["type"] == "directory"
    assert rest_entry_to_json(Entry(name="f", path="/f", type="symlink"))["type"] == "file"


@pytest.mark.parametrize(
    "message", [None, [], {}, {"size": 3}, {"name": "a", "size": "many"}, {"name": "a", "mode": 1.5}]
)
def test_an_entry_that_is_not_one_is_a_wire_error(message: Any) -> None:
    with pytest.raises(WireError):
        entry_from_json(message)


@pytest.mark.parametrize("value", ["", "-", "1.5", "1e3", "٣", True, [], "9" * 21])
def test_whole_numbers_that_are_refused(value: object) -> None:
    with pytest.raises(WireError):
        whole_number(value)


@pytest.mark.parametrize("value", [None, [], "namespaces", {}, {"level": 5}])
def test_a_service_may_say_nothing_of_isolation(value: object) -> None:
    assert sandbox_from_json({"sandboxID": "s", "isolation": value}).isolation is None


def test_a_local_record_says_how_it_is_isolated() -> None:
    message = {"level": "namespaces", "launcher": "native", "hardLimits": ["processes", 5], "softLimits": "memory"}
    isolation = sandbox_from_json({"sandboxID": "s", "isolation": message}).isolation
    assert isolation == Isolation(level="namespaces", launcher="native", hard_limits=("processes",))
