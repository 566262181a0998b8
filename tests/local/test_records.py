"""What the control plane keeps: the log of a sandbox, the record of a paused one, what its processes use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_tools.local.eventlog import LEVELS, MAX_EVENTS, EventLog, event_to_json
from sandbox_tools.local.paused import PausedRecord, record_from_bytes, record_to_bytes
from sandbox_tools.local.state import State
from sandbox_tools.local.usage import Usage, usage_of
from sandbox_tools.wire.control import NewSandbox, VolumeMount
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.network import NetworkRules
from tests.local.service import wait_for

TEXT = st.text(max_size=8)
NEW = st.builds(
    NewSandbox,
    template=st.none() | st.text(min_size=1, max_size=8),
    ttl_s=st.none() | st.integers(0, 86_400),
    wait_ready=st.booleans(),
    metadata=st.dictionaries(TEXT, TEXT, max_size=3),
    network=st.builds(
        NetworkRules,
        internet=st.none() | st.booleans(),
        allow_out=st.sampled_from([(), ("10.0.0.0/8", "1.2.3.4/32")]),
        public_previews=st.none() | st.booleans(),
    ),
    auto_pause=st.booleans(),
    auto_resume=st.booleans(),
    volume_mounts=st.sampled_from([(), (VolumeMount(name="a", path="/a"), VolumeMount(name="b", path="/b"))]),
)
RECORD = st.builds(
    PausedRecord,
    template_id=TEXT,
    new=NEW,
    env_names=st.lists(TEXT, max_size=3).map(tuple),
    started_at=st.floats(0, 1e10),
    end_at=st.floats(0, 1e10),
    ttl_s=st.integers(0, 86_400),
)


@settings(max_examples=50, deadline=None)
@given(RECORD)
def test_a_record_survives_the_disk(record: PausedRecord) -> None:
    assert record_from_bytes(record_to_bytes(record)) == record


@settings(max_examples=50, deadline=None)
@given(RECORD, st.dictionaries(st.text(min_size=1, max_size=5), st.text(min_size=12, max_size=12), min_size=1))
def test_no_value_of_the_environment_is_in_a_record(record: PausedRecord, envs: dict[str, str]) -> None:
    from dataclasses import replace

    assert record_to_bytes(replace(record, new=replace(record.new, envs=envs))) == record_to_bytes(record)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200) | RECORD.map(lambda record: record_to_bytes(record)[:-3]))
def test_what_is_no_record_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        record_from_bytes(data)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"version": 1', b'"version": 2'), (b'"ttl": 5', b'"ttl": "x"'), (b'"create"', b'"made"'), (b": []", b": {}")],
)
def test_a_record_of_another_version_is_a_wire_error(old: bytes, new: bytes) -> None:
    data = record_to_bytes(
        PausedRecord(template_id="t", new=NewSandbox(), env_names=(), started_at=1, end_at=2, ttl_s=5)
    )
    assert old in data
    with pytest.raises(WireError):
        record_from_bytes(data.replace(old, new))


def test_a_record_is_written_whole_and_for_nobody_else(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.prepare()
    home = state.new_home("sb-1", None)
    home.write_record(b"one")
    home.write_record(b"two")
    assert home.read_record() == b"two"
    assert {path.name for path in home.path.iterdir()} == {"workspace", "paused.json"}
    assert (home.path / "paused.json").stat().st_mode & 0o777 == 0o600
    home.leave()
    state.remove_abandoned()
    (again,) = state.paused()
    assert state.paused() == []  # somebody has it
    again.forget_record()
    again.leave()
    state.remove_abandoned()
    assert not home.path.exists()


def test_the_log_keeps_the_latest_and_gives_each_event_a_time_of_its_own() -> None:
    log = EventLog()
    for index in range(MAX_EVENTS + 5):
        log.add(f"event {index}", level=LEVELS[index % 4], index=index)
    events = log.select()
    assert [event.fields["index"] for event in events] == list(range(5, MAX_EVENTS + 5))
    times = [event.at_ms for event in events]
    assert times == sorted(set(times))
    stamps = [str(event_to_json(event)["timestamp"]) for event in events]
    assert stamps == sorted(set(stamps))


@given(st.integers(0, 30), st.integers(0, 12), st.booleans(), st.sampled_from(LEVELS), st.sampled_from(["", "a", "b"]))
def test_paging_through_the_log_meets_every_event_once(
    count: int, limit: int, backward: bool, level: str, text: str
) -> None:
    log = EventLog()
    for index in range(count):
        log.add("ab"[index % 2], level=LEVELS[index % 4])
    known = next(name for name in LEVELS if name == level)
    everything = log.select(backward=backward, level=known, text=text)
    seen, cursor = [], 0
    while page := log.select(cursor_ms=cursor, limit=limit, backward=backward, level=known, text=text):
        seen += page
        cursor = page[-1].at_ms + (-1 if backward else 1)
    assert seen == (everything if limit else [])


def test_the_usage_of_a_tree_of_processes_is_summed() -> None:
    program = "import subprocess, sys; x = bytearray(b'x' * 30_000_000); subprocess.run(['sleep', '1000'])"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            found = wait_for(lambda: usage if (usage := usage_of(process.pid)).tasks == 2 else None, what="the child")
            assert 30_000_000 <= found.memory_bytes < 200_000_000
            assert found.user_s + found.system_s > 0
        finally:
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), 9)
    assert usage_of(process.pid) == Usage()
