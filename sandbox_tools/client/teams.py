"""Teams and how much they use (wire contract 2.11)."""

from __future__ import annotations

from urllib.parse import quote

from sandbox_tools.client.answers import listed, listed_without_secrets, parsed, traceless
from sandbox_tools.client.transport import Transport
from sandbox_tools.redaction import Registry
from sandbox_tools.wire.teams import (
    Team,
    TeamMetric,
    TeamMetrics,
    TeamPeak,
    api_key_from_json,
    span_query,
    team_from_json,
    team_metrics_from_json,
    team_peak_from_json,
)


class Teams:
    """Reads what there is of teams; `ControlPlane.teams`. Every method raises `SandboxRequestError`.

    Args:
        registry: Where the API keys of teams are registered before an answer with them is read.
    """

    def __init__(self, transport: Transport, registry: Registry) -> None:
        self._transport = transport
        self._registry = registry

    async def list(self) -> tuple[Team, ...]:
        """Return the teams of the caller, without the API keys that the answer has."""
        return await traceless(self._list)

    async def metrics(
        self, team_id: str, *, start_s: int | None = None, end_s: int | None = None
    ) -> tuple[TeamMetrics, ...]:
        """Return how much a team used over time.

        Args:
            start_s: Unix time in seconds, as `end_s` is; None: as the service likes.
        """
        operation = "read the metrics of a team"
        response = await self._transport.request(
            "GET", _path(team_id), operation=operation, params=span_query(start_s, end_s)
        )
        return listed(operation, response, team_metrics_from_json)

    async def peak(
        self, team_id: str, metric: TeamMetric, *, start_s: int | None = None, end_s: int | None = None
    ) -> TeamPeak:
        """Return the highest value of a metric in a span of time, as for `metrics`."""
        operation = "read the highest metrics of a team"
        params = {"metric": metric, **span_query(start_s, end_s)}
        response = await self._transport.request("GET", f"{_path(team_id)}/max", operation=operation, params=params)
        return parsed(operation, lambda: team_peak_from_json(response.json_object("the metrics")))

    async def _list(self) -> tuple[Team, ...]:
        operation = "list the teams"
        response = await self._transport.request("GET", "/teams", operation=operation)
        return listed_without_secrets(
            operation,
            response,
            team_from_json,
            registry=self._registry,
            name="TEAM_API_KEY",
            secret_of=api_key_from_json,
        )


def _path(team_id: str) -> str:
    return f"/teams/{quote(team_id, safe='')}/metrics"
