"""Errors as values: what they say, and that they survive what is done to exceptions."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from sandbox_tools import errors
from sandbox_tools.errors import (
    ConfigurationError,
    IsolationUnavailableError,
    ProcessLostError,
    SandboxNotFoundError,
    SandboxProtocolError,
    SandboxResponseError,
    SandboxTimeoutError,
    SandboxToolsError,
    SandboxUnreachableError,
    ToolError,
    UsageLimit,
    WeakSecretError,
)

LIMIT = UsageLimit(scope="project", resource="sandbox", metric="concurrent", used=10, limit=10, remaining=0)

EVERY_ERROR = [
    SandboxToolsError("x"),
    ConfigurationError("Set X."),
    WeakSecretError("KEY", "has fewer than 8 characters"),
    IsolationUnavailableError("No namespaces.", "Install bubblewrap."),
    ToolError("Do this."),
    errors.SandboxRequestError("read a file", "it broke."),
    SandboxUnreachableError("read a file", was_sent=True),
    ProcessLostError("run a process", 7),
    SandboxTimeoutError("create a sandbox", 30, maybe_done=True),
    SandboxProtocolError("create a sandbox", "it is odd", maybe_done=True),
    SandboxResponseError("create a sandbox", kind="rate_limit", status=429, usage_limit=LIMIT, retry_after_s=7.0),
    SandboxNotFoundError("look a sandbox up", request_id="req-1"),
]


def test_the_list_above_has_every_error() -> None:
    classes = {value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)}
    assert {type(error) for error in EVERY_ERROR} == classes


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickle_and_copy_with_all_its_facts(error: SandboxToolsError) -> None:
    error.add_note("seen by a framework") if hasattr(error, "add_note") else None
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))


def test_an_error_says_whether_the_work_may_have_been_done() -> None:
    never = SandboxUnreachableError("create a sandbox")
    assert str(never) == "Could not create a sandbox: no connection, so nothing was done."
    lost = SandboxUnreachableError("create a sandbox", was_sent=True, maybe_done=True)
    assert str(lost) == (
        "Could not create a sandbox: the connection was lost before the whole answer came. "
        "It may have been done all the same: check before you do it again."
    )
    assert (never.maybe_done, lost.maybe_done) == (False, True)


def test_a_full_usage_limit_is_told_in_our_words_and_is_not_worth_a_retry() -> None:
    full = SandboxResponseError("create a sandbox", kind="rate_limit", status=429, usage_limit=LIMIT)
    assert str(full) == (
        "Could not create a sandbox: rate_limit, HTTP 429, a usage limit is reached "
        "(project sandbox concurrent, used 10, limit 10, remaining 0); something must end first."
    )
    assert not full.retryable
    busy = SandboxResponseError("create a sandbox", kind="rate_limit", status=429, retry_after_s=7.4)
    assert busy.retryable
    assert str(busy).endswith("HTTP 429. It asks to wait 7 s.")


def test_a_usage_limit_of_which_nothing_is_known_is_told_as_well() -> None:
    assert str(UsageLimit()) == "a usage limit is reached; something must end first"
