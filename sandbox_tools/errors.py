"""Every error that this package raises.

* SandboxToolsError
  x ConfigurationError            - a setting is missing or cannot be used
  x WeakSecretError               - a value cannot be registered as a secret
  x IsolationUnavailableError     - this machine cannot isolate a local sandbox; says what to do
  x ToolError                     - a tool could not do what it was asked; the message is for the model
  x SandboxRequestError           - a request to the control plane or to a sandbox failed
    + SandboxUnreachableError     - no connection; nothing was sent, or nobody knows how much
    + SandboxTimeoutError         - no answer in time; the work may have been done
    + SandboxProtocolError        - the answer broke the wire format or a limit of ours
    + SandboxResponseError        - it answered with an error: kind, status, reason, request_id
      - SandboxNotFoundError      - the sandbox is not there (any more)

An error carries our own words and a few checked facts. It never carries a response body, a header,
a URL query or an upstream message, and it is raised outside the `except` block that caught its cause,
so that no `__context__` keeps a request (reference for the rule: docs/architecture.md, "Errors").
"""

from __future__ import annotations

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


class SandboxToolsError(Exception):
    """Base of all errors of this package."""


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


class SandboxRequestError(SandboxToolsError):
    """A request to the control plane or to a sandbox failed.

    Attributes:
        operation: What was asked, in our words ("create a sandbox").
        retryable: Whether the same request may succeed later.
    """

    retryable = False

    def __init__(self, operation: str, what: str) -> None:
        self.operation: Final = operation
        super().__init__(f"Could not {operation}: {what}")


class SandboxUnreachableError(SandboxRequestError):
    """There was no connection to the control plane or to the sandbox."""

    retryable = True

    def __init__(self, operation: str) -> None:
        super().__init__(operation, "no connection.")


class SandboxTimeoutError(SandboxRequestError):
    """The answer did not come in time. The work may have been done.

    Attributes:
        timeout_s: The deadline that passed, in seconds.
    """

    retryable = True

    def __init__(self, operation: str, timeout_s: float) -> None:
        self.timeout_s: Final = timeout_s
        super().__init__(operation, f"no answer within {timeout_s:g} s.")


class SandboxProtocolError(SandboxRequestError):
    """The answer broke the wire format, or a limit that protects this process."""

    def __init__(self, operation: str, what: str) -> None:
        super().__init__(operation, f"the answer is not valid: {what}.")


class SandboxResponseError(SandboxRequestError):
    """The control plane or the sandbox answered with an error.

    Attributes:
        kind: The class of the error.
        status: HTTP status; 200 when the error came at the end of a stream.
        reason: What the body says, if it is one of the phrases that we know.
        request_id: For the operator's support, if the answer carried a well-formed one.
    """

    def __init__(
        self,
        operation: str,
        *,
        kind: ErrorKind,
        status: int,
        reason: ErrorReason | None = None,
        request_id: str | None = None,
    ) -> None:
        self.kind: Final[ErrorKind] = kind
        self.status: Final = status
        self.reason: Final[ErrorReason | None] = reason
        self.request_id: Final = request_id
        self.retryable = kind in ("timeout", "rate_limit", "server")
        detail = f"{kind}, HTTP {status}" + (f", {reason}" if reason else "")
        super().__init__(operation, f"{detail}{f', request {request_id}' if request_id else ''}.")


class SandboxNotFoundError(SandboxResponseError):
    """The sandbox is not there: it ended, it was deleted, or the id is wrong."""

    def __init__(self, operation: str, *, status: int = 404, request_id: str | None = None) -> None:
        super().__init__(operation, kind="not_found", status=status, request_id=request_id)
