"""Answers of the control plane that only look: whatever a service says is a value or a WireError (wire contract 2)."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.fields import moment
from sandbox_tools.wire.observe import (
    LogEntry,
    logs_from_json,
    logs_query,
    metrics_from_json,
    quotas_from_json,
    summary_from_json,
)
from sandbox_tools.wire.records import sandbox_from_json
from sandbox_tools.wire.templates import template_from_json

NAMES = (  # noqa: SIM905 - shorter to read
    "sandboxID templateID state metadata lifecycle onTimeout volumeMounts diagnostic isolation logs timestamp level"
    " message fields load1 taskMax limits used limit status usage endpoints actions names builds cpuCount"
).split()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other work on the machine
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8))
def test_any_object_is_a_value_or_a_wire_error(message: dict[str, Any]) -> None:
    for entry in logs_from_json(message).entries:
        assert entry.cursor is None or entry.cursor >= 0
    quotas_from_json(message)
    summary_from_json(message)
    for parse in (metrics_from_json, template_from_json, sandbox_from_json):
        with suppress(WireError):
            parse(message)


def test_numbers_that_are_none_are_none() -> None:
    message = json.loads('{"sandboxID": "s", "load1": NaN, "load5": 1e999, "taskMax": true, "taskCurrent": 3}')
    found = metrics_from_json({**message, "memoryAvailableBytes": 10**400})
    assert (found.load1, found.load5, found.task_max, found.memory_available_bytes) == (None, None, None, None)
    assert found.task_current == 3


@pytest.mark.parametrize(
    ("timestamp", "cursor"),
    [
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T00:00:01.5Z", 1500),
        ("1970-01-01T00:00:01.123456789Z", 1123),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:00:00Z", 0),
        ("0001-01-01T00:00:00+01:00", None),
        ("2026-02-30T00:00:00Z", None),
        ("1970-01-01 00:00:01", None),
        ("", None),
    ],
)
def test_the_cursor_of_a_log_entry_is_its_time(timestamp: str, cursor: int | None) -> None:
    assert LogEntry(timestamp=timestamp, level="info", message="").cursor == cursor
    assert (moment(timestamp) is None) == (cursor is None)


def test_a_cursor_of_0_is_not_sent() -> None:
    """Wire contract 2.6: not every service takes it."""
    query = logs_query(cursor=0, limit=5, backward=True, level="warn", search="x")
    assert query == {"limit": "5", "direction": "backward", "level": "warn", "search": "x"}
    assert logs_query(cursor=7, limit=5, backward=False, level=None, search=None)["cursor"] == "7"
