"""Error bodies, every shape that a client must accept (wire contract 1.3, 3.2, 4.1)."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_tools.errors import UsageLimit
from sandbox_tools.wire.errors import (
    MAX_RETRY_AFTER_S,
    ErrorBody,
    error_body_json,
    kind_of_status,
    parse_end_stream,
    parse_error,
    parse_retry_after,
)

FULL = UsageLimit(
    scope="project",
    resource="sandbox",
    metric="concurrent",
    used=10,
    limit=10,
    remaining=0,
    usage_endpoint="/usage/limits",
)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b'{"error":"not found"}', ErrorBody("not_found", 404)),
        (
            500,
            b'{"message":"kill failed: ESRCH: No such process"}',
            ErrorBody("server", 500, "process_not_found"),
        ),
        (
            400,
            b'{"error":{"code":"INVALID_REQUEST","details":"/x is a directory"},"request_id":"req-1"}',
            ErrorBody("invalid", 400, "is_directory", "req-1"),
        ),
        (404, b'{"code":404,"message":"path \'/x\' does not exist"}', ErrorBody("not_found", 404, "path_not_found")),
        (404, b'{"code":"not_found","message":"process not found"}', ErrorBody("not_found", 404, "process_not_found")),
        (400, b'{"code":400,"message":"no","requestID":"req-7f3a"}', ErrorBody("invalid", 400, None, "req-7f3a")),
        (
            429,
            b'{"code":429,"details":{"reason":"usage_limit"}}',
            ErrorBody("rate_limit", 429, "usage_limit", usage_limit=UsageLimit()),
        ),
        (
            429,
            (
                b'{"requestID":"req-9c","details":{"reason":"usage_limit","scope":"project","resource":"sandbox",'
                b'"metric":"concurrent","used":10,"limit":10,"remaining":0,"usageEndpoint":"/usage/limits"}}'
            ),
            ErrorBody("rate_limit", 429, "usage_limit", "req-9c", FULL),
        ),
        (429, b'{"details":{"reason":"other","used":1}}', ErrorBody("rate_limit", 429)),
        (404, b"404 page not found", ErrorBody("not_found", 404)),
        (502, b"", ErrorBody("server", 502)),
        (507, b'{"error":"No space left on device"}', ErrorBody("server", 507, "no_space")),
        (401, b"[" * 100_000, ErrorBody("authentication", 401)),
    ],
)
def test_error_bodies(status: int, body: bytes, expected: ErrorBody) -> None:
    assert parse_error(status, body) == expected


@given(st.integers(300, 599), st.binary(max_size=300))
def test_any_error_body_is_read_without_quoting_it(status: int, body: bytes) -> None:
    error = parse_error(status, body)
    assert error.status == status
    assert error.kind == kind_of_status(status)
    assert error.request_id is None or error.request_id.isascii()


@pytest.mark.parametrize("request_id", ["a" * 65, "a b", "x\nSet-Cookie: y", "<b>", "", 5, None])
def test_a_request_id_that_is_not_well_formed_is_dropped(request_id: object) -> None:
    assert parse_error(500, json.dumps({"requestID": request_id}).encode()).request_id is None


@pytest.mark.parametrize("name", ["scope", "resource", "metric", "used", "limit", "remaining", "usageEndpoint"])
@pytest.mark.parametrize(
    "value", ["a b", "x" * 33, "<b>", "http://", "//evil/x", "/a/../b", "/%2e", -1, 2**60, 1.5, True, [], {}, None]
)
def test_a_field_of_a_usage_limit_that_is_not_well_formed_is_dropped(name: str, value: object) -> None:
    body = json.dumps({"details": {"reason": "usage_limit", name: value}}).encode()
    assert parse_error(429, body).usage_limit == UsageLimit()


@pytest.mark.parametrize(
    "endpoint", ["https://host:8443/usage/limits?key=abc", "/usage/limits?x=y&z", "http://u:p@h/usage/limits"]
)
def test_of_a_usage_endpoint_only_the_path_is_kept(endpoint: str) -> None:
    body = json.dumps({"details": {"reason": "usage_limit", "usageEndpoint": endpoint}}).encode()
    limit = parse_error(429, body).usage_limit
    assert limit is not None
    assert limit.usage_endpoint == "/usage/limits"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        (" 7 ", 7.0),
        ("99999999999999999999", MAX_RETRY_AFTER_S),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("Sun, 06 Nov 2094 08:00:00 GMT", MAX_RETRY_AFTER_S),
        ("Xxx, 99 Xxx 9999 99:99:99 GMT", None),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("", None),
        (None, None),
    ],
)
def test_a_wait_is_read_as_seconds_or_as_a_date_and_is_bounded(value: str | None, expected: float | None) -> None:
    now = datetime(1994, 11, 6, 8, 49, 0, tzinfo=timezone.utc)
    assert parse_retry_after(value, now=now) == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", None),
        (b"{}", None),
        (b'{"metadata":{}}', None),
        (b'{"error":null}', None),
        (
            b'{"error":{"code":"not_found","message":"process not found"}}',
            ErrorBody("not_found", 404, "process_not_found"),
        ),
        (b'{"error":{"code":"deadline_exceeded"}}', ErrorBody("timeout", 504)),
        (b'{"error":{"code":"made_up"}}', ErrorBody("server", 500)),
        (b'{"error":"boom"}', ErrorBody("server", 500)),
        (b"not json", ErrorBody("unknown", 200)),
        (b"[]", ErrorBody("unknown", 200)),
    ],
)
def test_errors_at_the_end_of_a_stream(payload: bytes, expected: ErrorBody | None) -> None:
    assert parse_end_stream(payload) == expected


def test_the_body_that_the_server_writes_is_the_body_that_the_client_reads() -> None:
    body = error_body_json(404, "no such file or directory", request_id="req-1")
    assert parse_error(404, body) == ErrorBody("not_found", 404, "path_not_found", "req-1")
    assert json.loads(body)["code"] == 404
