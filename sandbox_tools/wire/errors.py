"""Error bodies of both surfaces, every shape (wire contract 1.3, 3.2, 4.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Final

from sandbox_tools.errors import ErrorKind, ErrorReason, UsageLimit

_KIND_OF_STATUS: Final[dict[int, ErrorKind]] = {
    400: "invalid",
    401: "authentication",
    403: "permission",
    404: "not_found",
    406: "invalid",
    408: "timeout",
    409: "conflict",
    413: "invalid",
    422: "invalid",
    429: "rate_limit",
    499: "timeout",
    504: "timeout",
}

STATUS_OF_CONNECT_CODE: Final[dict[str, int]] = {
    "canceled": 499,
    "unknown": 500,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "data_loss": 500,
    "unauthenticated": 401,
}
"""Connect code -> HTTP status (wire contract 4.1)."""

_PHRASES: Final[tuple[tuple[str, ErrorReason], ...]] = (
    ("isolation is not available", "isolation_unavailable"),
    ("sandbox was not found", "sandbox_not_found"),
    ("sandbox not found", "sandbox_not_found"),
    ("sandbox has ended", "sandbox_not_found"),
    ("sandbox has stopped", "sandbox_not_found"),
    ("outside allowed directory", "outside_allowed_directory"),
    ("process not found", "process_not_found"),
    ("no such process", "process_not_found"),
    ("esrch", "process_not_found"),
    ("not finished", "process_not_finished"),
    ("is a directory", "is_directory"),
    ("not a directory", "not_a_directory"),
    ("not a regular file", "not_a_file"),
    ("invalid argument", "not_a_file"),  # what reading or writing a device, a pipe or a socket answers
    ("file name too long", "name_too_long"),
    ("at most 4096 characters", "name_too_long"),
    ("no such file", "path_not_found"),
    ("does not exist", "path_not_found"),
    ("already exists", "already_exists"),
    ("file exists", "already_exists"),
    ("permission denied", "access_denied"),
    ("read-only file system", "access_denied"),
    ("no space left", "no_space"),
    ("disk quota exceeded", "no_space"),
    ("file too large", "file_too_large"),
    ("executable file not found", "command_not_found"),
    ("command not found", "command_not_found"),
    ("port is not listening", "port_not_listening"),
    ("connection refused", "port_not_listening"),
)

MAX_RETRY_AFTER_S: Final = 3600.0
"""Longest wait that a server may ask for, in seconds; more is cut to this."""

_REQUEST_ID: Final = re.compile(r"[\w-]{1,64}", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z_-]{0,31}")
_ENDPOINT: Final = re.compile(r"(?:https?://[^/?#\s]{1,255})?((?:/[\w-]{1,24}){1,6})(?:\?[^\s]*)?", re.ASCII)
_HTTP_DATE: Final = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")
_MAX_COUNT: Final = 2**53


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What we keep of an error answer: checked facts, no upstream text."""

    kind: ErrorKind
    status: int
    reason: ErrorReason | None = None
    request_id: str | None = None
    usage_limit: UsageLimit | None = None


def kind_of_status(status: int) -> ErrorKind:
    """Return the class of an HTTP status (wire contract 1.3)."""
    if status >= 500:
        return _KIND_OF_STATUS.get(status, "server")
    return _KIND_OF_STATUS.get(status, "unknown")


def parse_error(status: int, body: bytes) -> ErrorBody:
    """Read an HTTP error answer; any body is accepted, also an empty one or one that is not JSON."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        message = body[:1000].decode("utf-8", "replace")
    return _error_body(status, message)


def parse_end_stream(payload: bytes) -> ErrorBody | None:
    """Return the error in the payload of an END_STREAM frame, or None. A payload that is not JSON is an error."""
    if not payload:
        return None
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        return ErrorBody("unknown", 200)
    if not isinstance(message, dict):
        return ErrorBody("unknown", 200)
    error = message.get("error")
    if not error:
        return None
    code = error.get("code") if isinstance(error, dict) else None
    status = STATUS_OF_CONNECT_CODE.get(code, 500) if isinstance(code, str) else 500
    return _error_body(status, error)


def error_body_json(status: int, message: str, *, request_id: str, details: object = None) -> bytes:
    """Return the error body that every known client can read: integer `code`, both spellings of the id (3.2, 1.3)."""
    body: dict[str, object] = {
        "code": status,
        "message": message,
        "error": message,
        "requestID": request_id,
        "request_id": request_id,
    }
    if details is not None:
        body["details"] = details
    return json.dumps(body).encode()


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Return the wait that a `Retry-After` header asks for, in seconds, 0 to MAX_RETRY_AFTER_S; None: it says nothing.

    Args:
        value: Seconds, or a date in the one form that HTTP allows to send (RFC 9110 5.6.7, 10.2.3).
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), MAX_RETRY_AFTER_S)
    if not _HTTP_DATE.fullmatch(text):
        return None
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    wait = (then - (now or datetime.now(timezone.utc))).total_seconds()
    return min(max(wait, 0.0), MAX_RETRY_AFTER_S)


def _error_body(status: int, message: object) -> ErrorBody:
    request_id: str | None = None
    limit: UsageLimit | None = None
    if isinstance(message, dict):
        found = message.get("requestID") or message.get("request_id")
        if isinstance(found, str) and _REQUEST_ID.fullmatch(found):
            request_id = found
        details = message.get("details")
        if isinstance(details, dict) and details.get("reason") == "usage_limit":
            limit = _usage_limit(details)
    reason: ErrorReason | None = "usage_limit" if limit else _reason(message)
    return ErrorBody(kind_of_status(status), status, reason, request_id, limit)


def _usage_limit(details: Mapping[str, object]) -> UsageLimit:
    """Read wire contract 2.9. The values are shown to people and models, so only short plain ones are kept."""
    return UsageLimit(
        scope=_word(details.get("scope")),
        resource=_word(details.get("resource")),
        metric=_word(details.get("metric")),
        used=_count(details.get("used")),
        limit=_count(details.get("limit")),
        remaining=_count(details.get("remaining")),
        usage_endpoint=_endpoint(details.get("usageEndpoint")),
    )


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


def _endpoint(value: object) -> str | None:
    """Return the path of a URL or a path; host and query are dropped."""
    match = _ENDPOINT.fullmatch(value) if isinstance(value, str) and len(value) <= 1000 else None
    return match[1] if match else None


def _reason(message: object) -> ErrorReason | None:
    text = _message_text(message).lower()
    return next((reason for phrase, reason in _PHRASES if phrase in text), None)


def _message_text(message: object) -> str:
    """Precedence: error.details > error.message > error > message (wire contract 1.3)."""
    if isinstance(message, str):
        return message
    if not isinstance(message, dict):
        return ""
    error = message.get("error")
    candidates = [error.get("details"), error.get("message")] if isinstance(error, dict) else [error]
    return next((text for text in [*candidates, message.get("message")] if isinstance(text, str) and text), "")
