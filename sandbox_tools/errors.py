"""Every error that this package raises.

* SandboxToolsError
  x ConfigurationError            - a setting is missing or cannot be used
  x WeakSecretError               - a value cannot be registered as a secret
  x IsolationUnavailableError     - this machine cannot isolate a local sandbox; says what to do
  x ToolError                     - a tool could not do what it was asked; the message is for the model
  x SandboxRequestError           - a request to the control plane or to a sandbox failed
    + SandboxUnreachableError     - no connection, or it was lost before the whole answer came
      - ProcessLostError          - a process was started, but its end was not seen; it may still run
    + SandboxTimeoutError         - no answer in time
    + SandboxProtocolError        - the answer broke the wire format or a limit of ours
    + SandboxResponseError        - it answered with an error: kind, status, reason, usage_limit, request_id
      - SandboxNotFoundError      - the sandbox is not there (any more)

An error carries our own words and a few checked facts. It never carries a response body, a header,
a URL query or an upstream message, and it is raised outside the `except` block that caught its cause,
so that no `__context__` keeps a request (reference for the rule: docs/architecture.md, "Errors"). It can be
copied and pickled, which keeps exactly these facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

ErrorKind = Literal[
    "invalid", "authentication", "permission", "not_found", "timeout", "conflict", "rate_limit", "server", "unknown"
]
"""What an HTTP status means (wire contract 1.3)."""

ErrorReason = Literal[
    "is_directory",
    "not_a_directory",
    "not_a_file",
    "name_too_long",
    "path_not_found",
    "already_exists",
    "access_denied",
    "outside_allowed_directory",
    "no_space",
    "file_too_large",
    "sandbox_not_found",
    "process_not_found",
    "process_not_finished",
    "command_not_found",
    "port_not_listening",
    "isolation_unavailable",
    "usage_limit",
]
"""What an error body says, recognised from a fixed list of phrases so that no upstream text is passed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLimit:
    """A limit of the account that is full (wire contract 2.9). What was not well-formed is None.

    Attributes:
        scope: Whose limit ("project").
        resource: What is limited ("sandbox").
        metric: How it is counted ("concurrent").
        used: What is in use, in the metric's unit.
        limit: What may be in use.
        remaining: What is left.
        usage_endpoint: Path below the API root that tells more, without host and query.
    """

    scope: str | None = None
    resource: str | None = None
    metric: str | None = None
    used: int | None = None
    limit: int | None = None
    remaining: int | None = None
    usage_endpoint: str | None = None

    def __str__(self) -> str:
        """Say what is full, in our words."""
        what = " ".join(part for part in (self.scope, self.resource, self.metric) if part)
        numbers = {"used": self.used, "limit": self.limit, "remaining": self.remaining}
        facts = [what, *(f"{name} {number}" for name, number in numbers.items() if number is not None)]
        facts += [f"details at {self.usage_endpoint}"] if self.usage_endpoint else []
        said = ", ".join(filter(None, facts))
        return f"a usage limit is reached{f' ({said})' if said else ''}; something must end first"


class SandboxToolsError(Exception):
    """Base of all errors of this package."""

    def __reduce__(self) -> tuple[object, ...]:
        # The default calls the class with the message alone, which most of these cannot be made from.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(cls: type[SandboxToolsError], args: tuple[object, ...], facts: Mapping[str, object]) -> SandboxToolsError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(facts)
    return error


class ConfigurationError(SandboxToolsError):
    """A setting is missing or cannot be used. The message says which, and what to set."""


class WeakSecretError(SandboxToolsError):
    """A value cannot be registered as a secret: redacting it would damage ordinary text, or not protect it.

    Attributes:
        name: What the secret was to be called. The value is neither here nor in the message.
        problem: What is wrong with the value ("has fewer than 8 characters").
    """

    def __init__(self, name: str, problem: str) -> None:
        self.name: Final = name
        self.problem: Final = problem
        super().__init__(f"The value of {name} cannot be registered as a secret: it {problem}.")


class IsolationUnavailableError(SandboxToolsError):
    """This machine cannot isolate a local sandbox, so none is started.

    Attributes:
        reason: What was tried and failed.
        remedy: What to install or change on this platform.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason: Final = reason
        self.remedy: Final = remedy
        super().__init__(f"{reason} {remedy}")


class ToolError(SandboxToolsError):
    """A tool could not do what it was asked. The message is for the model: what failed, why, what to do next."""


MAYBE_DONE: Final = "It may have been done all the same: check before you do it again."


class SandboxRequestError(SandboxToolsError):
    """A request to the control plane or to a sandbox failed.

    Attributes:
        operation: What was asked, in our words ("create a sandbox").
        retryable: Whether the same request may succeed later.
        maybe_done: Whether the work may have been done although no good answer came: the request changes something,
            and some of it may have arrived. False: it surely was not done, or it only reads.
    """

    retryable = False

    def __init__(self, operation: str, what: str, *, maybe_done: bool = False) -> None:
        self.operation: Final = operation
        self.maybe_done: Final = maybe_done
        super().__init__(f"Could not {operation}: {what}{f' {MAYBE_DONE}' if maybe_done else ''}")


class SandboxUnreachableError(SandboxRequestError):
    """There was no connection to the control plane or to the sandbox, or it was lost before the whole answer came.

    Attributes:
        was_sent: Whether some of the request may have arrived. False: no connection was made for it.
    """

    retryable = True

    def __init__(self, operation: str, *, was_sent: bool = False, maybe_done: bool = False) -> None:
        self.was_sent: Final = was_sent
        what = (
            "the connection was lost before the whole answer came."
            if was_sent
            else "no connection, so nothing was done."
        )
        super().__init__(operation, what, maybe_done=maybe_done)


class ProcessLostError(SandboxUnreachableError):
    """The connection to a process was lost, and nobody knows how it ended. It may still run.

    Attributes:
        pid: In the sandbox; None when the connection was lost before the process said that it started.
    """

    retryable = False

    def __init__(self, operation: str, pid: int | None) -> None:
        self.pid: Final = pid
        super().__init__(operation, was_sent=True, maybe_done=True)
        if pid is not None:
            self.args = (f"{self.args[0]} Its pid is {pid}.",)


class SandboxTimeoutError(SandboxRequestError):
    """The answer did not come in time.

    Attributes:
        timeout_s: The deadline that passed, in seconds.
    """

    retryable = True

    def __init__(self, operation: str, timeout_s: float, *, maybe_done: bool = False) -> None:
        self.timeout_s: Final = timeout_s
        super().__init__(operation, f"no answer within {timeout_s:g} s.", maybe_done=maybe_done)


class SandboxProtocolError(SandboxRequestError):
    """The answer broke the wire format, or a limit that protects this process."""

    def __init__(self, operation: str, what: str, *, maybe_done: bool = False) -> None:
        super().__init__(operation, f"the answer is not valid: {what}.", maybe_done=maybe_done)


class SandboxResponseError(SandboxRequestError):
    """The control plane or the sandbox answered with an error.

    Attributes:
        kind: The class of the error.
        status: HTTP status; 200 when the error came at the end of a stream.
        reason: What the body says, if it is one of the phrases that we know.
        request_id: For the operator's support, if the answer carried a well-formed one.
        usage_limit: What is full, when that is the reason. Not retryable: something must end first.
        retry_after_s: How long the server asks to wait, in seconds, if it does (`Retry-After`).
    """

    def __init__(
        self,
        operation: str,
        *,
        kind: ErrorKind,
        status: int,
        reason: ErrorReason | None = None,
        request_id: str | None = None,
        usage_limit: UsageLimit | None = None,
        retry_after_s: float | None = None,
        maybe_done: bool = False,
    ) -> None:
        self.kind: Final[ErrorKind] = kind
        self.status: Final = status
        self.reason: Final[ErrorReason | None] = reason
        self.request_id: Final = request_id
        self.usage_limit: Final = usage_limit
        self.retry_after_s: Final = retry_after_s
        self.retryable = kind in ("timeout", "rate_limit", "server") and usage_limit is None
        facts = [f"{kind}, HTTP {status}"]
        facts += [str(usage_limit)] if usage_limit else [reason] if reason else []
        facts += [f"request {request_id}"] if request_id else []
        wait = f" It asks to wait {retry_after_s:.0f} s." if retry_after_s else ""
        super().__init__(operation, f"{', '.join(facts)}.{wait}", maybe_done=maybe_done)


class SandboxNotFoundError(SandboxResponseError):
    """The sandbox is not there: it ended, it was deleted, or the id is wrong."""

    def __init__(self, operation: str, *, status: int = 404, request_id: str | None = None) -> None:
        super().__init__(operation, kind="not_found", status=status, reason="sandbox_not_found", request_id=request_id)
