"""Teams and how much they use (wire contract 2.11). The contract has the JSON names from the API of E2B."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.fields import number, text, whole

TeamMetric = Literal["concurrent_sandboxes", "sandbox_start_rate"]
"""How many sandboxes there are at once; how many are started a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A team of the account. Its API key, which the service tells, is not part of it."""

    team_id: str
    name: str = ""
    is_default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamMetrics:
    """How much a team used at one time. What was not measured is None.

    Attributes:
        timestamp: RFC 3339 UTC, or "".
        unix_s: The same, as Unix time in seconds.
        concurrent_sandboxes: Sandboxes that were there.
        sandbox_start_rate: Sandboxes started a second.
    """

    timestamp: str = ""
    unix_s: int | None = None
    concurrent_sandboxes: float | None = None
    sandbox_start_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamPeak:
    """The highest value of a metric, and when it was. The times are those of `TeamMetrics`."""

    value: float | None
    timestamp: str = ""
    unix_s: int | None = None


def team_from_json(message: object) -> Team:
    """Read a team.

    Raises:
        WireError: It is not an object with an id.
    """
    fields = message if isinstance(message, dict) else {}
    team_id = text(fields, "teamID") or text(fields, "id")
    if not team_id:
        raise WireError("a team has no id")
    return Team(team_id=team_id, name=text(fields, "name"), is_default=fields.get("isDefault") is True)


def api_key_from_json(message: object) -> str | None:
    """Read the API key of a team. Register it before anything else sees the answer."""
    return text(message, "apiKey") or None if isinstance(message, dict) else None


def team_metrics_from_json(message: object) -> TeamMetrics:
    """Read what a team used at one time.

    Raises:
        WireError: It is not an object.
    """
    if not isinstance(message, dict):
        raise WireError("metrics of a team are not an object")
    return TeamMetrics(
        timestamp=text(message, "timestamp"),
        unix_s=whole(message, "timestampUnix"),
        concurrent_sandboxes=number(message, "concurrentSandboxes"),
        sandbox_start_rate=number(message, "sandboxStartRate"),
    )


def team_peak_from_json(message: Mapping[str, object]) -> TeamPeak:
    """Read the highest value of a metric."""
    return TeamPeak(
        value=number(message, "value"), timestamp=text(message, "timestamp"), unix_s=whole(message, "timestampUnix")
    )


def span_query(start_s: int | None, end_s: int | None) -> dict[str, str]:
    """Return the query of a span of time, in Unix seconds; what is None is the service's default."""
    times = {"start": start_s, "end": end_s}
    return {name: str(time) for name, time in times.items() if time is not None}
