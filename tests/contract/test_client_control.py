"""The client of the control plane against a real service: every route for users (wire contract 1.4, 2)."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sandbox_tools.client.control import ControlPlane
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.errors import SandboxNotFoundError, SandboxResponseError
from sandbox_tools.redaction import Redactor, Registry
from sandbox_tools.wire.control import NewSandbox, VolumeMount
from sandbox_tools.wire.network import NetworkRules
from sandbox_tools.wire.records import SandboxInfo
from tests.local.service import LocalServer


@asynccontextmanager
async def control_plane(server: LocalServer) -> AsyncIterator[tuple[ControlPlane, Registry]]:
    registry = Registry()
    control = ControlPlane(server.base_url, registry.register("KEY", server.api_key), registry)
    try:
        yield control, registry
    finally:
        async for left in control.list_all(metadata={"suite": "client-control"}):
            await control.delete(left.sandbox_id)
        await control.aclose()


def new(**labels: str) -> NewSandbox:
    return NewSandbox(ttl_s=600, metadata={"suite": "client-control", **labels})


def ids(found: list[SandboxInfo] | tuple[SandboxInfo, ...]) -> list[str]:
    return [info.sandbox_id for info in found]


async def test_a_record_says_all_that_the_service_knows_and_no_token(local_server: LocalServer) -> None:
    async with control_plane(local_server) as (control, registry):
        wanted = NewSandbox(
            template="base",
            ttl_s=600,
            metadata={"suite": "client-control", "app": "agent & co"},
            auto_pause=True,
            volume_mounts=(VolumeMount(name="cache-of-client-control", path="/cache"),),
        )
        created, access = await control.create(wanted)
        info = await control.get(created.sandbox_id)
        assert (info.state, info.on_timeout, info.template_id) == ("running", "pause", "tpl-base-local")
        assert info.cpu_count
        assert info.memory_mb
        assert info.disk_size_mb
        assert info.metadata == wanted.metadata
        assert info.volume_mounts == wanted.volume_mounts
        assert info.started_at <= info.activated_at < info.end_at
        assert created == info
        assert not access.resumed
        assert Redactor(registry).text(repr((info, access))) == repr((info, access))


async def test_pausing_resuming_and_times_to_live(local_server: LocalServer) -> None:
    async with control_plane(local_server) as (control, _), anyio.create_task_group() as tasks:
        info, access = await control.create(new())
        runtime = RemoteRuntime(info.sandbox_id, access, tasks)
        await runtime.write_file("kept", b"1")
        await runtime.aclose()
        kept, again = await control.connect(info.sandbox_id)
        assert (kept.end_at, again.resumed) == (info.end_at, False)
        await control.refresh(info.sandbox_id, 3600)
        longer = (await control.get(info.sandbox_id)).end_at
        assert longer > info.end_at
        await control.refresh(info.sandbox_id)
        assert (await control.get(info.sandbox_id)).end_at < longer
        await control.set_timeout(info.sandbox_id, 86_400)
        assert (await control.get(info.sandbox_id)).end_at > longer
        await control.pause(info.sandbox_id)
        assert (await control.get(info.sandbox_id)).state == "paused"
        with pytest.raises(SandboxResponseError) as caught:
            await control.pause(info.sandbox_id)
        assert caught.value.kind == "conflict"
        resumed, new_access = await control.connect(info.sandbox_id, ttl_s=60)
        assert (resumed.state, new_access.resumed) == ("running", True)
        assert new_access.access_token is not access.access_token
        assert resumed.end_at < longer
        runtime = RemoteRuntime(info.sandbox_id, new_access, tasks)
        async with runtime.open_file("kept") as reader:
            assert b"".join([chunk async for chunk in reader.chunks()]) == b"1"
        await runtime.aclose()


async def test_lists_in_pages_by_state_and_by_labels_in_both_forms(local_server: LocalServer) -> None:
    async with control_plane(local_server) as (control, _):
        made = [(await control.create(new(number=str(number), odd="a=b&c d")))[0].sandbox_id for number in range(3)]
        await control.pause(made[1])
        labels = {"suite": "client-control", "odd": "a=b&c d"}
        for form in ("brackets", "map"):
            assert ids((await control.list(metadata=labels, metadata_form=form)).items) == made  # type: ignore[arg-type]
            found = [info async for info in control.list_all(metadata=labels, limit=1, metadata_form=form)]  # type: ignore[arg-type]
            assert ids(found) == made
        assert ids((await control.list(metadata={**labels, "number": "2"})).items) == [made[2]]
        assert ids((await control.list(states=["paused"], metadata=labels)).items) == [made[1]]
        assert ids((await control.list(states=["running", "paused"], metadata=labels)).items) == made
        first = await control.list(metadata=labels, limit=2)
        assert first.next_token
        assert ids((await control.list(metadata=labels, limit=2, next_token=first.next_token)).items) == [made[2]]
        made_by_us = base64.urlsafe_b64encode(b"1").decode().rstrip("=")
        assert ids((await control.list(metadata=labels, limit=1, next_token=made_by_us)).items) == [made[1]]
        assert len([info async for info in control.list_all(metadata=labels, limit=1, max_items=2)]) <= 2


async def test_logs_metrics_quotas_and_the_summary(local_server: LocalServer) -> None:
    async with control_plane(local_server) as (control, _):
        first, second = [(await control.create(new()))[0].sandbox_id for _ in range(2)]
        await control.pause(second)
        page = await control.observe.logs(second)
        assert [entry.message for entry in page.entries if entry.message in ("created", "paused")] == [
            "created",
            "paused",
        ]
        newest = await control.observe.logs(second, backward=True, limit=1, level="info")
        assert [entry.message for entry in newest.entries] == ["paused"]
        assert newest.entries[0].level == "info"
        cursor = newest.entries[0].cursor
        assert cursor is not None
        after = await control.observe.logs(second, cursor=cursor + 1)
        assert after.entries == ()
        assert after.diagnostic
        assert (await control.observe.logs(second, search="creat")).entries[0].fields["template"] == "tpl-base-local"
        running = await control.observe.metrics(first)
        assert (running.sandbox_id, running.error) == (first, "")
        assert running.task_current
        assert running.swap_total_bytes is None
        snapshots = {item.sandbox_id: item for item in await control.observe.metrics_of([first, second, "nobody"])}
        assert snapshots[first].memory_usage_percent is not None
        assert snapshots[second].error
        assert snapshots["nobody"].error
        assert {first, second} <= {item.sandbox_id for item in await control.observe.metrics_of()}
        quotas = {quota.metric: quota for quota in await control.observe.usage_limits()}
        assert quotas["concurrent"].resource == "sandbox"
        assert (quotas["concurrent"].used or 0) >= 1
        summary = await control.observe.summary()
        assert summary.usage
        assert summary.endpoints["usageLimits"] == "/usage/limits"


async def test_what_a_sandbox_may_reach_is_changed_while_it_runs(local_server: LocalServer) -> None:
    async with control_plane(local_server) as (control, _):
        info, _ = await control.create(new())
        await control.set_network(info.sandbox_id, NetworkRules(internet=False, deny_out=("10.0.0.0/8",)))
        await control.pause(info.sandbox_id)
        with pytest.raises(SandboxResponseError) as caught:
            await control.set_network(info.sandbox_id, NetworkRules(internet=False))
        assert caught.value.kind == "conflict"


async def test_templates(local_server: LocalServer) -> None:
    async with control_plane(local_server) as (control, _):
        templates = control.templates
        listed = await templates.list()
        assert [template.type for template in listed][:2] == ["base", "code-interpreter"]
        assert await templates.list(visibility="personal") == ()
        assert await templates.list(limit=1, offset=1) == listed[1:2]
        template_id = await templates.resolve("code-interpreter:latest")
        assert template_id == await templates.by_alias("code-interpreter")
        detail = await templates.get(template_id)
        assert (detail.names, detail.public) == (("code-interpreter",), True)
        assert [build.status for build in detail.builds] == ["ready"]
        with pytest.raises(SandboxResponseError) as caught:
            await templates.resolve("no/such template")
        assert caught.value.kind == "not_found"


async def test_a_sandbox_that_is_not_there_is_told_apart_from_other_errors(local_server: LocalServer) -> None:
    async with control_plane(local_server) as (control, _):
        for call in (control.get, control.connect, control.pause, control.refresh, control.observe.logs):
            with pytest.raises(SandboxNotFoundError):
                await call("sandbox/../nobody")
        assert await control.delete("nobody") is False


async def test_volumes_are_made_mounted_and_deleted(local_server: LocalServer) -> None:
    async with control_plane(local_server) as (control, _):
        made = await control.volumes.create("of-the-client")
        assert made.name == "of-the-client"
        assert await control.volumes.get(made.volume_id) == made
        assert made in await control.volumes.list()
        mount = VolumeMount(name=made.name, path="/data")
        info, _ = await control.create(NewSandbox(metadata={"suite": "client-control"}, volume_mounts=(mount,)))
        with pytest.raises(SandboxResponseError) as in_use:
            await control.volumes.delete(made.volume_id)
        assert in_use.value.status == 409
        await control.delete(info.sandbox_id)
        await control.volumes.delete(made.volume_id)
        assert made not in await control.volumes.list()
        with pytest.raises(SandboxResponseError) as gone:
            await control.volumes.get("../sandboxes")
        assert gone.value.status == 404
