"""The answers to what the registry refuses, on whatever route it happens."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local.egress import NoNetworkError
from sandbox_tools.local.errors import IsolationMissingError, NotPausableError, SandboxLimitError
from sandbox_tools.local.web import RequestError

USAGE_ENDPOINT = "/usage/limits"


def refusal(_: Request, error: Exception) -> Response:
    """Answer an exception of the registry."""
    if isinstance(error, SandboxLimitError):
        return _limit(error).response()
    if isinstance(error, IsolationMissingError):
        return _isolation(error).response()
    if isinstance(error, (NotPausableError, NoNetworkError)):
        return RequestError(409, str(error)).response()
    return RequestError(500, "internal error").response()


def _limit(error: SandboxLimitError) -> RequestError:
    """Wire contract 2.9."""
    details: dict[str, object] = {
        "reason": "usage_limit",
        "scope": "machine",
        "resource": "sandbox",
        "metric": error.metric,
        "used": error.limit,
        "limit": error.limit,
        "remaining": 0,
        "usageEndpoint": USAGE_ENDPOINT,
    }
    return RequestError(429, str(error), details=details, headers={"Retry-After": str(error.retry_after_s)})


def _isolation(error: IsolationMissingError) -> RequestError:
    report = error.report
    message = f"isolation is not available: {report.reason}. {report.remedy}"
    return RequestError(503, message, details={"reason": report.reason, "remedy": report.remedy})
