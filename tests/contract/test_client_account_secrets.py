"""What goes in as a secret and what comes out of the account: sent where it belongs, redacted, and in no error.

Registry passwords, secrets of webhooks, API keys of teams, and the URL of an upload, on another host.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_tools.client.builds import AwsLogin, GcpLogin, RegistryLogin
from sandbox_tools.client.upload import capability_of, is_acceptable
from sandbox_tools.errors import (
    SandboxProtocolError,
    SandboxRequestError,
    SandboxResponseError,
    WeakSecretError,
)
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.wire.builds import BuildProgress, BuildStep, NewBuild
from sandbox_tools.wire.events import Delivery, SandboxEvent
from sandbox_tools.wire.templates import NewTemplate
from sandbox_tools.wire.webhooks import WebhookSettings
from tests.contract.hostile import (
    Answer,
    HostileServer,
    Request,
    endless,
    hostile_server,
    http,
    json_answer,
    raw,
    reset,
    silence,
)
from tests.contract.scripted import Scripted, scripted, store
from tests.leaks.graphs import paths_to

HASH = "0123456789abcdef" * 4
HOOK = {"webhookID": "wh-1", "name": "n", "url": "https://x.example/h?t=1", "enabled": False}
SETTINGS = WebhookSettings(name="n", url="https://x.example/h?t=1")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_tools.client.retry.FIRST_PAUSE_S", 0.0)


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


async def test_no_line_of_any_log_has_the_url_of_an_upload_or_the_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path, _ = archive(tmp_path, 10)
    async with store(http(200)) as (bucket, _stored):
        url, signature = signed(bucket)
        async with scripted(json_answer({"present": False, "url": url})) as service:
            await service.control.builds.upload_context("t1", path)
    assert "httpcore" in {record.name.split(".")[0] for record in caplog.records}
    assert not [record for record in caplog.records if signature in record.getMessage()]
    assert not [record for record in caplog.records if service.key in record.getMessage()]


@pytest.mark.parametrize(
    ("url", "capability"),
    [
        (f"https://s.example/b/o?X-Goog-Date=2026&X-Goog-Signature={HASH}%2Bx", f"{HASH}+x"),
        ("https://s.example/o?X-Amz-Credential=AKIA%2F2026&X-Amz-Signature=0123456789abcdef0", "0123456789abcdef0"),
        ("https://s.example/o?sv=2026-01-01&sig=a+b/c%3D0123456789", "a+b/c=0123456789"),
        ("https://s.example/upload/0123456789abcdef/x", "0123456789abcdef"),
    ],
)
def test_what_makes_a_url_a_capability_is_what_is_redacted(url: str, capability: str) -> None:
    assert capability_of(url) == capability


def test_what_holds_secrets_does_not_show_them() -> None:
    step = BuildStep(type="ENV", args=("A", "hidden"))
    values = [
        step,
        NewBuild(steps=(step,), start_cmd="hidden", ready_cmd="hidden"),
        NewTemplate(envs={"A": "hidden"}),
        WebhookSettings(url="https://x/hidden", dead_letter_url="https://x/hidden"),
        SandboxEvent(type="t", facts={"a": "hidden"}),
        Delivery(facts={"a": "hidden"}),
        BuildProgress(build_id="b", template_id="t", status="s", reason="hidden"),
    ]
    assert "hidden" not in repr(values)


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
        " https://store.example/x?sig={}",
        "https://store.example/\tx?sig={}",
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
    "sends headers without end": endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000),
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
        assert len(service.registry._retired) == 0
        assert service.registry.register("OTHER", service.key).name == "SEACLOUD_API_KEY"
