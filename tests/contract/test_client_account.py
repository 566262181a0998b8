"""Templates, builds, events, webhooks and teams: what the client sends, and what it makes of the documented answers.

No service of ours has these routes (the local one refuses them), so a scripted one answers with the examples of the
wire contract (2.10, 2.11).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import anyio
import pytest

from sandbox_tools.client.control import ControlPlane
from sandbox_tools.errors import (
    SandboxRequestError,
    SandboxResponseError,
    SandboxTimeoutError,
    SandboxUnreachableError,
)
from sandbox_tools.wire.builds import BuildLogEntry, BuildProgress, BuildStep, NewBuild
from sandbox_tools.wire.control import VolumeMount
from sandbox_tools.wire.events import Delivery, SandboxEvent
from sandbox_tools.wire.teams import Team, TeamMetrics, TeamPeak
from sandbox_tools.wire.templates import CreatedTemplate, NewTemplate, Template, TemplateBuild, TemplateTag
from sandbox_tools.wire.webhooks import RetryPolicy, Webhook, WebhookSettings
from tests.contract.hostile import (
    Answer,
    http,
    json_answer,
    reset,
    silence,
)
from tests.contract.scripted import Scripted, scripted
from tests.contract.test_hostile_server import BODIES, MUST_FAIL, NONSENSE
from tests.leaks.graphs import paths_to
from tests.local.service import LocalServer

HASH = "0123456789abcdef" * 4
TIMES = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:01:00Z", "finishedAt": "2026-01-01T00:01:00Z"}
TEMPLATE = {"templateID": "tpl-base-0a1b", "buildID": "build-2", "buildStatus": "ready", "names": ["base"]}
BUILD = {
    "buildID": "build-2",
    "templateID": "tpl-1",
    "status": "error",
    "image": "i",
    "errorMessage": "no",
    "cpuCount": 2,
    **TIMES,
}
ENTRY = {"timestamp": "2026-01-01T00:00:01Z", "level": "info", "step": "RUN", "message": "made"}
HOOK = {"webhookID": "wh-1", "name": "n", "url": "https://x.example/h?t=1", "enabled": False, "events": ["a"]}
METRICS = {"timestamp": "2026-01-01T00:00:00Z", "timestampUnix": 1767225600}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_tools.client.retry.FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr("sandbox_tools.client.builds._POLL_S", 0.001)


@dataclass(frozen=True)
class Row:
    """A call, the request that it sends, and what it returns for an answer."""

    call: Callable[[ControlPlane], Awaitable[object]]
    sent: str
    body: object = None
    status: int = 200
    answer: object = field(default_factory=dict)
    result: object = None


NEW_TEMPLATE = NewTemplate(
    name="mine",
    tags=("v1",),
    cpu_count=2,
    memory_mb=512,
    base_template="tpl-0",
    visibility="team",
    envs={"A": "1"},
    volume_mounts=(VolumeMount(name="v", path="/v"),),
    workdir="/w",
)
NEW_BUILD = NewBuild(
    from_image="python:3.12",
    force=False,
    steps=(
        BuildStep(type="COPY", args=("app", "/app"), files_hash=HASH, force=True),
        BuildStep(type="ENV", args=("A", "1", "B", "2")),
        BuildStep(type="RUN", args=("make",)),
    ),
    start_cmd="serve",
    ready_cmd="true",
)
SETTINGS = WebhookSettings(
    name="n",
    url="https://x.example/h?t=1",
    enabled=False,
    events=("a",),
    dead_letter_url="https://x.example/dead",
    retry_policy=RetryPolicy(max_attempts=3, delays_s=(1, 5), dead_letter=True),
)
HOOK_VALUE = Webhook(
    webhook_id="wh-1", settings=WebhookSettings(name="n", url="https://x.example/h?t=1", enabled=False, events=("a",))
)

BUILD_VALUE = TemplateBuild(
    build_id="build-2",
    template_id="tpl-1",
    status="error",
    image="i",
    error_message="no",
    created_at="2026-01-01T00:00:00Z",
    updated_at="2026-01-01T00:01:00Z",
    finished_at="2026-01-01T00:01:00Z",
    cpu_count=2,
)

ROWS: dict[str, Row] = {
    "templates.get": Row(
        lambda c: c.templates.get("t/1", limit=0, next_token="a b"),
        "GET /templates/t%2F1?limit=0&nextToken=a+b",
        answer=TEMPLATE,
        result=Template(template_id="tpl-base-0a1b", build_id="build-2", build_status="ready", names=("base",)),
    ),
    "templates.create": Row(
        lambda c: c.templates.create(NEW_TEMPLATE),
        "POST /templates",
        {
            "name": "mine",
            "tags": ["v1"],
            "cpuCount": 2,
            "memoryMB": 512,
            "extensions": {
                "baseTemplateID": "tpl-0",
                "visibility": "team",
                "envs": {"A": "1"},
                "volumeMounts": [{"name": "v", "path": "/v"}],
                "workdir": "/w",
            },
        },
        202,
        {"templateID": "t1", "buildID": "b1", "public": False, "names": ["mine"], "tags": ["v1"], "aliases": ["m"]},
        CreatedTemplate(template_id="t1", build_id="b1", names=("mine",), tags=("v1",), aliases=("m",)),
    ),
    "templates.create, all default": Row(
        lambda c: c.templates.create(NewTemplate()),
        "POST /templates",
        {},
        202,
        {"templateID": "t1", "buildID": "b1", "names": None},
        CreatedTemplate(template_id="t1", build_id="b1"),
    ),
    "templates.update": Row(
        lambda c: c.templates.update("t/1", public=True),
        "PATCH /templates/t%2F1",
        {"public": True},
        200,
        {"names": ["mine"]},
        ("mine",),
    ),
    "templates.delete": Row(lambda c: c.templates.delete("t1"), "DELETE /templates/t1", status=204),
    "templates.rollback": Row(
        lambda c: c.templates.rollback("t1", "build-2"),
        "POST /templates/t1/rollback",
        {"buildID": "build-2"},
        200,
        TEMPLATE,
        Template(template_id="tpl-base-0a1b", build_id="build-2", build_status="ready", names=("base",)),
    ),
    "templates.tags": Row(
        lambda c: c.templates.tags("t1"),
        "GET /templates/t1/tags",
        answer=[{"tag": "v1", "buildID": "build-2", "createdAt": "2026-01-01T00:00:00Z", "new": 1}],
        result=(TemplateTag(tag="v1", build_id="build-2", created_at="2026-01-01T00:00:00Z"),),
    ),
    "templates.tag": Row(
        lambda c: c.templates.tag("mine:v1", ["v2", "latest"]),
        "POST /templates/tags",
        {"target": "mine:v1", "tags": ["v2", "latest"]},
        201,
        {"tags": ["v2", "latest"], "buildID": "build-2"},
        "build-2",
    ),
    "templates.untag": Row(
        lambda c: c.templates.untag("mine", ["v2"]),
        "DELETE /templates/tags",
        {"name": "mine", "tags": ["v2"]},
        204,
    ),
    "builds.start": Row(
        lambda c: c.builds.start("t1", "build-2", NEW_BUILD),
        "POST /templates/t1/builds/build-2",
        {
            "fromImage": "python:3.12",
            "force": False,
            "steps": [
                {"type": "COPY", "args": ["app", "/app"], "filesHash": HASH, "force": True},
                {"type": "ENV", "args": ["A", "1", "B", "2"]},
                {"type": "RUN", "args": ["make"]},
            ],
            "startCmd": "serve",
            "readyCmd": "true",
        },
        202,
    ),
    "builds.start, from a template": Row(
        lambda c: c.builds.start("t1", "b", NewBuild(from_template="base")),
        "POST /templates/t1/builds/b",
        {"fromTemplate": "base"},
        202,
    ),
    "builds.start, again": Row(lambda c: c.builds.start("t1", "b"), "POST /templates/t1/builds/b", status=202),
    "builds.list": Row(
        lambda c: c.builds.list("t1"),
        "GET /templates/t1/builds",
        answer={"builds": [BUILD, {"status": None}, 7], "total": 2},
        result=(BUILD_VALUE, TemplateBuild(build_id="", status="")),
    ),
    "builds.get": Row(
        lambda c: c.builds.get("t1", "build-2"),
        "GET /templates/t1/builds/build-2",
        answer=BUILD,
        result=BUILD_VALUE,
    ),
    "builds.status": Row(
        lambda c: c.builds.status("t1", "b", logs_offset=7, limit=5, level="warn"),
        "GET /templates/t1/builds/b/status?logsOffset=7&limit=5&level=warn",
        answer={
            "buildID": "b",
            "templateID": "t1",
            "status": "Building",
            "logs": ["made"],
            "logEntries": [ENTRY],
            "reason": None,
            "steps": [{}],
            "timeline": None,
        },
        result=BuildProgress(
            build_id="b",
            template_id="t1",
            status="building",
            entries=(BuildLogEntry(timestamp="2026-01-01T00:00:01Z", level="info", step="RUN", message="made"),),
        ),
    ),
    "builds.logs": Row(
        lambda c: c.builds.logs("t1", "b", cursor=9, limit=0, backward=True, level="info", source="persistent"),
        "GET /templates/t1/builds/b/logs?limit=0&direction=backward&cursor=9&level=info&source=persistent",
        answer={"logs": [ENTRY, {}]},
        result=(
            BuildLogEntry(timestamp="2026-01-01T00:00:01Z", level="info", step="RUN", message="made"),
            BuildLogEntry(message=""),
        ),
    ),
    "builds.has_context": Row(
        lambda c: c.builds.has_context("t1", HASH),
        f"GET /templates/t1/files/{HASH}",
        answer={"present": True},
        result=True,
    ),
    "events.list": Row(
        lambda c: c.events.list(types=["sandbox.lifecycle.created", "a&b"], offset=3, limit=20, oldest_first=True),
        "GET /events/sandboxes?offset=3&limit=20&orderAsc=true&types=sandbox.lifecycle.created&types=a%26b",
        answer=[{"id": "e1", "type": "sandbox.lifecycle.created", "data": {"cpu": 2, "token": "t"}, "many": [1]}],
        result=(
            SandboxEvent(
                type="sandbox.lifecycle.created",
                facts={"id": "e1", "type": "sandbox.lifecycle.created", "data.cpu": 2},
            ),
        ),
    ),
    "events.of": Row(
        lambda c: c.events.of("sb/1"),
        "GET /events/sandboxes/sb%2F1?offset=0&limit=100&orderAsc=false",
        answer=[],
        result=(),
    ),
    "webhooks.create": Row(
        lambda c: c.webhooks.create(SETTINGS),
        "POST /events/webhooks",
        {
            "name": "n",
            "url": "https://x.example/h?t=1",
            "enabled": False,
            "events": ["a"],
            "deadLetterURL": "https://x.example/dead",
            "retryPolicy": {"maxAttempts": 3, "delaySeconds": [1, 5], "deadLetterEnabled": True},
        },
        201,
        HOOK
        | {
            "deadLetterURL": "https://x.example/dead",
            "retryPolicy": {"maxAttempts": 3, "delaySeconds": [1, 5, "x", -1], "deadLetterEnabled": True},
        },
        replace(HOOK_VALUE, settings=SETTINGS),
    ),
    "webhooks.list": Row(lambda c: c.webhooks.list(), "GET /events/webhooks", answer=[HOOK], result=(HOOK_VALUE,)),
    "webhooks.get": Row(
        lambda c: c.webhooks.get("wh/1"), "GET /events/webhooks/wh%2F1", answer=HOOK, result=HOOK_VALUE
    ),
    "webhooks.update": Row(
        lambda c: c.webhooks.update("wh-1", WebhookSettings(enabled=False, events=())),
        "PATCH /events/webhooks/wh-1",
        {"enabled": False, "events": []},
        200,
        HOOK,
        HOOK_VALUE,
    ),
    "webhooks.delete": Row(
        lambda c: c.webhooks.delete("wh-1"), "DELETE /events/webhooks/wh-1", answer={"deleted": True}
    ),
    "webhooks.deliveries": Row(
        lambda c: c.webhooks.deliveries(event_id="e 1", status="failed", limit=20),
        "GET /events/webhook-deliveries?offset=0&limit=20&orderAsc=false&eventID=e+1&status=failed",
        answer=[{"id": "d1", "webhookID": "wh-1", "eventID": "e1", "status": "failed"}],
        result=(
            Delivery(
                delivery_id="d1",
                webhook_id="wh-1",
                event_id="e1",
                status="failed",
                facts={"id": "d1", "webhookID": "wh-1", "eventID": "e1", "status": "failed"},
            ),
        ),
    ),
    "webhooks.deliveries, of one": Row(
        lambda c: c.webhooks.deliveries("wh-1"),
        "GET /events/webhooks/wh-1/deliveries?offset=0&limit=100&orderAsc=false",
        answer=[],
        result=(),
    ),
    "webhooks.replay": Row(
        lambda c: c.webhooks.replay("d/1"),
        "POST /events/webhook-deliveries/d%2F1/replay",
        status=202,
        answer={"deliveryID": "d2"},
        result=Delivery(delivery_id="d2", facts={"deliveryID": "d2"}),
    ),
    "teams.list": Row(
        lambda c: c.teams.list(),
        "GET /teams",
        answer=[{"teamID": "team-1", "name": "Ours", "isDefault": True}],
        result=(Team(team_id="team-1", name="Ours", is_default=True),),
    ),
    "teams.metrics": Row(
        lambda c: c.teams.metrics("team/1", start_s=1, end_s=2),
        "GET /teams/team%2F1/metrics?start=1&end=2",
        answer=[METRICS | {"concurrentSandboxes": 3, "sandboxStartRate": 0.5}, {}],
        result=(
            TeamMetrics(
                timestamp="2026-01-01T00:00:00Z", unix_s=1767225600, concurrent_sandboxes=3, sandbox_start_rate=0.5
            ),
            TeamMetrics(),
        ),
    ),
    "teams.peak": Row(
        lambda c: c.teams.peak("team-1", "concurrent_sandboxes"),
        "GET /teams/team-1/metrics/max?metric=concurrent_sandboxes",
        answer=METRICS | {"value": 7},
        result=TeamPeak(value=7, timestamp="2026-01-01T00:00:00Z", unix_s=1767225600),
    ),
}


@pytest.mark.parametrize("name", ROWS)
async def test_a_call_is_sent_and_answered_as_the_contract_has_it(name: str) -> None:
    row = ROWS[name]
    answer = http(204) if row.status == 204 else json_answer(row.answer, row.status)
    async with scripted(answer) as service:
        result = await row.call(service.control)
        [request] = service.server.requests
        assert f"{request.method} {request.target}" == row.sent
        assert (json.loads(service.bodies[0]) if service.bodies[0] else None) == row.body
        assert request.header("Content-Type") == (None if row.body is None else "application/json")
        assert request.header("X-API-Key") == service.key
    if row.result is not None:
        assert result == row.result


@pytest.mark.parametrize("name", ROWS)
async def test_only_what_reads_is_sent_again(name: str) -> None:
    row = ROWS[name]
    async with scripted(reset()) as service:
        with pytest.raises(SandboxUnreachableError) as caught:
            await row.call(service.control)
        is_read = row.sent.startswith("GET")
        assert len(service.server.requests) == (3 if is_read else 1)
        assert caught.value.maybe_done is not is_read


REFUSED: dict[str, Callable[[ControlPlane], Awaitable[object]]] = {
    "the id of a build has capitals": lambda c: c.builds.start("t1", "Build"),
    "the id of a build is a path": lambda c: c.builds.get("t1", "../x"),
    "the id of a build is too long": lambda c: c.builds.status("t1", "b" * 64),
    "the id of a build to go back to": lambda c: c.templates.rollback("t1", "-b"),
    "a hash with capitals": lambda c: c.builds.has_context("t1", "A" * 64),
    "a hash that is too short": lambda c: c.builds.has_context("t1", "a" * 63),
    "a limit of templates": lambda c: c.templates.list(limit=101),
    "a limit of builds": lambda c: c.templates.get("t1", limit=101),
    "a limit of the log of a status": lambda c: c.builds.status("t1", "b", limit=-1),
    "a limit of a log": lambda c: c.builds.logs("t1", "b", limit=101),
    "an offset of events": lambda c: c.events.list(offset=-1),
    "a limit of deliveries": lambda c: c.webhooks.deliveries(limit=-1),
    "no tags": lambda c: c.templates.tag("mine:v1", []),
    "a text for tags": lambda c: c.templates.untag("mine", "v1"),
}


def of_each_kind(service: Scripted) -> list[Callable[[], Awaitable[object]]]:
    control = service.control
    return [
        lambda: control.templates.create(NEW_TEMPLATE),
        lambda: control.templates.tags("t1"),
        lambda: control.builds.status("t1", "b"),
        lambda: control.builds.list("t1"),
        lambda: control.builds.has_context("t1", HASH),
        control.events.list,
        lambda: control.webhooks.update("w", SETTINGS),
        control.webhooks.deliveries,
        control.teams.list,
        lambda: control.teams.peak("team-1", "sandbox_start_rate"),
    ]


async def errors_of_each_kind(answer: Answer) -> AsyncIterator[SandboxRequestError | None]:
    async with scripted(answer) as service:
        for call in of_each_kind(service):
            error: SandboxRequestError | None = None
            with anyio.fail_after(10):
                try:
                    await call()
                except SandboxRequestError as exc:
                    error = exc
            assert error is None or paths_to(service.key, error) == []
            yield error


@pytest.mark.parametrize("name", NONSENSE)
async def test_an_answer_that_makes_no_sense_is_a_typed_error_without_the_key(name: str) -> None:
    async for error in errors_of_each_kind(NONSENSE[name]):
        assert error is not None
        assert (error.__context__, error.__cause__) == (None, None)


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_makes_no_sense_raises_no_error_but_ours(name: str) -> None:
    errors = [error async for error in errors_of_each_kind(http(200, BODIES[name]))]
    if name in MUST_FAIL:
        assert None not in errors


async def test_of_a_list_without_end_the_first_thousand_are_kept() -> None:
    many = json.dumps([{"tag": "v"}] * 5000), json.dumps({"builds": [{}] * 5000})
    async with scripted(*[http(200, body.encode()) for body in many]) as service:
        assert len(await service.control.templates.tags("t1")) == 1000
        assert len(await service.control.builds.list("t1")) == 1000


async def test_of_an_answer_few_secrets_and_no_long_ones_are_registered() -> None:
    long, *keys = [secrets.token_urlsafe(count) for count in (300, *[24] * 40)]
    items = [{"teamID": "t", "apiKey": key} for key in (long, *keys)]
    async with scripted(json_answer(items)) as service:
        assert len(await service.control.teams.list()) == 41
        assert [service.redacted(key) == key for key in (long, keys[0], keys[15], keys[16])] == [
            True,
            False,
            False,
            True,
        ]


@pytest.mark.parametrize("name", REFUSED)
async def test_what_the_contract_does_not_allow_is_not_sent(name: str) -> None:
    async with scripted(json_answer({})) as service:
        with pytest.raises(ValueError, match=r"\.$"):
            await REFUSED[name](service.control)
        assert service.server.requests == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: BuildStep(type="COPY", args=("a", "b")),
        lambda: BuildStep(type="COPY", args=("a",), files_hash=HASH),
        lambda: BuildStep(type="COPY", args=("a", "b"), files_hash="xyz"),
        lambda: BuildStep(type="ENV", args=("A", "1", "B")),
        lambda: BuildStep(type="RUN", args=()),
        lambda: BuildStep(type="EXPOSE", args=("80",)),  # type: ignore[arg-type]
        lambda: NewTemplate(visibility="official"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_the_service_would_refuse_cannot_be_made(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        wrong()


async def test_a_build_is_waited_for_until_it_is_over() -> None:
    states = ["waiting", "building", "of-a-later-version", "READY"]
    async with scripted(*[json_answer({"status": state}) for state in states]) as service:
        progress = await service.control.builds.wait("t1", "b", timeout_s=10)
        assert (progress.is_ready, len(service.server.requests)) == (True, 4)


async def test_a_service_that_cannot_be_reached_for_a_while_does_not_end_the_waiting() -> None:
    lost, busy = [reset()] * 4, [http(503)] * 4
    async with scripted(*lost, *busy, json_answer({"status": "ready"})) as service:
        assert (await service.control.builds.wait("t1", "b", timeout_s=10)).is_ready


async def test_a_build_that_is_not_there_is_not_waited_for() -> None:
    async with scripted(json_answer({"message": "build not found"}, 404)) as service:
        with pytest.raises(SandboxResponseError, match="not_found, HTTP 404"):
            await service.control.builds.wait("t1", "b", timeout_s=10)


@pytest.mark.parametrize("state", ["error", "failed", "cancelled", "uploaded"])
async def test_a_build_that_failed_or_waits_for_a_context_is_over_and_not_ready(state: str) -> None:
    async with scripted(json_answer({"status": state, "reason": {"message": "why"}, "logs": ["a"]})) as service:
        progress = await service.control.builds.wait("t1", "b", timeout_s=10)
    assert (progress.status, progress.is_ready, progress.reason) == (state, False, "why")
    assert progress.entries == (BuildLogEntry(message="a"),)


@pytest.mark.parametrize("answer", [json_answer({"status": "of-a-later-version"}), silence()])
async def test_a_build_that_is_never_over_is_waited_for_until_the_deadline(answer: Answer) -> None:
    async with scripted(answer) as service:
        with pytest.raises(SandboxTimeoutError, match="wait for build b: no answer within") as caught:
            await service.control.builds.wait("t1", "b", timeout_s=0.1)
    assert not caught.value.maybe_done


def test_the_local_service_says_that_it_has_none_of_it(local_server: LocalServer) -> None:
    with local_server.client() as client:
        for root in ("", "/api/v1/sandbox"):
            for row in [row for name, row in ROWS.items() if name != "templates.get"]:
                method, _, target = row.sent.partition(" ")
                answer = client.request(method, root + target.replace("%2F", "-"), json=row.body)
                body = answer.json()
                assert (answer.status_code, body["code"], bool(body["requestID"])) == (404, 404, True), row.sent
                assert re.fullmatch(r"not supported locally: [a-z ]+ \(SeaCloud only\)", body["message"]), row.sent
        assert client.get("/teams", headers={"X-API-Key": "wrong"}).status_code == 401
