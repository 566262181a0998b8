"""The control plane of the local service against the wire contract, with plain HTTP.

Numbers in docstrings are sections of the contract. What every sandbox has is in test_local_wire.py.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.local.service import Box, LocalServer, running_service, wait_for

FORM = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": "0"}
"""What the vendor's SDK sends with a POST without a body (1.2)."""

METRICS = {
    *("sandboxID", "collectedAt", "error", "load1", "load5", "load15", "cpuUserRate", "cpuSystemRate"),
    *("cpuIOWaitRate", "cpuStealRate", "memoryAvailableBytes", "memoryUsagePercent", "swapTotalBytes"),
    *("swapFreeBytes", "swapCachedBytes", "diskReadOpsPerSecond", "diskWriteOpsPerSecond", "diskReadBytesPerSecond"),
    *("diskWriteBytesPerSecond", "networkRecvBytesPerSecond", "networkSentBytesPerSecond", "taskCurrent", "taskMax"),
}
"""2.7."""


@pytest.fixture
def control(local_server: LocalServer) -> Iterator[httpx.Client]:
    with local_server.client() as client:
        yield client


@pytest.fixture
def box(local_server: LocalServer) -> Iterator[Box]:
    with local_server.sandbox() as sandbox:
        yield sandbox


def error_of(answer: httpx.Response) -> str:
    """Check the shape of an error answer (1.3) and return its message."""
    body = answer.json()
    assert body["code"] == answer.status_code
    assert body["requestID"] == body["request_id"]
    message: str = body["message"]
    return message


def path_of(box: Box, *rest: str) -> str:
    return "/".join([f"/sandboxes/{box.sandbox_id}", *rest])


def pause(box: Box) -> None:
    assert box.control.post(path_of(box, "pause"), headers=FORM).status_code == 204
    assert box.state() == "paused"


def connect(box: Box, timeout: int = 0) -> httpx.Response:
    return box.control.post(path_of(box, "connect"), json={"timeout": timeout})


def runtime(record: dict[str, Any]) -> httpx.Client:
    return httpx.Client(base_url=record["envdUrl"], headers={"X-Access-Token": record["envdAccessToken"]}, timeout=30)


def sh(record: dict[str, Any], line: str) -> str:
    with runtime(record) as client:
        answer = client.post("/run", json={"cmd": "sh", "args": ["-c", line]})
    assert answer.status_code == 200, answer.text
    out: str = answer.json()["stdout"]
    return out


class TestPauseAndConnect:
    """2.1, 2.5."""

    def test_the_files_stay_and_the_processes_are_new(self, box: Box) -> None:
        box.sh("echo kept > f; echo lost > /tmp/f; sleep 1000 >/dev/null 2>&1 &")
        pause(box)
        resumed = connect(box)
        assert resumed.status_code == 201
        assert resumed.json()["state"] == "running"
        assert sh(resumed.json(), "cat f; cat /tmp/f 2>/dev/null; pgrep -x sleep") == "kept\n"
        assert connect(box).status_code == 200

    def test_a_connect_that_resumes_gives_a_new_token(self, box: Box) -> None:
        pause(box)
        record = connect(box).json()
        assert record["envdAccessToken"] != box.record["envdAccessToken"]
        assert box.http.post("/run", json={"cmd": "true"}).status_code == 401
        assert sh(record, "echo y") == "y\n"

    def test_the_environment_of_create_is_there_again(self, local_server: LocalServer) -> None:
        with local_server.sandbox(envVars={"FROM_CREATE": "1"}) as box:
            pause(box)
            assert sh(connect(box).json(), "echo $FROM_CREATE") == "1\n"

    def test_a_paused_sandbox_has_no_runtime(self, box: Box) -> None:
        pause(box)
        detail = box.control.get(path_of(box)).json()
        assert (detail["envdUrl"], detail["envdAccessToken"], detail["status"]) == (None, None, "paused")
        for method, path in [("POST", "/run"), ("GET", "/health"), ("GET", "/proxy/80/")]:
            answer = box.http.request(method, path, json={"cmd": "true"})
            assert (answer.status_code, "is paused" in error_of(answer)) == (404, True)

    def test_a_pause_ends_every_process(self, box: Box) -> None:
        agent = Path(f"/proc/{box.agent_pid()}")
        pause(box)
        assert not agent.exists()

    def test_only_what_runs_can_be_paused(self, box: Box) -> None:
        pause(box)
        assert box.control.post(path_of(box, "pause")).status_code == 409
        record = connect(box)
        assert record.status_code == 201
        os.kill(box.agent_pid(), signal.SIGKILL)
        wait_for(lambda: box.state() == "stopped", what="the state")
        answer = box.control.post(path_of(box, "pause"))
        assert (answer.status_code, error_of(answer)) == (409, "the sandbox is not running: it is stopped")

    def test_a_connect_without_a_timeout_does_not_resume(self, box: Box) -> None:
        pause(box)
        for body in (b"", b"{}", b'{"timeoutMs": 1000}', b'{"timeout": 86401}'):
            assert box.control.post(path_of(box, "connect"), content=body).status_code == 400
        assert box.state() == "paused"

    def test_of_many_connects_at_once_one_resumes(self, box: Box) -> None:
        pause(box)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: connect(box), range(8)))
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
        assert len({answer.json()["envdAccessToken"] for answer in answers}) == 1

    def test_a_paused_sandbox_is_kept_longer_than_its_time_to_live(self, local_server: LocalServer) -> None:
        with local_server.sandbox(timeout=1000) as box:
            pause(box)
            assert box.control.get(path_of(box)).json()["endAt"] > box.record["endAt"]
            assert connect(box, 0).json()["endAt"] >= box.record["endAt"]
            pause(box)
            assert connect(box, 60).json()["endAt"] < box.record["endAt"]

    def test_who_extends_a_paused_sandbox_does_not_shorten_its_life(self, box: Box) -> None:
        pause(box)
        before = box.control.get(path_of(box)).json()["endAt"]
        assert box.control.post(path_of(box, "timeout"), json={"timeout": 60}).status_code == 409
        assert box.control.post(path_of(box, "refreshes"), headers=FORM).status_code == 409
        assert box.control.get(path_of(box)).json()["endAt"] == before

    def test_a_paused_sandbox_can_be_deleted(self, local_server: LocalServer, box: Box) -> None:
        pause(box)
        home = local_server.state / "sandboxes" / box.sandbox_id
        assert home.exists()
        assert box.control.delete(path_of(box)).status_code == 204
        assert box.control.get(path_of(box)).status_code == 404
        assert not home.exists()

    def test_the_list_finds_the_paused(self, local_server: LocalServer) -> None:
        """2.3."""
        with local_server.sandbox(metadata={"pausing": "1"}) as box:
            pause(box)
            for state, found in (("paused", [box.sandbox_id]), ("running", []), ("running,PAUSED", [box.sandbox_id])):
                listed = box.control.get("/sandboxes", params={"state": state, "metadata[pausing]": "1"}).json()
                assert [item["sandboxID"] for item in listed] == found

    def test_activated_is_when_it_was_resumed(self, box: Box) -> None:
        pause(box)
        record = connect(box).json()
        assert record["startedAt"] == box.record["startedAt"]
        assert record["activatedAt"] >= box.record["activatedAt"]


class TestTheEndOfItsTime:
    def test_with_auto_pause_it_is_paused(self, local_server: LocalServer) -> None:
        with local_server.sandbox(timeout=1, autoPause=True) as box:
            assert box.control.get(path_of(box)).json()["lifecycle"]["onTimeout"] == "pause"
            box.sh("echo kept > f")
            wait_for(lambda: box.state() == "paused", what="the pause", within_s=5)
            record = connect(box, 100)
            assert (record.status_code, sh(record.json(), "cat f")) == (201, "kept\n")

    def test_without_it_is_deleted(self, local_server: LocalServer) -> None:
        with local_server.sandbox(timeout=1) as box:
            assert box.control.get(path_of(box)).json()["lifecycle"]["onTimeout"] == "kill"
            wait_for(lambda: box.control.get(path_of(box)).status_code == 404, what="its end", within_s=5)

    def test_with_auto_resume_a_call_of_the_runtime_resumes_it_and_keeps_the_token(
        self, local_server: LocalServer
    ) -> None:
        with local_server.sandbox(autoResume=True) as box:
            box.sh("echo kept > f")
            pause(box)
            assert box.run("cat", "f").stdout == "kept\n"
            assert box.state() == "running"
            assert connect(box).json()["envdAccessToken"] == box.record["envdAccessToken"]

    def test_who_has_no_token_resumes_nothing(self, local_server: LocalServer) -> None:
        with local_server.sandbox(autoResume=True) as box:
            pause(box)
            url = box.record["envdUrl"]
            assert httpx.post(f"{url}/run", json={"cmd": "true"}, headers={"X-Access-Token": "no"}).status_code == 401
            assert httpx.get(f"{url}/health").status_code == 404
            assert httpx.get(f"{url}/proxy/80/").status_code == 404
            assert box.state() == "paused"

    @pytest.mark.parametrize("field", ["autoPause", "autoResume"])
    def test_a_switch_that_is_none_is_400(self, control: httpx.Client, field: str) -> None:
        assert control.post("/sandboxes", json={field: "yes"}).status_code == 400


class TestRestart:
    def test_a_paused_sandbox_survives_and_no_secret_is_on_disk(self, tmp_path: Path) -> None:
        with running_service(tmp_path) as first, first.client() as control:
            body = {"envVars": {"KEY": "value-of-the-key"}, "metadata": {"app": "x"}, "timeout": 900}
            record = control.post("/sandboxes", json=body).json()
            other = control.post("/sandboxes", json={}).json()
            sh(record, "echo kept > f")
            assert control.post(f"/sandboxes/{record['sandboxID']}/pause").status_code == 204
        home = tmp_path / "sandboxes" / record["sandboxID"]
        kept = {path.name: path for path in home.iterdir() if path.is_file()}
        assert kept["paused.json"].stat().st_mode & 0o777 == 0o600
        for file in kept.values():
            assert "value-of-the-key" not in file.read_text()
            assert record["envdAccessToken"] not in file.read_text()
        with running_service(tmp_path) as second, second.client() as control:
            path = f"/sandboxes/{record['sandboxID']}"
            assert [item["sandboxID"] for item in control.get("/sandboxes?metadata[app]=x").json()] == [
                record["sandboxID"]
            ]
            assert control.get(f"/sandboxes/{other['sandboxID']}").status_code == 404
            assert control.get(path).json()["startedAt"] == record["startedAt"]
            old = httpx.post(
                f"{second.base_url}/rt/{record['sandboxID']}/run",
                headers={"X-Access-Token": record["envdAccessToken"]},
            )
            assert old.status_code == 401
            resumed = control.post(f"{path}/connect", json={"timeout": 0})
            assert resumed.status_code == 201
            assert sh(resumed.json(), "cat f; echo $KEY; echo x > g") == "kept\n\n"
            assert resumed.json()["diagnostic"]["envVars"] == ["KEY"]
        assert not home.exists()

    def test_also_when_the_service_was_killed(self, tmp_path: Path) -> None:
        with running_service(tmp_path) as first, first.sandbox() as box:
            box.sh("echo kept > f")
            pause(box)
            os.kill(first.pid, signal.SIGKILL)
            first.process.wait()
        with running_service(tmp_path) as second, second.client() as control:
            record = control.post(f"/sandboxes/{box.sandbox_id}/connect", json={"timeout": 0}).json()
            assert sh(record, "cat f") == "kept\n"

    def test_the_end_of_the_service_pauses_what_has_auto_pause(self, tmp_path: Path) -> None:
        with running_service(tmp_path) as first, first.client() as control:
            record = control.post("/sandboxes", json={"autoPause": True}).json()
        with running_service(tmp_path) as second, second.client() as control:
            assert control.get(f"/sandboxes/{record['sandboxID']}").json()["state"] == "paused"

    def test_the_service_of_a_toolset_leaves_the_paused_sandboxes_of_others_alone(self, tmp_path: Path) -> None:
        with running_service(tmp_path) as first, first.sandbox() as box:
            pause(box)
            first.process.kill()
            first.process.wait()
        with running_service(tmp_path, env={"KEEP_PAUSED": "no"}) as child, child.client() as control:
            assert control.get(f"/sandboxes/{box.sandbox_id}").status_code == 404
        assert (tmp_path / "sandboxes" / box.sandbox_id / "workspace").exists()

    def test_what_is_too_old_is_deleted_and_what_is_not_understood_stays(self, tmp_path: Path) -> None:
        with running_service(tmp_path) as first, first.client() as control:
            ids = [control.post("/sandboxes", json={}).json()["sandboxID"] for _ in range(2)]
            for sandbox_id in ids:
                control.post(f"/sandboxes/{sandbox_id}/pause")
        old, strange = (tmp_path / "sandboxes" / sandbox_id for sandbox_id in ids)
        record = (old / "paused.json").read_text()
        (old / "paused.json").write_text(re.sub(r'"endAt": [0-9.]+', '"endAt": 1', record))
        (strange / "paused.json").write_text("{}")
        with running_service(tmp_path) as second, second.client() as control:
            assert control.get("/sandboxes").json() == []
            wait_for(lambda: not old.exists(), what="the removal")
        assert (strange / "workspace").exists()


class TestLimits:
    """2.8, 2.9."""

    def test_what_runs_is_limited_and_what_is_paused_is_not(self, tmp_path: Path) -> None:
        with running_service(tmp_path, max_sandboxes=1) as service, service.sandbox(timeout=600) as box:
            refused = box.control.post("/sandboxes", json={})
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["Retry-After"]) <= 600
            details = refused.json()["details"]
            assert details["usageEndpoint"] == "/usage/limits"
            assert (details["reason"], details["metric"]) == ("usage_limit", "concurrent")
            assert (details["used"], details["limit"], details["remaining"]) == (1, 1, 0)
            assert {"scope", "resource"} <= set(details)
            summary = box.control.get("/observability/summary").json()
            assert (summary["status"], bool(summary["actions"])) == ("degraded", True)
            pause(box)
            with service.sandbox():
                assert connect(box).status_code == 429
                assert box.state() == "paused"
            assert connect(box).status_code == 201

    def test_usage_and_summary(self, box: Box) -> None:
        limits = {item["metric"]: item for item in box.control.get("/usage/limits").json()["limits"]}
        assert set(limits) == {"concurrent", "total"}
        for item in limits.values():
            assert (item["used"] >= 1, item["limit"] - item["used"]) == (True, item["remaining"])
        summary = box.control.get("/observability/summary").json()
        assert {"status", "usage", "endpoints", "actions"} <= set(summary)
        assert (summary["status"], summary["actions"]) == ("ok", [])
        assert summary["usage"]["sandboxes"]["used"] == limits["concurrent"]["used"]


class TestLogs:
    """2.6."""

    def logs(self, box: Box, **query: str | int) -> list[dict[str, Any]]:
        answer = box.control.get(path_of(box, "logs"), params=query)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["logs"]
        return found

    def test_they_tell_the_life_of_a_sandbox_without_any_argument(self, box: Box) -> None:
        box.run("sh", "-c", "exit 3", env={"SECRET": "in-the-environment"}, stdin="secret-input")
        pause(box)
        connect(box)
        entries = self.logs(box)
        assert [entry["message"] for entry in entries] == [
            *("created", "process started", "process ended", "paused", "resumed")
        ]
        assert entries[2]["fields"]["exitCode"] == 3
        assert {entry["level"] for entry in entries} == {"info", "warn"}
        assert not any(word in str(entries) for word in ("exit 3", "in-the-environment", "secret-input"))

    def test_a_sandbox_that_ended_by_itself_says_so(self, box: Box) -> None:
        os.kill(box.agent_pid(), signal.SIGKILL)
        wait_for(lambda: box.state() == "stopped", what="the state")
        assert self.logs(box, level="error")

    def test_pages_directions_levels_and_search(self, box: Box) -> None:
        for code in (0, 1):
            box.run("sh", "-c", f"exit {code}")
        forward, backward = self.logs(box), self.logs(box, direction="backward")
        assert backward == forward[::-1]
        assert self.logs(box, limit=2) == forward[:2]
        assert self.logs(box, limit=0) == []
        assert [entry["fields"]["exitCode"] for entry in self.logs(box, level="warn")] == [1]
        assert len(self.logs(box, search="started")) == 2
        assert self.logs(box, search="STARTED") == []
        moments = [entry["timestamp"] for entry in forward]
        assert sorted(set(moments)) == moments

    def test_a_cursor_is_a_time_in_milliseconds(self, box: Box) -> None:
        from datetime import datetime

        for _ in range(3):
            box.run("true")
        everything = self.logs(box)
        third = datetime.fromisoformat(everything[2]["timestamp"].replace("Z", "+00:00"))
        cursor = round(third.timestamp() * 1000)
        assert self.logs(box, cursor=cursor) == everything[2:]
        assert self.logs(box, cursor=cursor + 1) == everything[3:]
        assert self.logs(box, cursor=cursor, direction="backward") == everything[2::-1]
        assert self.logs(box, cursor=0) == everything

    def test_an_empty_answer_has_its_reason(self, box: Box) -> None:
        answer = box.control.get(path_of(box, "logs"), params={"search": "nothing like this"}).json()
        assert (answer["logs"], bool(answer["diagnostic"])) == ([], True)
        assert box.control.get(path_of(box, "logs")).json()["diagnostic"] == {}

    @pytest.mark.parametrize(
        "query",
        [
            "cursor=-1",
            "cursor=x",
            "limit=1001",
            "limit=-1",
            "direction=up",
            "level=loud",
            "level=",
            f"search={'x' * 257}",
        ],
    )
    def test_a_bad_query_is_400(self, box: Box, query: str) -> None:
        assert error_of(box.control.get(f"{path_of(box, 'logs')}?{query}"))
        assert box.control.get(f"{path_of(box, 'logs')}?{query}").status_code == 400


class TestMetrics:
    """2.7."""

    def test_a_snapshot_has_every_field_and_real_numbers(self, box: Box) -> None:
        idle = box.control.get(path_of(box, "metrics")).json()
        assert set(idle) == METRICS
        assert (idle["sandboxID"], idle["error"]) == (box.sandbox_id, None)
        busy = "x = bytearray(b'x' * 64_000_000)\nwhile True: pass"
        with box.start("python3", "-c", busy):
            now = wait_for(
                lambda: (
                    found
                    if (found := box.control.get(path_of(box, "metrics")).json())["cpuUserRate"] > 0.1
                    and found["memoryAvailableBytes"] <= idle["memoryAvailableBytes"] - 60_000_000
                    else None
                ),
                what="the load",
            )
        assert now["taskCurrent"] == idle["taskCurrent"] + 1
        assert now["taskMax"] == 256
        assert now["memoryUsagePercent"] > idle["memoryUsagePercent"] + 2

    def test_metrics_of_many(self, local_server: LocalServer, box: Box) -> None:
        with local_server.sandbox() as other:
            ids = f"{other.sandbox_id},{box.sandbox_id},sb-nope"
            items = box.control.get("/sandboxes/metrics", params={"sandbox_ids": ids}).json()["items"]
            assert [item["sandboxID"] for item in items] == ids.split(",")
            assert [item["error"] for item in items] == [None, None, "sandbox not found"]
            assert all(set(item) == METRICS for item in items)
            first = box.control.get("/sandboxes/metrics", params={"sandbox_ids": ids, "limit": 1}).json()["items"]
            assert [item["sandboxID"] for item in first] == [other.sandbox_id]
            everything = box.control.get("/sandboxes/metrics").json()["items"]
            assert {other.sandbox_id, box.sandbox_id} <= {item["sandboxID"] for item in everything}
            assert box.control.get("/sandboxes/metrics", params={"sandbox_ids": ""}).json() == {"items": []}
            assert box.control.get("/sandboxes/metrics", params={"limit": "0"}).status_code == 400

    def test_of_a_paused_sandbox_nothing_is_known(self, box: Box) -> None:
        pause(box)
        found = box.control.get(path_of(box, "metrics")).json()
        assert set(found) == METRICS
        assert found["error"] == "the sandbox is paused"
        assert {found[name] for name in METRICS - {"sandboxID", "collectedAt", "error"}} == {None}


class TestRecords:
    def test_sizes_and_lifecycle(self, box: Box) -> None:
        """2.3, 2.4."""
        listed = next(item for item in box.control.get("/sandboxes").json() if item["sandboxID"] == box.sandbox_id)
        detail = box.control.get(path_of(box)).json()
        for record in (box.record, listed, detail):
            assert all(
                type(record[name]) is int and record[name] > 0 for name in ("cpuCount", "memoryMB", "diskSizeMB")
            )
            assert record["volumeMounts"] == []
        assert detail["lifecycle"]["onTimeout"] == "kill"
        assert (detail["diagnostic"], detail["timeline"]) == ({}, [])

    @pytest.mark.parametrize("status", ["starting", "healthy", "error"])
    def test_heartbeat(self, box: Box, status: str) -> None:
        """1.3: the one answer in the legacy wrapper."""
        answer = box.control.post(path_of(box, "heartbeat"), json={"status": status})
        body = answer.json()
        assert (answer.status_code, body["code"], body["message"]) == (200, 0, "success")
        assert body["data"] == {"received": True, "status": status}
        assert body["request_id"]

    @pytest.mark.parametrize("body", [b"", b"{}", b'{"status": "fine"}', b'{"status": ["healthy"]}', b"[]"])
    def test_a_heartbeat_without_a_status_is_400(self, box: Box, body: bytes) -> None:
        assert box.control.post(path_of(box, "heartbeat"), content=body).status_code == 400

    def test_refreshes_read_their_body_whatever_its_type(self, box: Box) -> None:
        """1.2, 2.5."""
        before = box.control.get(path_of(box)).json()["endAt"]
        headers = {"Content-Type": FORM["Content-Type"]}
        sent = box.control.post(path_of(box, "refreshes"), content=b' {"duration": 3600}', headers=headers)
        assert sent.status_code == 204
        assert box.control.get(path_of(box)).json()["endAt"] > before
        assert box.control.post(path_of(box, "refreshes"), content=b"duration=3").status_code == 400

    @pytest.mark.parametrize("token", ["2", "Mg"])
    def test_a_token_of_an_old_client_is_a_plain_or_an_encoded_offset(
        self, local_server: LocalServer, control: httpx.Client, token: str
    ) -> None:
        """1.4, quirk 10."""
        query = {"metadata[page]": token}
        with (
            local_server.sandbox(metadata={"page": token}),
            local_server.sandbox(metadata={"page": token}),
            local_server.sandbox(metadata={"page": token}) as last,
        ):
            listed = control.get("/sandboxes", params={**query, "nextToken": token}).json()
            assert [item["sandboxID"] for item in listed] == [last.sandbox_id]

    def test_every_route_of_a_sandbox_knows_what_is_not_there(self, control: httpx.Client) -> None:
        """1.3."""
        routes = [
            *(("GET", ""), ("DELETE", ""), ("GET", "/logs"), ("GET", "/metrics"), ("POST", "/pause")),
            *(("POST", "/connect"), ("POST", "/timeout"), ("POST", "/refreshes"), ("POST", "/heartbeat")),
        ]
        for method, rest in routes:
            answer = control.request(method, f"/sandboxes/sb-nope{rest}")
            assert (answer.status_code, error_of(answer)) == (404, "sandbox not found"), rest

    def test_every_route_needs_the_key(self, local_server: LocalServer) -> None:
        for path in (
            "/sandboxes/metrics",
            "/usage/limits",
            "/observability/summary",
            "/templates",
            "/sandboxes/x/logs",
        ):
            answer = httpx.get(local_server.base_url + path)
            assert (answer.status_code, bool(error_of(answer))) == (401, True)

    @pytest.mark.parametrize("root", ["", "/api/v1", "/api/v1/sandbox", "/api/sandbox/v1"])
    def test_every_root_has_the_routes(self, control: httpx.Client, root: str) -> None:
        """1.1."""
        for path in ("/sandboxes", "/sandboxes/metrics", "/usage/limits", "/observability/summary", "/templates"):
            assert control.get(root + path).status_code == 200


class TestTemplates:
    """2.10."""

    def test_the_list_has_every_field_and_pages(self, control: httpx.Client) -> None:
        items = control.get("/templates").json()
        assert [item["type"] for item in items][:2] == ["base", "code-interpreter"]
        fields = {
            *("templateID", "buildID", "buildStatus", "type", "version", "public", "names", "aliases", "cpuCount"),
            *("memoryMB", "diskSizeMB", "createdBy", "createdAt", "updatedAt", "lastSpawnedAt", "spawnCount"),
        }
        assert all(fields <= set(item) for item in items)
        assert control.get("/templates", params={"limit": 1, "offset": 1}).json() == items[1:2]
        assert control.get("/templates", params={"limit": 0}).json() == []
        assert control.get("/templates", params={"visibility": "official"}).json() == items
        for visibility in ("personal", "team"):
            assert control.get("/templates", params={"visibility": visibility}).json() == []

    @pytest.mark.parametrize("query", ["limit=101", "limit=-1", "offset=-1", "visibility=all"])
    def test_a_bad_query_is_400(self, control: httpx.Client, query: str) -> None:
        assert control.get(f"/templates?{query}").status_code == 400

    def test_references(self, control: httpx.Client) -> None:
        base = {"templateID": "tpl-base-local", "public": True}
        for ref in ("base", "tpl-base-local", "base:latest", "base:build-local"):
            assert control.get(f"/templates/resolve/{ref}").json() == base
        for ref in ("nope", "base:v9", "base:", ":latest", "tpl-nope"):
            answer = control.get(f"/templates/resolve/{ref}")
            assert (answer.status_code, error_of(answer)) == (404, "template not found")
        assert control.get("/templates/aliases/base").json() == base
        assert control.get("/templates/aliases/tpl-base-local").status_code == 404

    def test_the_detail_has_its_builds(self, control: httpx.Client) -> None:
        detail = control.get("/templates/tpl-base-local", params={"limit": 10}).json()
        assert [build["status"] for build in detail["builds"]] == ["ready"]
        assert control.get("/templates/base").json()["templateID"] == "tpl-base-local"
        assert control.get("/templates/tpl-nope").status_code == 404

    def test_there_is_a_node_template_where_sandboxes_have_node(self, control: httpx.Client, box: Box) -> None:
        has_node = box.sh("command -v node").exit_code == 0
        assert (control.get("/templates/resolve/node").status_code == 200) is has_node

    def test_a_sandbox_has_the_resolved_template_and_is_counted(self, local_server: LocalServer) -> None:
        with local_server.client() as control:
            before = control.get("/templates/code-interpreter").json()["spawnCount"]
            with local_server.sandbox(templateID="code-interpreter:latest") as box:
                assert box.record["templateID"] == "tpl-code-interpreter-local"
            after = control.get("/templates/code-interpreter").json()
            assert (after["spawnCount"], bool(after["lastSpawnedAt"])) == (before + 1, True)
