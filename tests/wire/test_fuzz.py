"""Every decoder of the wire against messages that are nearly right: an answer or a WireError, and nothing else.

A message is a whole one in which some values were replaced, fields left out or keys renamed, so that the inner parts of
a decoder are reached as well.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import json
import math
import pkgutil
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_tools import wire
from sandbox_tools.wire import (
    builds,
    control,
    envelope,
    errors,
    events,
    files,
    kernel,
    listing,
    machine,
    network,
    observe,
    output,
    preview,
    process,
    process_calls,
    records,
    teams,
    templates,
    webhooks,
)
from sandbox_tools.wire.envelope import WireError

ENTRY = {
    "name": "a",
    "path": "/a",
    "type": "FILE_TYPE_FILE",
    "size": "12",
    "mode": 420,
    "permissions": "-rw",
    "owner": "root",
    "group": "root",
    "modifiedTime": "2026-06-10T08:55:50Z",
    "symlinkTarget": "/b",
}
NETWORK = {"allowInternetAccess": True, "allowOut": ["1.2.3.4"], "denyOut": ["0.0.0.0/0"], "allowPublicTraffic": False}
PROCESS = {
    "process": {"cmd": "sh", "args": ["-c", "x"], "envs": {"A": "1"}, "cwd": "/"},
    "timeoutMs": 5,
    "tag": "t",
    "stdin": True,
    "pty": {"size": {"cols": 80, "rows": 24}},
}
RECORD = {
    "sandboxID": "s",
    "templateID": "base",
    "state": "running",
    "status": "running",
    "startedAt": "x",
    "endAt": "y",
    "metadata": {"a": "b"},
    "cpuCount": 2,
    "memoryMB": 512,
    "diskSizeMB": 1,
    "lifecycle": {"onTimeout": "kill"},
    "volumeMounts": [{"name": "v", "path": "/v"}],
    "diagnostic": {},
    "isolation": {"level": "namespaces", "launcher": "native", "hardLimits": ["pids"], "softLimits": []},
    "envdUrl": "https://h/x",
    "envdAccessToken": "t" * 40,
    "trafficAccessToken": None,
}
CREATE = {
    "templateID": "base",
    "timeout": 5,
    "waitReady": True,
    "metadata": {"a": "b"},
    "envVars": {"A": "1"},
    "network": NETWORK,
    "autoPause": True,
    "autoResume": False,
    "volumeMounts": [{"name": "v", "path": "/v"}],
}
QUOTA = {"scope": "project", "resource": "sandbox", "metric": "concurrent", "used": 1, "limit": 2, "remaining": 1}
LOG = {"timestamp": "2026-06-10T08:55:51Z", "level": "info", "message": "ready", "fields": {"source": "boot"}}
TEMPLATE = {"templateID": "t", "names": ["a"], "cpuCount": 1, "public": True, "builds": [{"buildID": "b"}]}
BUILD = {"buildID": "b", "status": "ready", "image": "i", "errorMessage": "x", "createdAt": "y", "cpuCount": 1}
STATUS = {
    "buildID": "b",
    "templateID": "t",
    "status": "error",
    "logs": ["a"],
    "reason": {"message": "x"},
    "logEntries": [{"timestamp": "x", "level": "info", "step": "s", "message": "m"}],
}
EVENT = {"id": "e", "type": "t", "data": {"a": {"b": {"c": {"d": 1}}}, "n": 1.5}, "apiKey": "x", "list": [1]}
WEBHOOK = {
    "webhookID": "w",
    "name": "n",
    "url": "u",
    "enabled": True,
    "events": ["a"],
    "signatureSecret": "s",
    "retryPolicy": {"maxAttempts": 3, "delaySeconds": [1, 2], "deadLetterEnabled": True},
}
TEAM = {"teamID": "t", "name": "n", "apiKey": "k", "isDefault": True}
TEAM_METRICS = {"timestamp": "x", "timestampUnix": 1, "concurrentSandboxes": 1, "sandboxStartRate": 0.5, "value": 2}
PORT = {"port": 80, "address": "0.0.0.0", "pid": 4, "process_name": "x"}
RUN = {"stdout": "a", "stderr": "b", "exit_code": 0, "duration_ms": 3, "error": "x"}
LISTED = {"pid": 7, "config": {"cmd": "sh", "args": ["x"], "cwd": "/"}, "tag": "t", "cmdId": "c"}

DECODERS: dict[str, tuple[Callable[[Any], object], Any]] = {
    "builds.build_logs_from_json": (builds.build_logs_from_json, {"logs": STATUS["logEntries"]}),
    "builds.context_from_json": (builds.context_from_json, {"present": False, "url": "u", "maxContextBytes": 5}),
    "builds.progress_from_json": (builds.progress_from_json, STATUS),
    "builds.upload_url_from_json": (builds.upload_url_from_json, {"present": False, "url": "u"}),
    "control.create_request_from_json": (control.create_request_from_json, CREATE),
    "control.environment_from_json": (lambda m: control.environment_from_json(m, "envs"), {"envs": {"A": "1"}}),
    "control.seconds_from_json": (lambda m: control.seconds_from_json(m, "timeout", maximum=9), {"timeout": 5}),
    "events.delivery_from_json": (events.delivery_from_json, {**EVENT, "webhookID": "w", "eventID": "e"}),
    "events.event_from_json": (events.event_from_json, EVENT),
    "events.facts_from_json": (events.facts_from_json, EVENT),
    "files.batch_sizes_from_json": (files.batch_sizes_from_json, {"files": [{"path": "/a", "bytes_written": 1}]}),
    "files.content_from_json": (files.content_from_json, {"type": "image", "mime_type": "image/png", "data": "YQ=="}),
    "files.entries_of_answer": (files.entries_of_answer, {"entries": [ENTRY]}),
    "files.entry_from_json": (files.entry_from_json, ENTRY),
    "files.entry_of_answer": (files.entry_of_answer, {"entry": ENTRY}),
    "files.watch_event": (files.watch_event, {"name": "a", "type": "EVENT_TYPE_CREATE"}),
    "files.watch_event_from_json": (files.watch_event_from_json, {"name": "a", "type": "EVENT_TYPE_CREATE"}),
    "machine.environment_names_from_json": (machine.environment_names_from_json, {"A": "1"}),
    "machine.metrics_from_json": (machine.metrics_from_json, {"ts": 1, "cpu_count": 2, "cpu_used_pct": 1.5}),
    "machine.ports_from_json": (machine.ports_from_json, [PORT, PORT]),
    "machine.run_result_from_json": (machine.run_result_from_json, RUN),
    "network.network_rules_from_json": (network.network_rules_from_json, NETWORK),
    "network.network_rules_of_create": (network.network_rules_of_create, CREATE),
    "observe.logs_from_json": (lambda m: [e.cursor for e in observe.logs_from_json(m).entries], {"logs": [LOG]}),
    "observe.metrics_from_json": (observe.metrics_from_json, {"sandboxID": "s", "load1": 0.1, "taskMax": 9}),
    "observe.quotas_from_json": (observe.quotas_from_json, {"limits": [QUOTA]}),
    "observe.summary_from_json": (observe.summary_from_json, {"status": "ok", "usage": {}, "actions": [{}]}),
    "preview.parse_port": (preview.parse_port, 80),
    "process.events_from_json": (
        process.events_from_json,
        {"event": {"end": {"exited": True, "status": "exit status 3", "error": None, "exitCode": 3}}},
    ),
    "process.events_from_json start": (process.events_from_json, {"event": {"start": {"pid": 7, "cmdId": "c"}}}),
    "process.events_from_json data": (process.events_from_json, {"event": {"data": {"stdout": "YQ==", "pty": "Yg=="}}}),
    "process.run_request_from_json": (process.run_request_from_json, {"cmd": "sh", "args": ["x"], "env": {"A": "1"}}),
    "process.start_request_from_json": (process.start_request_from_json, PROCESS),
    "process.terminal_size_from_json": (process.terminal_size_from_json, PROCESS),
    "process_calls.exit_code_from_result": (process_calls.exit_code_from_result, {"exitCode": 0}),
    "process_calls.finished_from_json": (process_calls.finished_from_json, {"exitCode": 0, "stdout": "a"}),
    "process_calls.input_from_json": (
        lambda m: process_calls.input_from_json(m, pty=True),
        {"input": {"stdin": "YQ==", "pty": "YQ=="}},
    ),
    "process_calls.processes_from_json": (process_calls.processes_from_json, {"processes": [LISTED]}),
    "process_calls.selector_from_json": (process_calls.selector_from_json, {"process": {"pid": 7}}),
    "process_calls.signal_from_json": (process_calls.signal_from_json, {"signal": "SIGNAL_SIGTERM"}),
    "records.credentials_from_json": (records.credentials_from_json, RECORD),
    "records.sandbox_from_json": (records.sandbox_from_json, RECORD),
    "records.sandboxes_from_json": (records.sandboxes_from_json, [RECORD]),
    "records.volume_from_json": (records.volume_from_json, {"volumeID": "v1", "name": "data"}),
    "teams.api_key_from_json": (teams.api_key_from_json, TEAM),
    "teams.team_from_json": (teams.team_from_json, TEAM),
    "teams.team_metrics_from_json": (teams.team_metrics_from_json, TEAM_METRICS),
    "teams.team_peak_from_json": (teams.team_peak_from_json, TEAM_METRICS),
    "templates.created_template_from_json": (templates.created_template_from_json, {**TEMPLATE, "buildID": "b"}),
    "templates.tag_from_json": (templates.tag_from_json, {"tag": "v1", "buildID": "b", "createdAt": "x"}),
    "templates.template_build_from_json": (templates.template_build_from_json, BUILD),
    "templates.template_from_json": (templates.template_from_json, TEMPLATE),
    "templates.template_id_from_json": (templates.template_id_from_json, TEMPLATE),
    "webhooks.signature_secret_from_json": (webhooks.signature_secret_from_json, WEBHOOK),
    "webhooks.webhook_from_json": (webhooks.webhook_from_json, WEBHOOK),
    # Whatever these are given, they have an answer or a WireError; the message is sent as JSON.
    "envelope.parse_json_object": (lambda m: envelope.parse_json_object(_json(m), what="it"), RECORD),
    "envelope.parse_json_array": (lambda m: envelope.parse_json_array(_json(m), what="it"), [RECORD]),
    "envelope.parse_stream_request": (lambda m: envelope.parse_stream_request(_json(m)), PROCESS),
    "errors.parse_error": (
        lambda m: errors.parse_error(429, _json(m)),
        {"code": 1, "requestID": "r", "error": {"details": "x"}, "details": {"reason": "usage_limit", **QUOTA}},
    ),
    "errors.parse_end_stream": (lambda m: errors.parse_end_stream(_json(m)), {"error": {"code": "not_found"}}),
    "kernel.event_from_line out": (
        lambda m: kernel.event_from_line(_json(m)),
        {"ev": "out", "id": "r", "n": 1, "stream": "stdout", "b64": "YQ=="},
    ),
    "kernel.event_from_line result": (
        lambda m: kernel.event_from_line(_json(m)),
        {"ev": "result", "id": "r", "n": 2, "text": {"text/plain": "YQ=="}, "images": {"image/png": "YQ=="}},
    ),
    "kernel.event_from_line error": (
        lambda m: kernel.event_from_line(_json(m)),
        {"ev": "error", "id": "r", "n": 3, "name": "YQ==", "message": "YQ==", "traceback": "YQ=="},
    ),
}
OF_TEXT: dict[str, Callable[[str], object]] = {
    "control.normalize_base_url": control.normalize_base_url,
    "errors.parse_retry_after": errors.parse_retry_after,
    "files.content_range": files.content_range,
    "listing.next_token_of": lambda t: listing.next_token_of({"x-next-token": t}, count=1, limit=1, after=t),
    "preview.parse_port": preview.parse_port,
}
OF_BYTES: dict[str, Callable[[bytes], object]] = {
    "envelope.FrameDecoder": lambda data: list(envelope.FrameDecoder(max_frame_bytes=64).feed(data)),
    "envelope.parse_json_array": lambda data: envelope.parse_json_array(data, what="it"),
    "envelope.parse_json_object": lambda data: envelope.parse_json_object(data, what="it"),
    "envelope.parse_stream_request": envelope.parse_stream_request,
    "errors.parse_end_stream": errors.parse_end_stream,
    "errors.parse_error": lambda data: errors.parse_error(500, data),
    "kernel.LineDecoder": lambda data: list(kernel.LineDecoder(max_line_bytes=64).feed(data)),
    "kernel.event_from_line": kernel.event_from_line,
    "output.output_from_payload": output.output_from_payload,
}

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 2**31, 2**64, 10**400, -(10**400), 0.5, 1e308, math.nan, math.inf, -math.inf]),
    st.sampled_from(
        ["", "é", "\ud800", "\0", "a\nb", "²", "-", "1e5", "9" * 30, "exit status 99999999999", "YQ", "[]"]
    ),
    st.text(max_size=5),
    st.sampled_from([[], {}, [[]], [None], {"": None}, {"a": {}}, [{}]]).map(copy.deepcopy),
)


@st.composite
def nearly(draw: st.DrawFn, whole: Any) -> Any:
    """Return the message with some of it changed."""
    message = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        message = _changed(draw, message)
    return message


def _changed(draw: st.DrawFn, node: Any) -> Any:
    inner = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    if not inner or draw(st.integers(0, 5)) == 0:
        return draw(odd)
    key = draw(st.sampled_from(inner))
    if isinstance(node, dict) and draw(st.integers(0, 5)) == 0:
        node[draw(st.text(max_size=3))] = node.pop(key)
    else:
        node[key] = _changed(draw, node[key])
    return node


def _json(message: object) -> bytes:
    return json.dumps(message).encode()


@pytest.mark.parametrize("name", DECODERS)
def test_a_message_that_is_nearly_right_gives_an_answer_or_a_wire_error(name: str) -> None:
    decode, whole = DECODERS[name]
    decode(copy.deepcopy(whole))  # the whole one is accepted: the changes are what is tried

    @settings(max_examples=40)
    @given(nearly(whole))
    def attempt(message: Any) -> None:
        if not isinstance(message, type(whole)):
            return  # bytes are read as an object or an array before
        with contextlib.suppress(WireError):
            decode(message)

    attempt()


@pytest.mark.parametrize("name", OF_TEXT)
def test_any_text_gives_an_answer_or_a_wire_error(name: str) -> None:
    @settings(max_examples=30)
    @given(st.text(max_size=40) | st.from_regex(r"\A[a-z0-9:/ =*-]{0,30}\Z"))
    def attempt(value: str) -> None:
        with contextlib.suppress(WireError):
            OF_TEXT[name](value)

    attempt()


@pytest.mark.parametrize("name", OF_BYTES)
def test_any_bytes_give_an_answer_or_a_wire_error(name: str) -> None:
    @settings(max_examples=30)
    @given(st.binary(max_size=200) | st.sampled_from([b"[" * 50_000, b'{"a":' * 50_000, b"9" * 5000, b"\xff\xfe{\0"]))
    def attempt(data: bytes) -> None:
        with contextlib.suppress(WireError):
            OF_BYTES[name](data)

    attempt()


def test_every_decoder_is_tried() -> None:
    tried = {name.split(" ")[0] for name in [*DECODERS, *OF_TEXT, *OF_BYTES]}
    is_decoder = re.compile(r"parse_|[a-z]\w*_(from|of)_(?!status)|next_token_of|content_range|watch_event|normalize_")
    for module in pkgutil.iter_modules(wire.__path__):
        functions = inspect.getmembers(importlib.import_module(f"{wire.__name__}.{module.name}"), inspect.isfunction)
        for name, function in functions:
            if function.__module__.endswith(f".{module.name}") and is_decoder.match(name):
                assert f"{module.name}.{name}" in tried


@given(st.binary(max_size=60), st.sampled_from(["stdout", "stderr", "pty"]))
def test_the_quick_way_to_write_output_is_the_same_as_the_plain_one(data: bytes, stream: Any) -> None:
    event = process.OutputData(stream, data)
    frame = output.output_frame(event)
    assert frame == envelope.encode_json_frame(process.event_to_json(event))
    [decoded] = envelope.FrameDecoder().feed(frame)
    message = envelope.parse_json_object(decoded.payload, what="it")
    assert process.events_from_json(message) == ([event] if data else [])


pieces_of_output = st.sampled_from(["YQ==", "QUJD", "=", " ", "-", "\\n", "\\/", "\\u0041", '"', '","pty":"', '"}}}'])
output_texts = st.lists(pieces_of_output, max_size=4).map("".join)


@given(output_texts, st.sampled_from(["stdout", "stderr", "pty", "other"]), st.sampled_from([":", ": ", " : "]))
def test_the_quick_way_to_read_output_is_the_plain_one_or_gives_way_to_it(text: str, stream: str, colon: str) -> None:
    payload = '{"event":{"data":{"STREAM":"'.replace(":", colon).replace("STREAM", stream) + text + '"}}}'
    quick = output.output_from_payload(payload.encode())
    if quick is not None:
        message = envelope.parse_json_object(payload.encode(), what="it")
        assert process.events_from_json(message) == [quick]


@pytest.mark.parametrize("payload", [b'{"event":{"data":{"pty":"YQ=="}}}', b'{"event": {"data": {"pty": "YQ=="}}}'])
def test_output_as_servers_write_it_is_read_the_quick_way(payload: bytes) -> None:
    assert output.output_from_payload(payload) == process.OutputData("pty", b"a")


names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@given(
    st.builds(
        control.NewSandbox,
        template=st.none() | names,
        ttl_s=st.none() | st.integers(0, control.MAX_TTL_S),
        wait_ready=st.booleans(),
        metadata=st.dictionaries(names, st.text(max_size=5), max_size=2),
        envs=st.dictionaries(names, names, max_size=2),
        auto_pause=st.booleans(),
        auto_resume=st.booleans(),
        volume_mounts=st.lists(st.builds(control.VolumeMount, name=names, path=names), max_size=2).map(tuple),
    )
)
def test_what_to_create_survives_the_wire(new: control.NewSandbox) -> None:
    assert control.create_request_from_json(json.loads(json.dumps(control.create_request_json(new)))) == new


@given(
    st.builds(
        files.Entry,
        name=names,
        path=names,
        type=st.sampled_from(["file", "directory", "symlink"]),
        size=st.integers(0, 2**60),
        mode=st.integers(0, 0o7777),
        owner=st.text(max_size=4),
        modified=st.text(max_size=4),
        symlink_target=st.none() | names,
    )
)
def test_a_file_entry_survives_the_wire(entry: files.Entry) -> None:
    assert files.entry_from_json(json.loads(json.dumps(files.entry_to_json(entry)))) == entry


@given(st.integers(-(2**31), 2**31) | names, st.binary(max_size=20), st.booleans())
def test_a_selector_and_its_input_survive_the_wire(selector: Any, data: bytes, pty: bool) -> None:
    message = {"process": process_calls.selector_json(selector), "input": process_calls.input_json(data, pty=pty)}
    message = json.loads(json.dumps(message))
    assert process_calls.selector_from_json(message) == selector
    assert process_calls.input_from_json(message, pty=pty) == data


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | names, inner, max_size=8),
    max_leaves=30,
)


@given(st.dictionaries(names | st.sampled_from(["api_key", "Set-Cookie", "access-Token", "x.y", "password"]), values))
def test_the_facts_of_an_event_are_few_plain_and_no_secrets(message: dict[str, Any]) -> None:
    facts = events.facts_from_json(message)
    assert len(facts) <= events.MAX_FACTS
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert not {"api_key", "Set-Cookie", "access-Token", "password"} & facts.keys()
    assert {name: value for name, value in message.items() if name in facts} == {
        name: value for name, value in facts.items() if "." not in name
    }


def test_facts_have_limits() -> None:
    many = {f"n{number}": number for number in range(1000)}
    assert len(events.facts_from_json(many)) == events.MAX_FACTS
    deep = {"a": {"b": {"c": {"d": 1, "e": {"f": 2}}}}}
    assert events.facts_from_json(deep) == {"a.b.c.d": 1}
    long = {"kept": "x" * events.MAX_FACT_CHARS, "left_out": "x" * (events.MAX_FACT_CHARS + 1)}
    assert events.facts_from_json(long).keys() == {"kept"}
    assert events.facts_from_json({"n" * 65: 1, "a b": 1, "huge": 10**30, "nan": math.nan}) == {}
