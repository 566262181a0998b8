"""What the service refuses, whichever route asks. `refusals.py` has the answers."""

from __future__ import annotations

from typing import Final

from sandbox_tools.local.isolation import IsolationReport


class RegistryError(Exception):
    """The registry refuses."""


class SandboxLimitError(RegistryError):
    """As many sandboxes as allowed are there.

    Attributes:
        metric: What there is too much of: `concurrent` (they run) or `total` (the paused ones too).
        retry_after_s: When the first of them ends if nobody does anything.
    """

    def __init__(self, *, metric: str, limit: int, retry_after_s: int) -> None:
        self.metric: Final = metric
        self.limit: Final = limit
        self.retry_after_s: Final = retry_after_s
        super().__init__("sandbox limit reached")


class NotPausableError(RegistryError):
    """The sandbox does not run. The message says why."""


class IsolationMissingError(RegistryError):
    """This machine cannot isolate a sandbox now."""

    def __init__(self, report: IsolationReport) -> None:
        self.report: Final = report
        super().__init__("isolation is not available")
