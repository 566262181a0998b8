"""Process messages (wire contract 3.5, 4.3)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.process import (
    Command,
    Ended,
    KeepAlive,
    OutputData,
    ProcessEvent,
    Started,
    event_to_json,
    events_from_json,
    run_request_from_json,
    start_request_from_json,
    start_request_json,
)
from sandbox_tools.wire.process_calls import (
    Finished,
    ListedProcess,
    exit_code_from_result,
    finished_from_json,
    processes_from_json,
)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_characters="\0=", exclude_categories=["Cs"]), min_size=1, max_size=10)
commands = st.builds(
    Command,
    cmd=texts.filter(str.strip),
    args=st.lists(texts, max_size=4).map(tuple),
    cwd=st.none() | texts.filter(bool),
    envs=st.dictionaries(names, texts, max_size=3),
    timeout_ms=st.none() | st.integers(1, 10**9),
    stdin=st.booleans(),
    tag=st.none() | texts,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)


@given(commands)
def test_a_command_survives_the_wire(command: Command) -> None:
    assert start_request_from_json(json.loads(json.dumps(start_request_json(command)))) == command


@given(
    st.one_of(
        st.builds(Started, st.integers(0, 2**31), st.none() | names),
        st.builds(OutputData, st.sampled_from(["stdout", "stderr", "pty"]), st.binary(min_size=1, max_size=50)),
        st.builds(Ended, st.integers(-1, 255), st.booleans(), texts),
        st.just(KeepAlive()),
    )
)
def test_an_event_survives_the_wire(event: ProcessEvent) -> None:
    assert events_from_json(json.loads(json.dumps(event_to_json(event)))) == [event]


keys = st.sampled_from(["start", "data", "end", "keepalive", "pid", "stdout", "exitCode", "status", "x"])


@given(
    st.dictionaries(
        st.just("event"), json_values | st.dictionaries(keys, json_values | st.dictionaries(keys, json_values))
    )
)
def test_any_event_message_gives_events_or_a_wire_error(message: dict[str, Any]) -> None:
    try:
        events = events_from_json(message)
    except WireError:
        return
    assert all(isinstance(event, Started | OutputData | Ended | KeepAlive) for event in events)


@given(st.dictionaries(st.sampled_from(["process", "timeoutMs", "stdin", "tag"]), json_values))
def test_any_start_request_gives_a_command_or_a_wire_error(message: dict[str, Any]) -> None:
    try:
        command = start_request_from_json(message)
    except WireError:
        return
    assert command.cmd.strip()


@pytest.mark.parametrize(
    ("end", "exit_code"),
    [
        ({"exited": True, "status": "exit status 0", "error": None, "exitCode": 0}, 0),
        ({"exitCode": 3, "status": "exit status 4"}, 3),
        ({"exitCode": "7"}, 7),
        ({"exited": True, "status": "exit status 5"}, 5),
        ({"status": "6"}, 6),
        ({"status": 6}, 6),
        ({"exited": False, "status": "signal: killed", "exitCode": -1}, -1),
        ({"exited": False, "status": "signal: killed"}, 1),
        ({"exited": True, "error": "boom"}, 1),
        # SeaCloud's own fixtures say no exit code (quirk 32): GetResult knows.
        ({"exited": True, "status": "exited", "error": None}, None),
        ({}, None),
    ],
)
def test_the_exit_code_ladder(end: dict[str, Any], exit_code: int | None) -> None:
    [event] = events_from_json({"event": {"end": end}})
    assert isinstance(event, Ended)
    assert event.exit_code == exit_code


def test_a_data_event_may_carry_several_streams_in_a_fixed_order() -> None:
    data = {"stderr": base64.b64encode(b"e").decode(), "stdout": base64.b64encode(b"o").decode()}
    assert events_from_json({"event": {"data": data}}) == [OutputData("stdout", b"o"), OutputData("stderr", b"e")]


def test_an_unknown_event_is_skipped() -> None:
    assert events_from_json({"event": {"somethingNew": {}}}) == []


@pytest.mark.parametrize("text", ["not base64!", "YQ", "YQ==x", 7, ["YQ=="]])
def test_output_that_is_not_base64_is_a_wire_error(text: object) -> None:
    with pytest.raises(WireError, match="not base64"):
        events_from_json({"event": {"data": {"stdout": text}}})


def test_a_run_request_as_the_vendor_sends_it_has_nulls_for_what_is_absent() -> None:
    message = {"cmd": "sh", "args": ["-lc", "echo hi"], "cwd": None, "env": None, "timeoutMs": None, "stdin": None}
    assert run_request_from_json(message) == (Command(cmd="sh", args=("-lc", "echo hi")), None)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"process": {}},
        {"process": {"cmd": "  "}},
        {"process": {"cmd": "sh", "args": "ls"}},
        {"process": {"cmd": "sh", "args": [1]}},
        {"process": {"cmd": "sh", "envs": {"A": 1}}},
        {"process": {"cmd": "sh", "envs": {"A=B": "1"}}},
        {"process": {"cmd": "sh", "args": ["a\0b"]}},
        {"process": {"cmd": "sh"}, "timeoutMs": -1},
        {"process": {"cmd": "sh"}, "timeoutMs": "soon"},
        {"process": {"cmd": "sh"}, "tag": 5},
    ],
)
def test_a_start_request_that_cannot_be_run_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        start_request_from_json(message)


@pytest.mark.parametrize(("message", "code"), [({"exitCode": 2}, 2), ({"exit_code": "3"}, 3), ({}, 0)])
def test_a_result_has_its_exit_code_under_either_name(message: dict[str, Any], code: int) -> None:
    assert exit_code_from_result(message) == code


def test_environments_are_not_in_the_repr_of_a_command() -> None:
    assert "hidden-value" not in repr(Command(cmd="sh", envs={"TOKEN": "hidden-value"}))


@pytest.mark.parametrize("message", [{}, {"processes": None}, {"processes": []}])
def test_no_list_of_processes_is_an_empty_one(message: dict[str, Any]) -> None:
    assert processes_from_json(message) == ()


def test_a_listed_process_has_no_environment_and_what_is_not_text_is_left_out() -> None:
    config = {"cmd": "sh", "args": ["-c", 5, "ls"], "envs": {"KEY": "value-of-a-secret"}, "cwd": None}
    (listed,) = processes_from_json({"processes": [{"pid": "7", "config": config, "tag": "", "cmdId": "cmd-1"}]})
    assert listed == ListedProcess(pid=7, cmd="sh", args=("-c", "ls"), cmd_id="cmd-1")
    assert "ls" not in repr(listed)


@pytest.mark.parametrize("processes", [{}, "x", [5], [{"config": {}}], [{"pid": "x"}], [{"pid": 1}] * 10_001])
def test_a_list_of_processes_that_is_none_is_refused(processes: object) -> None:
    with pytest.raises(WireError):
        processes_from_json({"processes": processes})


def test_a_result_may_say_little() -> None:
    assert finished_from_json({"stdout": None, "stderr": 5}) == Finished(exit_code=0)
    assert finished_from_json({"exitCode": 3, "stdout": "out"}) == Finished(exit_code=3, stdout="out")
