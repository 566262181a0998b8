"""Templates, builds, events, webhooks and teams: what the client sends, and what it makes of the documented answers.

No service of ours has these routes (the local one refuses them), so a scripted one answers with the examples of the
wire contract (2.10, 2.11).
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_tools.client.builds import AwsLogin, GcpLogin, RegistryLogin
from sandbox_tools.client.control import ControlPlane
from sandbox_tools.client.upload import is_acceptable
from sandbox_tools.errors import (
    SandboxProtocolError,
    SandboxRequestError,
    SandboxResponseError,
    SandboxTimeoutError,
    SandboxUnreachableError,
    WeakSecretError,
)
from sandbox_tools.redaction import Redactor, Registry, Secret
from sandbox_tools.wire.builds import BuildLogEntry, BuildProgress, BuildStep, NewBuild
from sandbox_tools.wire.control import VolumeMount
from sandbox_tools.wire.events import Delivery, SandboxEvent
from sandbox_tools.wire.teams import Team, TeamMetrics, TeamPeak
from sandbox_tools.wire.templates import CreatedTemplate, NewTemplate, TemplateTag
from sandbox_tools.wire.webhooks import RetryPolicy, Webhook, WebhookSettings
from tests.contract.hostile import (
    Answer,
    HostileServer,
    Request,
    hostile_server,
    http,
    json_answer,
    raw,
    recording,
    reset,
    silence,
)
from tests.leaks.graphs import paths_to
from tests.local.service import LocalServer

HASH = "0123456789abcdef" * 4
TIMES = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:01:00Z", "finishedAt": "2026-01-01T00:01:00Z"}
TEMPLATE = {"templateID": "tpl-base-0a1b", "buildID": "build-2", "buildStatus": "ready", "names": ["base"]}
BUILD = {"buildID": "build-2", "templateID": "tpl-1", "status": "error", "image": "i", "errorMessage": "no", **TIMES}
ENTRY = {"timestamp": "2026-01-01T00:00:01Z", "level": "info", "step": "RUN", "message": "made"}
HOOK = {"webhookID": "wh-1", "name": "n", "url": "https://x.example/h?t=1", "enabled": False, "events": ["a"]}
METRICS = {"timestamp": "2026-01-01T00:00:00Z", "timestampUnix": 1767225600}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_tools.client.retry.FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr("sandbox_tools.client.builds._POLL_S", 0.001)


@dataclass
class Scripted:
    """A control plane that answers as told, and its client."""

    server: HostileServer
    control: ControlPlane
    registry: Registry
    bodies: list[bytes]
    key: str

    def secret(self, name: str) -> tuple[Secret, str]:
        value = secrets.token_urlsafe(24)
        return self.registry.register(name, value), value

    def redacted(self, text: str) -> str:
        return Redactor(self.registry).text(text)


@asynccontextmanager
async def scripted(*answers: Answer) -> AsyncIterator[Scripted]:
    bodies: list[bytes] = []
    registry = Registry()
    key = secrets.token_urlsafe(32)
    async with hostile_server(*[recording(bodies, answer) for answer in answers]) as server:
        control = ControlPlane(server.base_url, registry.register("SEACLOUD_API_KEY", key), registry)
        try:
            yield Scripted(server, control, registry, bodies, key)
        finally:
            await control.aclose()


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

ROWS: dict[str, Row] = {
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
        lambda c: c.builds.list("t1"), "GET /templates/t1/builds", answer={"builds": [], "total": 0}, result=()
    ),
    "builds.get": Row(lambda c: c.builds.get("t1", "build-2"), "GET /templates/t1/builds/build-2", answer=BUILD),
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
    "a limit of the log of a status": lambda c: c.builds.status("t1", "b", limit=-1),
    "a limit of a log": lambda c: c.builds.logs("t1", "b", limit=101),
    "an offset of events": lambda c: c.events.list(offset=-1),
    "a limit of deliveries": lambda c: c.webhooks.deliveries(limit=-1),
    "no tags": lambda c: c.templates.tag("mine:v1", []),
    "a text for tags": lambda c: c.templates.untag("mine", "v1"),
}


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
            for row in ROWS.values():
                method, _, target = row.sent.partition(" ")
                answer = client.request(method, root + target.replace("%2F", "-"), json=row.body)
                body = answer.json()
                assert (answer.status_code, body["code"], bool(body["requestID"])) == (404, 404, True), row.sent
                assert re.fullmatch(r"not supported locally: [a-z ]+ \(SeaCloud only\)", body["message"]), row.sent
        assert client.get("/teams", headers={"X-API-Key": "wrong"}).status_code == 401


# --- secrets ---------------------------------------------------------------------------------------------------------


async def test_what_logs_in_to_a_registry_is_sent_and_redacted_and_in_no_repr() -> None:
    async with scripted(json_answer({}, 202)) as service:
        (one, a), (two, b), (three, c), (four, d) = map(service.secret, ["ONE", "TWO", "THREE", "FOUR"])
        logins: list[tuple[Any, dict[str, str]]] = [
            (RegistryLogin(username="u", password=one), {"type": "registry", "username": "u", "password": a}),
            (
                AwsLogin(access_key_id=two, secret_access_key=three, region="r"),
                {"type": "aws", "awsAccessKeyId": b, "awsSecretAccessKey": c, "awsRegion": "r"},
            ),
            (GcpLogin(service_account_json=four), {"type": "gcp", "serviceAccountJson": d}),
        ]
        for login, sent in logins:
            await service.control.builds.start("t1", "b", login=login)
            assert json.loads(service.bodies[-1]) == {"fromImageRegistry": sent}
            assert service.redacted(repr(login)) == repr(login)


async def test_a_secret_of_another_registry_is_registered_before_it_is_sent() -> None:
    value = secrets.token_urlsafe(24)
    foreign = Registry().register("PASSWORD", value)
    async with scripted(http(500), http(500)) as service:
        with pytest.raises(SandboxResponseError):
            await service.control.builds.start("t1", "b", login=RegistryLogin(username="u", password=foreign))
        assert service.redacted(f"<{value}>") == "<[REDACTED:PASSWORD]>"


async def test_a_secret_that_cannot_be_redacted_is_not_sent() -> None:
    weak = Secret("PASSWORD", "12345678")
    async with scripted(json_answer({})) as service:
        for call in (
            service.control.builds.start("t1", "b", login=RegistryLogin(username="u", password=weak)),
            service.control.webhooks.create(SETTINGS, signature_secret=weak),
        ):
            with pytest.raises(WeakSecretError):
                await call
        assert service.server.requests == []


async def test_the_secret_of_a_webhook_is_sent_and_never_returned() -> None:
    async with scripted(*[json_answer(HOOK | {"signatureSecret": "s" + "0123456789abcdef" * 2})] * 3) as service:
        secret, value = service.secret("HOOK_SECRET")
        made = await service.control.webhooks.create(SETTINGS, signature_secret=secret)
        await service.control.webhooks.update("wh-1", WebhookSettings(), signature_secret=secret)
        assert [json.loads(body)["signatureSecret"] for body in service.bodies] == [value, value]
        got = await service.control.webhooks.get("wh-1")
        assert "0123456789abcdef" not in repr((made, got))
        assert "x.example" not in repr((made, got))
        assert service.redacted("s" + "0123456789abcdef" * 2) == "[REDACTED:WEBHOOK_SECRET]"


async def test_the_api_key_of_a_team_is_redacted_and_no_part_of_the_result() -> None:
    keys = [f"key-{secrets.token_urlsafe(24)}" for _ in range(3)]
    items = [{"teamID": f"team-{key[4:8]}", "apiKey": key} for key in keys]
    strange = [{"teamID": "t", "apiKey": odd} for odd in ("***", None, 7, "k" * 9000)]
    async with scripted(json_answer([*items, *strange])) as service:
        teams = await service.control.teams.list()
        assert len(teams) == 7
        for key in keys:
            assert key not in repr(teams)
            assert service.redacted(key) == "[REDACTED:TEAM_API_KEY]"
        assert service.redacted("***") == "***"


SECRET_CALLS: dict[str, Callable[[Scripted, Secret], Awaitable[object]]] = {
    "builds.start": lambda s, secret: s.control.builds.start(
        "t1", "b", login=RegistryLogin(username="u", password=secret)
    ),
    "webhooks.create": lambda s, secret: s.control.webhooks.create(SETTINGS, signature_secret=secret),
    "webhooks.update": lambda s, secret: s.control.webhooks.update("w", SETTINGS, signature_secret=secret),
}


@pytest.mark.parametrize("answer", [http(500), reset(), http(200, b"no JSON"), raw(b"\0"), http(302)])
@pytest.mark.parametrize("name", SECRET_CALLS)
async def test_no_secret_that_was_sent_can_be_reached_from_an_error(name: str, answer: Answer) -> None:
    error: SandboxRequestError | None = None
    async with scripted(answer) as service:
        secret, value = service.secret("A_SECRET")
        try:
            await SECRET_CALLS[name](service, secret)
        except SandboxRequestError as exc:
            error = exc
        assert value in service.bodies[0].decode()
    assert error or name == "builds.start"  # whose good answer says nothing
    if error:
        assert paths_to(value, error) == []
        assert error.__context__ is None


@pytest.mark.parametrize("name", ["list", "get", "teams"])
async def test_no_secret_that_was_answered_can_be_reached_from_an_error(name: str) -> None:
    value = secrets.token_urlsafe(24)
    broken = {"signatureSecret": value, "apiKey": value}
    async with scripted(json_answer(broken if name == "get" else [broken])) as service:
        call = {
            "list": service.control.webhooks.list,
            "get": lambda: service.control.webhooks.get("w"),
            "teams": service.control.teams.list,
        }[name]
        with pytest.raises(SandboxProtocolError) as caught:
            await call()
        assert paths_to(value, caught.value) == []
        assert service.redacted(value).startswith("[REDACTED:")


# --- uploads ---------------------------------------------------------------------------------------------------------


def archive(tmp_path: Path, size: int = 600_000) -> tuple[Path, bytes]:
    data = secrets.token_bytes(size)
    path = tmp_path / "context.tar.gz"
    path.write_bytes(data)
    return path, data


def signed(store: HostileServer | str) -> tuple[str, str]:
    """Return a presigned URL of a store, and its signature."""
    signature = secrets.token_hex(32)
    base = store if isinstance(store, str) else store.base_url
    return f"{base}/bucket/a%20b?X-Goog-Date=20260101T000000Z&X-Goog-Signature={signature}&z=%2F", signature


@asynccontextmanager
async def store(*answers: Answer) -> AsyncIterator[tuple[HostileServer, list[bytes]]]:
    bodies: list[bytes] = []
    async with hostile_server(*[recording(bodies, answer) for answer in answers]) as server:
        yield server, bodies


async def test_a_context_is_uploaded_to_another_host_without_the_api_key(tmp_path: Path) -> None:
    path, data = archive(tmp_path)
    async with store(http(200)) as (bucket, stored):
        url, signature = signed(bucket)
        answer = json_answer({"present": False, "url": url, "maxContextBytes": 1_000_000})
        async with scripted(answer) as service:
            files_hash = await service.control.builds.upload_context("t1", path)
            assert files_hash == hashlib.sha256(data).hexdigest()
            assert [request.target for request in service.server.requests] == [f"/templates/t1/files/{files_hash}"]
            [put] = bucket.requests
            assert (put.method, f"{bucket.base_url}{put.target}") == ("PUT", url)
            assert put.header("Content-Type") == "application/x-tar"
            assert put.header("x-goog-content-length-range") == "0,1000000"
            assert (put.header("Content-Length"), put.header("Transfer-Encoding")) == (str(len(data)), None)
            assert stored == [data]
            for name in ("X-API-Key", "Authorization", "Cookie", "X-Access-Token"):
                assert put.header(name) is None
            assert service.key.encode() not in put.head
            assert service.redacted(signature) == "[REDACTED:UPLOAD_URL]"


async def test_a_context_without_a_limit_is_sent_without_one(tmp_path: Path) -> None:
    path, data = archive(tmp_path, 10)
    async with store(http(204)) as (bucket, stored):
        url = signed(bucket)[0]
        async with scripted(json_answer({"present": False, "url": url, "maxContextBytes": None})) as service:
            await service.control.builds.upload_context("t1", str(path))
        assert bucket.requests[0].header("x-goog-content-length-range") is None
        assert stored == [data]


async def test_a_context_that_is_there_or_too_large_is_not_sent(tmp_path: Path) -> None:
    path, data = archive(tmp_path, 1001)
    async with store(http(200)) as (bucket, _):
        url, signature = signed(bucket)
        answers = [
            json_answer({"present": True, "url": url}),
            json_answer({"present": False, "url": url, "maxContextBytes": 1000}),
        ]
        async with scripted(*answers) as service:
            assert await service.control.builds.upload_context("t1", path) == hashlib.sha256(data).hexdigest()
            with pytest.raises(ValueError, match=r"1,001 bytes; the service takes 1,000") as caught:
                await service.control.builds.upload_context("t1", path)
            assert paths_to(signature, caught.value) == []
        assert bucket.requests == []


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "http://store.example/x?sig={}",
        "https://user:pass@store.example/x?sig={}",
        "ftp://127.0.0.1/x?sig={}",
        "https://[bad/x?sig={}",
        "https://store.example:99999/x?sig={}",
        "https://store.example/x?sig={}#part",
        "https://store.example/x?sig={}\r\nX-Evil: 1",
        "https:///x?sig={}",
        "/x?sig={}",
        "http://127.0.0.1.example/x?sig={}",
        "file:///etc/passwd?sig={}",
    ],
)
async def test_a_url_that_is_not_safe_is_not_uploaded_to(tmp_path: Path, url: str | None) -> None:
    path, _ = archive(tmp_path, 10)
    signature = secrets.token_hex(32)
    answer = json_answer({"present": False, "url": url and url.format(signature)})
    async with scripted(answer) as service:
        with pytest.raises(SandboxProtocolError, match="no URL that may be uploaded to") as caught:
            await service.control.builds.upload_context("t1", path)
        assert paths_to(signature, caught.value) == []


def test_a_service_elsewhere_may_not_name_a_server_on_this_machine() -> None:
    assert is_acceptable("http://127.0.0.1:80/x?s=1", loopback=True)
    assert not is_acceptable("http://127.0.0.1:80/x?s=1", loopback=False)
    assert is_acceptable("https://store.example/x?s=1", loopback=False)


STORES: dict[str, Answer] = {
    "refuses": http(403),
    "redirects": http(307, b"", "Location: http://127.0.0.1:1/elsewhere"),
    "breaks off": reset(),
    "speaks no HTTP": raw(b"\0\r\n\r\n"),
    "switches protocols": http(101, b"", "Upgrade: x"),
    "compresses": http(200, b"x", "Content-Encoding: gzip"),
}


def echoing(status: int) -> Answer:
    """A store that puts the URL wherever an error has a place for a text."""

    async def answer(request: Request, stream: anyio.abc.ByteStream) -> None:
        signature = request.target.partition("Signature=")[2].partition("&")[0]
        details = {"reason": "usage_limit", "scope": signature, "usageEndpoint": f"/{signature}"}
        body = {"error": request.target, "message": request.target, "requestID": signature, "details": details}
        await http(status, json.dumps(body).encode(), f"Retry-After: {signature}")(request, stream)

    return answer


@pytest.mark.parametrize("name", [*STORES, "echoes", "echoes a limit", "is not there"])
async def test_an_upload_that_fails_says_so_without_the_url(tmp_path: Path, name: str) -> None:
    path, data = archive(tmp_path, 100)
    answer = STORES.get(name) or echoing(400 if name == "echoes" else 429)
    async with hostile_server(silence()) as gone:
        nowhere = gone.base_url
    async with store(answer) as (bucket, _):
        url, signature = signed(nowhere if name == "is not there" else bucket)
        async with scripted(json_answer({"present": False, "url": url})) as service:
            with pytest.raises(SandboxRequestError) as caught, anyio.fail_after(10):
                await service.control.builds.upload_context("t1", path)
        assert len(bucket.requests) == (0 if name == "is not there" else 1)
    error = caught.value
    assert paths_to(signature, error) == []
    assert "/bucket" not in str(error)
    assert f"upload build context {hashlib.sha256(data).hexdigest()[:12]}" in str(error)
    assert (error.__context__, error.__cause__) == (None, None)


async def test_the_url_of_an_upload_cannot_be_reached_from_its_cancellation(tmp_path: Path) -> None:
    path, _ = archive(tmp_path, 100)
    async with store(silence()) as (bucket, stored):
        url, signature = signed(bucket)
        async with scripted(json_answer({"present": False, "url": url})) as service:
            ended: list[BaseException] = []

            async def upload() -> None:
                try:
                    await service.control.builds.upload_context("t1", path)
                except BaseException as exc:
                    ended.append(exc)
                    raise

            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(upload)
                    while not stored:
                        await anyio.sleep(0.001)
                    tasks.cancel_scope.cancel()
    assert paths_to(signature, ended[0]) == []


async def test_a_url_without_anything_to_redact_is_not_uploaded_to(tmp_path: Path) -> None:
    path, _ = archive(tmp_path, 100)
    async with (
        store(http(200)) as (bucket, _),
        scripted(json_answer({"present": False, "url": f"{bucket.base_url}/a?b=c"})) as service,
    ):
        with pytest.raises(WeakSecretError):
            await service.control.builds.upload_context("t1", path)
        assert bucket.requests == []


async def test_many_uploads_leave_room_for_other_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_tools.redaction.registry.MAX_LIVE", 3)
    async with store(http(200)) as (bucket, _):
        answers = [json_answer({"present": True, "url": signed(bucket)[0]}) for _ in range(6)]
        async with scripted(*answers) as service:
            for _ in answers:
                await service.control.builds.has_context("t1", HASH)
            service.secret("ONE_MORE")


async def test_a_service_cannot_have_a_secret_forgotten_by_naming_it_in_a_url() -> None:
    async with scripted(silence()) as service:
        service.server.answers[:] = [json_answer({"present": True, "url": f"https://s.example/x?sig={service.key}"})]
        await service.control.builds.has_context("t1", HASH)
        assert service.registry.register("OTHER", service.key).name == "SEACLOUD_API_KEY"
        assert len(service.registry._retired) == 0
