"""The local service against the wire contract, with plain HTTP: every route that it serves, and its errors.

Numbers in docstrings are sections of the contract.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sandbox_tools.wire.control import FORBIDDEN_CREATE_FIELDS
from sandbox_tools.wire.envelope import END_STREAM, FrameDecoder, encode_json_frame
from tests.local.service import Box, LocalServer, Stream, wait_for

HOME = "/root/workspace"


@pytest.fixture
def control(local_server: LocalServer) -> Iterator[httpx.Client]:
    with local_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def box(local_server: LocalServer) -> Iterator[Box]:
    """One sandbox for this module: its tests do not disturb each other."""
    with local_server.sandbox(metadata={"app": "wire", "team": "a&b c"}, envVars={"FROM_CREATE": "1"}) as sandbox:
        yield sandbox


SERVER = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/redirect":
            self.send_response(302); self.send_header("Location", "http://127.0.0.1:1/")
            self.send_header("Content-Length", "0"); self.end_headers(); return
        if self.path == "/stream":
            self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
            self.wfile.write(b"3\\r\\none\\r\\n"); self.wfile.flush()
            open("streamed", "w").close()
            import os, time
            while not os.path.exists("go"): time.sleep(0.01)
            self.wfile.write(b"3\\r\\ntwo\\r\\n0\\r\\n\\r\\n"); return
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        seen = {"method": self.command, "path": self.path, "headers": list(self.headers.items()), "body": body}
        answer = json.dumps(seen).encode()
        self.send_response(418)
        self.send_header("Content-Length", str(len(answer))); self.send_header("Set-Cookie", "a=b")
        self.send_header("Connection", "X-Hop"); self.send_header("X-Hop", "1"); self.send_header("X-App", "yes")
        self.end_headers(); self.wfile.write(answer)
    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def served(box: Box) -> int:
    """The port of a web server in the sandbox."""
    port = 8321
    program = base64.b64encode(SERVER.replace("PORT", str(port)).encode()).decode()
    box.sh(f"echo {program} | base64 -d > server.py; python3 server.py >/dev/null 2>&1 &")
    wait_for(lambda: port in [item["port"] for item in box.http.get("/ports").json()], what="the server")
    return port


def error_of(response: httpx.Response) -> str:
    """Check the shape of an error answer (1.3, 3.2) and return its message."""
    body = response.json()
    assert body["code"] == response.status_code
    assert body["error"] == body["message"]
    assert body["requestID"] == body["request_id"]
    message: str = body["message"]
    return message


class TestControlPlane:
    @pytest.mark.parametrize("root", ["", "/api/v1", "/api/v1/sandbox"])
    def test_every_root_answers(self, control: httpx.Client, root: str) -> None:
        """1.1: clients append their routes to different roots."""
        assert control.get(f"{root}/sandboxes").status_code == 200

    @pytest.mark.parametrize(
        "headers", [{}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "é"}]
    )
    def test_a_wrong_key_is_401(self, local_server: LocalServer, headers: dict[str, str]) -> None:
        encoded = {name: value.encode() for name, value in headers.items()}
        answer = httpx.get(f"{local_server.base_url}/sandboxes", headers=encoded)
        assert answer.status_code == 401
        assert error_of(answer)

    def test_a_bearer_key_is_accepted(self, local_server: LocalServer) -> None:
        headers = {"Authorization": f"Bearer {local_server.api_key}"}
        assert httpx.get(f"{local_server.base_url}/sandboxes", headers=headers).status_code == 200

    def test_a_created_sandbox_has_every_field(self, box: Box) -> None:
        """2.2."""
        assert box.record["state"] == box.record["status"] == "running"
        assert box.record["envdUrl"].endswith(f"/rt/{box.sandbox_id}")
        assert {"templateID", "clientID", "startedAt", "activatedAt", "endAt"} <= set(box.record)
        assert box.record["timeline"] == []
        assert box.record["isolation"]["level"] == "namespaces"
        assert len(box.record["envdAccessToken"]) >= 32

    @pytest.mark.parametrize(("field", "message"), FORBIDDEN_CREATE_FIELDS.items())
    def test_a_forbidden_field_is_400_with_its_message(self, control: httpx.Client, field: str, message: str) -> None:
        answer = control.post("/sandboxes", json={field: 1})
        assert (answer.status_code, error_of(answer)) == (400, message)

    @pytest.mark.parametrize(
        "body",
        [
            b"[]",
            b"{",
            b"\xff",
            b'{"timeout": "soon"}',
            b'{"timeout": 86401}',
            b'{"timeout": -1}',
            b'{"metadata": {"a": 1}}',
            b'{"envVars": {"A=B": "x"}}',
            b'{"envVars": {"A": "x\\u0000"}}',
            b'{"network": {"allowPublicTraffic": "no"}}',
            b"[" * 100_000,
        ],
    )
    def test_a_bad_create_request_is_400(self, control: httpx.Client, body: bytes) -> None:
        answer = control.post("/sandboxes", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert error_of(answer)

    def test_a_big_body_is_413(self, control: httpx.Client) -> None:
        assert control.post("/sandboxes", content=b"{" + b" " * (1 << 20)).status_code == 413

    def test_an_unknown_template_is_404(self, control: httpx.Client) -> None:
        answer = control.post("/sandboxes", json={"templateID": "tpl-nope"})
        assert (answer.status_code, error_of(answer)) == (404, "template not found")

    def test_null_is_absent(self, local_server: LocalServer) -> None:
        """4.1, quirk 41."""
        with local_server.sandbox(templateID=None, timeout=None, metadata=None, envVars=None, network=None) as sandbox:
            assert sandbox.record["state"] == "running"

    def test_an_unknown_sandbox_is_404(self, control: httpx.Client) -> None:
        for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/connect"), ("POST", "/timeout")]:
            answer = control.request(method, f"/sandboxes/sb-nope{path}", json={"timeout": 1})
            assert (answer.status_code, error_of(answer)) == (404, "sandbox not found")

    def test_an_unknown_route_is_404_and_a_wrong_method_405(self, control: httpx.Client) -> None:
        assert error_of(control.get("/nope")) == "no such route"
        assert error_of(control.put("/sandboxes")) == "method not allowed"

    def test_the_detail_repeats_how_to_reach_the_runtime(self, control: httpx.Client, box: Box) -> None:
        """2.4."""
        detail = control.get(f"/sandboxes/{box.sandbox_id}").json()
        assert detail["envdAccessToken"] == box.record["envdAccessToken"]
        assert detail["metadata"] == {"app": "wire", "team": "a&b c"}

    def test_the_list_carries_no_credentials(self, control: httpx.Client, box: Box) -> None:
        """2.3."""
        listed = control.get("/sandboxes").json()
        assert box.sandbox_id in [item["sandboxID"] for item in listed]
        assert not any("envdAccessToken" in item or "envdUrl" in item for item in listed)

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("metadata[app]=wire", True),
            ("metadata%5Bapp%5D=wire&metadata%5Bteam%5D=a%26b%20c", True),
            ("metadata=app%3Dwire%26team%3Da%2526b%2Bc", True),
            ("metadata[app]=other", False),
            ("metadata=app%3Dother", False),
            ("state=running", True),
            ("state=paused&state=running", True),
            ("state=paused,running", True),
            ("state=paused", False),
        ],
    )
    def test_the_list_is_filtered(self, control: httpx.Client, box: Box, query: str, found: bool) -> None:
        """2.3: both forms of metadata, both forms of state."""
        listed = [item["sandboxID"] for item in control.get(f"/sandboxes?{query}").json()]
        assert (box.sandbox_id in listed) is found

    def test_pages_are_linked_by_headers(self, local_server: LocalServer, control: httpx.Client) -> None:
        """1.4."""
        with local_server.sandbox(metadata={"p": "1"}), local_server.sandbox(metadata={"p": "1"}):
            first = control.get("/sandboxes", params={"metadata[p]": "1", "limit": 1})
            assert first.headers["X-Has-Next"] == "true"
            query = {"metadata[p]": "1", "limit": 1, "nextToken": first.headers["X-Next-Token"]}
            second = control.get("/sandboxes", params=query)
            assert second.headers["X-Has-Next"] == "false"
            assert "X-Next-Token" not in second.headers
            assert first.json()[0]["sandboxID"] != second.json()[0]["sandboxID"]

    def test_an_offset_that_a_client_made_is_a_token(self, control: httpx.Client) -> None:
        """1.4: SDKs make base64url of a decimal offset."""
        assert control.get("/sandboxes", params={"nextToken": "MTAw"}).json() == []

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=x", "nextToken=%21", "nextToken=LTE", "nextToken=eA"]
    )
    def test_a_bad_page_is_400(self, control: httpx.Client, query: str) -> None:
        assert control.get(f"/sandboxes?{query}").status_code == 400

    @pytest.mark.parametrize("path", ["connect", "timeout"])
    @pytest.mark.parametrize(
        "body", [b"", b"{}", b'{"timeoutMs": 1}', b'{"timeout": 1, "timeoutMs": 1}', b'{"timeout": 86401}']
    )
    def test_connect_and_timeout_need_seconds(self, control: httpx.Client, box: Box, path: str, body: bytes) -> None:
        """2.5."""
        assert control.post(f"/sandboxes/{box.sandbox_id}/{path}", content=body).status_code == 400

    def test_connect_keeps_the_time_to_live_with_0_and_resets_it_otherwise(self, local_server: LocalServer) -> None:
        """2.5."""
        with local_server.sandbox(timeout=1000) as sandbox:
            path = f"/sandboxes/{sandbox.sandbox_id}"
            kept = sandbox.control.post(f"{path}/connect", json={"timeout": 0})
            assert (kept.status_code, kept.json()["endAt"]) == (200, sandbox.record["endAt"])
            shorter = sandbox.control.post(f"{path}/connect", json={"timeout": 100})
            assert shorter.json()["endAt"] < sandbox.record["endAt"]
            assert sandbox.control.post(f"{path}/timeout", json={"timeout": 5000}).status_code == 204
            assert sandbox.control.get(path).json()["endAt"] > sandbox.record["endAt"]
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            assert sandbox.control.post(f"{path}/refreshes", headers=form).status_code == 204
            assert sandbox.control.post(f"{path}/refreshes", json={"duration": 3600}).status_code == 204
            assert sandbox.control.post(f"{path}/refreshes", json={"duration": 3601}).status_code == 400

    def test_a_sandbox_ends_with_its_time_to_live(self, local_server: LocalServer, control: httpx.Client) -> None:
        with local_server.sandbox(timeout=1) as sandbox:
            path = f"/sandboxes/{sandbox.sandbox_id}"
            wait_for(lambda: control.get(path).status_code == 404, what="its end", within_s=5)
            assert sandbox.http.post("/run", json={"cmd": "true"}).status_code == 404

    def test_a_deleted_sandbox_is_gone(self, local_server: LocalServer, control: httpx.Client) -> None:
        with local_server.sandbox() as sandbox:
            path = f"/sandboxes/{sandbox.sandbox_id}"
            assert control.delete(path).status_code == 204
            assert control.delete(path).status_code == 404
            assert sandbox.http.post("/run", json={"cmd": "true"}).status_code == 404
            assert not (local_server.state / "sandboxes" / sandbox.sandbox_id).exists()

    def test_templates_can_be_resolved(self, control: httpx.Client) -> None:
        """2.10."""
        listed = {item["type"]: item["templateID"] for item in control.get("/templates").json()}
        assert {"base", "code-interpreter"} <= set(listed)
        for ref in ("base", listed["base"]):
            assert control.get(f"/api/v1/templates/resolve/{ref}").json()["templateID"] == listed["base"]
        assert control.get(f"/templates/{listed['base']}").json()["names"] == ["base"]
        assert control.get("/templates/resolve/nope").status_code == 404


class TestHygiene:
    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", ""])
    def test_another_host_name_is_421(self, control: httpx.Client, host: str) -> None:
        """DNS rebinding."""
        assert control.get("/sandboxes", headers={"Host": host}).status_code == 421

    def test_localhost_is_as_good(self, local_server: LocalServer, control: httpx.Client) -> None:
        port = local_server.base_url.rpartition(":")[2]
        assert control.get("/sandboxes", headers={"Host": f"LocalHost:{port}"}).status_code == 200

    def test_a_web_page_is_403(self, control: httpx.Client, box: Box) -> None:
        for origin in ("https://evil.example", "null", control.base_url):
            assert control.get("/sandboxes", headers={"Origin": str(origin)}).status_code == 403
            assert box.http.get("/health", headers={"Origin": str(origin)}).status_code == 403

    def test_no_answer_opens_the_service_to_web_pages(self, control: httpx.Client, box: Box) -> None:
        for answer in (control.get("/sandboxes"), box.http.options("/run"), box.http.get("/health")):
            assert not [name for name in answer.headers if name.startswith("access-control")]

    def test_the_server_does_not_say_what_it_is(self, control: httpx.Client) -> None:
        assert "server" not in control.get("/sandboxes").headers

    def test_huge_headers_are_refused(self, control: httpx.Client) -> None:
        try:
            status = control.get("/sandboxes", headers={"X-Big": "x" * 200_000}).status_code
        except httpx.TransportError:
            status = 400  # the connection was closed while we still sent
        assert status == 400
        assert control.get("/sandboxes").status_code == 200


class TestRuntimeAccess:
    def test_health_root_and_options_are_open(self, box: Box) -> None:
        """3.1."""
        for method, path in [("GET", "/health"), ("GET", "/"), ("OPTIONS", "/run")]:
            url = f"{box.record['envdUrl']}{path}"
            assert httpx.request(method, url).status_code == 204

    @pytest.mark.parametrize("token", [None, "", "wrong", "é"])
    @pytest.mark.parametrize(
        "route", [("POST", "/run"), ("GET", "/file"), ("GET", "/ports"), ("POST", "/process.Process/Start")]
    )
    def test_a_wrong_token_is_401(self, box: Box, token: str | None, route: tuple[str, str]) -> None:
        headers = {} if token is None else {"X-Access-Token": token.encode()}
        answer = httpx.request(route[0], f"{box.record['envdUrl']}{route[1]}", headers=headers)
        assert answer.status_code == 401
        assert error_of(answer)

    def test_the_api_key_is_no_runtime_token(self, box: Box, local_server: LocalServer) -> None:
        headers = {"X-API-Key": local_server.api_key, "Authorization": f"Bearer {local_server.api_key}"}
        assert httpx.post(f"{box.record['envdUrl']}/run", headers=headers).status_code == 401

    def test_no_token_is_anywhere_in_the_sandbox(self, local_server: LocalServer) -> None:
        with local_server.sandbox() as fresh:
            files = "find /root/workspace /tmp /run -xdev -type f -exec cat {} +"  # not the Python of the host
            everything = fresh.sh(f"env; cat /proc/*/environ /proc/*/cmdline; {files}").stdout
            assert "PATH=" in everything
            assert fresh.record["envdAccessToken"] not in everything
            assert local_server.api_key not in everything


class TestRun:
    """3.5."""

    def test_output_and_exit_code(self, box: Box) -> None:
        answer = box.http.post("/run", json={"cmd": "sh", "args": ["-c", "echo out; echo err >&2; exit 3"]}).json()
        assert (answer["stdout"], answer["stderr"], answer["exit_code"]) == ("out\n", "err\n", 3)
        assert answer["duration_ms"] >= 0
        assert "error" not in answer

    def test_nulls_are_absent(self, box: Box) -> None:
        nulls = dict.fromkeys(["cwd", "env", "timeoutMs", "stdin", "args"])
        answer = box.http.post("/run", json={"cmd": "pwd", **nulls})
        assert answer.json()["stdout"] == f"{HOME}\n"

    def test_stdin_env_and_cwd(self, box: Box) -> None:
        ran = box.sh("cat; pwd; echo $A$FROM_CREATE", stdin="in é\n", env={"A": "x"}, cwd="/tmp")
        assert ran.stdout == "in é\n/tmp\nx1\n"

    def test_a_timeout_answers_with_what_there_is(self, box: Box) -> None:
        began = time.monotonic()
        answer = box.http.post("/run", json={"cmd": "sh", "args": ["-c", "echo one; sleep 60"], "timeoutMs": 200})
        assert answer.status_code == 200
        assert answer.json()["error"] == "deadline exceeded"
        assert (answer.json()["stdout"], answer.json()["exit_code"]) == ("one\n", -1)
        assert time.monotonic() - began < 5

    def test_too_much_output_is_cut_and_said(self, box: Box) -> None:
        answer = box.http.post("/run", json={"cmd": "head", "args": ["-c", "9000000", "/dev/zero"]}).json()
        assert len(answer["stdout"]) == 8 << 20
        assert "left out" in answer["error"]

    def test_a_signal_is_an_error(self, box: Box) -> None:
        answer = box.http.post("/run", json={"cmd": "sh", "args": ["-c", "kill -9 $$"]}).json()
        assert (answer["exit_code"], answer["error"]) == (-1, "signal: killed")

    def test_input_that_nobody_reads_does_no_harm(self, box: Box) -> None:
        for _ in range(20):
            assert box.run("true", stdin="x" * 900_000).exit_code == 0

    @pytest.mark.parametrize(
        "body", [{}, {"cmd": " "}, {"cmd": 1}, {"cmd": "x", "args": "y"}, {"cmd": "x\0"}, {"cmd": "x", "env": []}]
    )
    def test_a_bad_request_is_400(self, box: Box, body: dict[str, Any]) -> None:
        assert box.http.post("/run", json=body).status_code == 400


class TestProcess:
    """4.3."""

    @pytest.mark.parametrize("enveloped", [False, True])
    def test_the_frames_of_a_start(self, box: Box, enveloped: bool) -> None:
        """4.1: SeaCloud's clients send bare JSON, Connect's an envelope."""
        body = {"process": {"cmd": "sh", "args": ["-c", "echo hi; exit 3"]}, "stdin": False}
        content = encode_json_frame(body) if enveloped else json.dumps(body).encode()
        headers = {"Content-Type": "application/connect+json"}
        answer = box.http.post("/process.Process/Start", content=content, headers=headers)
        assert answer.headers["content-type"] == "application/connect+json"
        frames = list(FrameDecoder().feed(answer.content))
        events = [json.loads(frame.payload)["event"] for frame in frames[:-1]]
        assert list(events[0]) == ["start"]
        assert events[0]["start"]["cmdId"]
        assert events[1] == {"data": {"stdout": base64.b64encode(b"hi\n").decode()}}
        assert events[-1] == {
            "end": {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"}
        }
        assert (frames[-1].flags, frames[-1].payload) == (END_STREAM, b"{}")

    def test_output_arrives_while_the_process_runs(self, box: Box) -> None:
        with box.start("sh", "-c", "echo first; read line; echo $line", stdin=True) as stream:
            assert stream.event() == {"data": {"stdout": base64.b64encode(b"first\n").decode()}}
            message = {"process": {"pid": stream.pid}, "input": {"stdin": base64.b64encode(b"second\n").decode()}}
            assert box.rpc("process.Process/SendInput", message).json() == {}
            assert stream.event() == {"data": {"stdout": base64.b64encode(b"second\n").decode()}}
            assert stream.until_end()["exitCode"] == 0

    def test_closing_stdin_ends_a_reader(self, box: Box) -> None:
        with box.start("cat", stdin=True) as stream:
            selector = {"process": {"pid": stream.pid}}
            assert box.rpc("process.Process/CloseStdin", selector).json() == {}
            assert stream.until_end()["exitCode"] == 0
            data = {"input": {"stdin": "eA=="}}
            assert box.rpc("process.Process/SendInput", selector | data).status_code == 404

    def test_without_stdin_a_reader_sees_the_end(self, box: Box) -> None:
        with box.start("cat") as stream:
            data = {"process": {"pid": stream.pid}, "input": {"stdin": "eA=="}}
            assert box.rpc("process.Process/SendInput", data).status_code in (400, 404)
            assert stream.until_end()["exitCode"] == 0

    @pytest.mark.parametrize(
        ("name", "status"),
        [
            ("SIGNAL_SIGTERM", "signal: terminated"),
            ("SIGNAL_SIGKILL", "signal: killed"),
            ("SIGNAL_SIGINT", "signal: interrupt"),
        ],
    )
    def test_a_signal_ends_a_process(self, box: Box, name: str, status: str) -> None:
        with box.start("sleep", "1000", tag="sleeper") as stream:
            answer = box.rpc("process.Process/SendSignal", {"process": {"tag": "sleeper"}, "signal": name})
            assert answer.json() == {}
            assert stream.until_end() == {"exitCode": -1, "exited": False, "status": status, "error": status}
            again = box.rpc("process.Process/SendSignal", {"process": {"pid": stream.pid}, "signal": name})
            assert (again.status_code, error_of(again)) == (404, "process not found")

    @pytest.mark.parametrize("name", ["SIGNAL_SIGINT", "SIGNAL_SIGTERM"])
    def test_a_signal_that_comes_at_once_is_not_lost(self, box: Box, name: str) -> None:
        """Between the fork and the exec, too, which takes its time on a busy machine."""
        busy = "for i in 1 2 3 4; do while :; do :; done & done; wait"

        def signal(stream: Stream, name: str) -> dict[str, Any]:
            box.rpc("process.Process/SendSignal", {"process": {"pid": stream.pid}, "signal": name})
            return stream.until_end()

        with box.start("sh", "-c", busy) as load:
            for _ in range(30):
                with box.start("sleep", "1000") as stream:
                    assert signal(stream, name)["exited"] is False
            signal(load, "SIGNAL_SIGKILL")

    def test_a_signal_reaches_the_whole_group(self, box: Box) -> None:
        with box.start("sh", "-c", "sleep 987 & sleep 987; true") as stream:
            wait_for(lambda: box.run("pgrep", "-fx", "sleep 987").stdout.count("\n") == 2, what="both sleepers")
            box.rpc("process.Process/SendSignal", {"process": {"pid": stream.pid}, "signal": "SIGNAL_SIGKILL"})
            stream.until_end()
        assert wait_for(lambda: box.run("pgrep", "-fx", "sleep 987").exit_code, what="the end of the group") == 1

    def test_what_is_left_of_a_group_can_still_be_killed(self, box: Box) -> None:
        """Its first process ends on TERM; another ignores it."""
        line = "(trap '' TERM; exec sleep 988) >/dev/null 2>&1 & sleep 988"
        with box.start("sh", "-c", line) as stream:
            wait_for(lambda: box.run("pgrep", "-fx", "sleep 988").stdout.count("\n") == 2, what="both sleepers")
            for name in ("SIGNAL_SIGTERM", "SIGNAL_SIGKILL"):
                answer = box.rpc("process.Process/SendSignal", {"process": {"pid": stream.pid}, "signal": name})
                assert answer.status_code == 200
                stream.until_end() if name == "SIGNAL_SIGTERM" else None
        assert wait_for(lambda: box.run("pgrep", "-fx", "sleep 988").exit_code, what="the end of the group") == 1

    @pytest.mark.parametrize("message", [{"process": {"pid": 4_000_000}}, {"process": {"tag": "nope"}}])
    @pytest.mark.parametrize("method", ["SendSignal", "SendInput", "CloseStdin", "Connect"])
    def test_an_unknown_process_is_404(self, box: Box, method: str, message: dict[str, Any]) -> None:
        more = {"signal": "SIGNAL_SIGKILL", "input": {"stdin": "eA=="}}
        answer = box.rpc(f"process.Process/{method}", message | more)
        assert (answer.status_code, error_of(answer)) == (404, "process not found")

    @pytest.mark.parametrize(
        "selector", [{}, {"process": {}}, {"process": {"pid": 1, "tag": "x"}}, {"process": {"pid": "x"}}]
    )
    def test_a_bad_selector_is_400(self, box: Box, selector: dict[str, Any]) -> None:
        assert box.rpc("process.Process/SendSignal", selector | {"signal": "SIGNAL_SIGKILL"}).status_code == 400

    def test_an_unknown_signal_is_400(self, box: Box) -> None:
        with box.start("sleep", "1000") as stream:
            message = {"process": {"pid": stream.pid}, "signal": "SIGNAL_SIGSTOP"}
            assert box.rpc("process.Process/SendSignal", message).status_code == 400
            box.rpc("process.Process/SendSignal", {"process": {"pid": stream.pid}, "signal": "SIGNAL_SIGKILL"})

    def test_running_processes_are_listed(self, box: Box) -> None:
        with box.start("sleep", "1000", tag="listed") as stream:
            listed = box.rpc("process.Process/List", {}).json()["processes"]
            mine = next(item for item in listed if item["pid"] == stream.pid)
            assert (mine["tag"], mine["config"]["cmd"], mine["config"]["args"]) == ("listed", "sleep", ["1000"])
            box.rpc("process.Process/SendSignal", {"process": {"pid": stream.pid}, "signal": "SIGNAL_SIGKILL"})
            stream.until_end()
            assert stream.pid not in [item["pid"] for item in box.rpc("process.Process/List", {}).json()["processes"]]

    def test_another_stream_can_be_connected(self, box: Box) -> None:
        with (
            box.start("cat", stdin=True, tag="shared") as first,
            box.stream("Connect", {"process": {"tag": "shared"}}) as second,
        ):
            selector = {"process": {"pid": first.pid}}
            both = base64.b64encode(b"both").decode()
            box.rpc("process.Process/SendInput", selector | {"input": {"stdin": both}})
            assert first.event() == second.event() == {"data": {"stdout": both}}
            box.rpc("process.Process/CloseStdin", selector)
            assert second.until_end()["exitCode"] == 0

    def test_a_process_that_ended_can_still_be_connected(self, box: Box) -> None:
        with box.start("sh", "-c", "exit 5") as first:
            first.until_end()
        with box.stream("Connect", {"process": {"pid": first.pid}}) as late:
            assert late.until_end()["exitCode"] == 5

    def test_dropping_the_stream_does_not_end_the_process(self, box: Box) -> None:
        with box.start("sh", "-c", "read line; echo $line > dropped", stdin=True) as stream:
            pid = stream.pid
        box.rpc(
            "process.Process/SendInput",
            {"process": {"pid": pid}, "input": {"stdin": base64.b64encode(b"x\n").decode()}},
        )
        wait_for(lambda: box.http.get("/file", params={"path": "dropped"}).text == "x\n", what="its file")

    def test_the_result_is_there_with_the_end(self, box: Box) -> None:
        """4.4: no race."""
        for _ in range(20):
            with box.start("sh", "-c", "echo out; echo err >&2; exit 4") as stream:
                stream.until_end()
                result = box.rpc("process.Process/GetResult", {"cmdId": stream.started["cmdId"]}).json()
            assert (result["exitCode"], result["stdout"], result["stderr"]) == (4, "out\n", "err\n")
            assert abs(result["startedAtUnix"] - time.time()) < 60

    def test_a_result_that_is_not_there_says_why(self, box: Box) -> None:
        with box.start("sleep", "1000") as stream:
            early = box.rpc("process.Process/GetResult", {"cmdId": stream.started["cmdId"]})
            assert (early.status_code, error_of(early)) == (404, "process not finished")
            box.rpc("process.Process/SendSignal", {"process": {"pid": stream.pid}, "signal": "SIGNAL_SIGKILL"})
        unknown = box.rpc("process.Process/GetResult", {"cmdId": "cmd-nope"})
        assert (unknown.status_code, error_of(unknown)) == (404, "process not found")

    def test_a_timeout_ends_the_process_and_its_group(self, box: Box) -> None:
        line = "(trap '' TERM; exec sleep 989) >/dev/null 2>&1 & trap '' TERM; sleep 989; sleep 989"
        with box.start("sh", "-c", line, timeoutMs=200) as stream:
            end = stream.until_end()
        assert (end["exitCode"], end["exited"], end["status"]) == (-1, False, "signal: killed")
        assert wait_for(lambda: box.run("pgrep", "-fx", "sleep 989").exit_code, what="the end of the group") == 1

    def test_an_unknown_program_starts_and_ends_with_127(self, box: Box) -> None:
        ran = box.run("no-such-program")
        assert (ran.exit_code, ran.stderr) == (127, "no-such-program: command not found\n")

    def test_a_program_that_is_none_ends_with_126(self, box: Box) -> None:
        assert box.run("/etc/passwd").exit_code == 126

    def test_a_script_without_interpreter_line_runs_in_sh(self, box: Box) -> None:
        box.sh("echo 'echo $0 $1' > script; chmod +x script")
        assert box.run("./script", "x").stdout == "./script x\n"

    @pytest.mark.parametrize("cwd", ["/no/such", "/etc/passwd", "\ud800"])
    def test_a_bad_working_directory_is_400_before_the_stream(self, box: Box, cwd: str) -> None:
        body = json.dumps({"process": {"cmd": "true", "cwd": cwd}})
        answer = box.http.post("/process.Process/Start", content=body)
        assert answer.status_code == 400
        assert error_of(answer).startswith("cwd: ")

    def test_a_request_larger_than_a_message_to_the_agent_gets_through(self, box: Box) -> None:
        text = "x" * 120_000
        assert (
            box.run("sh", "-c", "echo ${#1} ${#2} ${#BIG}", "sh", text, text, env={"BIG": text}).stdout
            == "120000 120000 120000\n"
        )

    def test_a_background_child_neither_delays_the_end_nor_is_hurt_by_it(self, box: Box) -> None:
        """It holds the pipes and writes on after the end: no SIGPIPE."""
        line = "(while echo x; do sleep 0.01; done; echo $? > broke) & echo started"
        began = time.monotonic()
        with box.start("sh", "-c", line) as stream:
            assert stream.until_end()["exitCode"] == 0
        assert time.monotonic() - began < 5
        assert box.sh("sleep 0.3; ls broke").exit_code == 2
        selector = {"process": {"pid": stream.pid}, "signal": "SIGNAL_SIGKILL"}
        assert box.rpc("process.Process/SendSignal", selector).status_code == 200

    def test_all_output_comes_before_the_end(self, box: Box) -> None:
        """Also when the program is gone long before its pipe is empty."""
        with box.start("sh", "-c", "head -c 200000 /dev/zero; sleep 1000 &") as stream:
            total = 0
            while "end" not in (event := stream.event()):
                total += len(base64.b64decode(event["data"]["stdout"]))
        assert total == 200_000
        box.sh("pkill -x sleep")


class TestFiles:
    """3.4, 4.2."""

    @pytest.mark.parametrize("data", [b"", b"hello", bytes(range(256)) * 4000], ids=["empty", "small", "1 MB"])
    def test_a_file_is_read_as_it_was_written(self, box: Box, data: bytes) -> None:
        written = box.http.post("/file", params={"path": "dir/sub/f.bin"}, content=data)
        assert (written.status_code, written.content) == (204, b"")
        answer = box.http.get("/file", params={"path": f"{HOME}/dir/sub/f.bin"})
        assert (answer.status_code, answer.content) == (200, data)
        assert answer.headers["content-length"] == str(len(data))

    @pytest.mark.parametrize(
        "path", ["~/h.txt", "h.txt", f"{HOME}/h.txt", f"{HOME}/./a/../h.txt", "/tmp/../root/workspace/h.txt"]
    )
    def test_paths_start_at_home(self, box: Box, path: str) -> None:
        """3.3."""
        box.sh("mkdir -p a")
        box.http.post("/file", params={"path": path}, content=path.encode())
        assert box.run("cat", f"{HOME}/h.txt").stdout == path

    def test_names_may_be_any_text(self, box: Box) -> None:
        for name in ("é ü.txt", "a\nb", "a%2Fb", " ", "-rf", "…"):
            assert box.http.post("/file", params={"path": name}, content=b"x").status_code == 204
            assert box.http.get("/file", params={"path": name}).content == b"x"

    @pytest.mark.parametrize(
        ("path", "status", "phrase"),
        [
            ("missing", 404, "No such file or directory"),
            ("missing/x", 404, "No such file or directory"),
            ("/tmp", 400, "Is a directory"),
            ("/etc/passwd/x", 400, "Not a directory"),
            ("/dev/zero", 400, "Invalid argument"),
            ("/proc/1/environ", 403, "Permission denied"),
            ("loop", 400, "Too many levels of symbolic links"),
            ("fifo", 400, "Invalid argument"),
            ("closed", 403, "Permission denied"),
        ],
    )
    def test_what_cannot_be_read_is_said_in_the_systems_words(
        self, box: Box, path: str, status: int, phrase: str
    ) -> None:
        box.sh("ln -sfn loop loop; rm -f fifo closed; mkfifo fifo; touch closed; chmod 000 closed")
        answer = box.http.get("/file", params={"path": path})
        assert (answer.status_code, error_of(answer)) == (status, phrase)

    @pytest.mark.parametrize(
        ("path", "status", "phrase"),
        [
            ("/tmp", 400, "Is a directory"),
            ("/usr/x", 403, "Read-only file system"),
            ("/etc/passwd/x", 400, "Not a directory"),
            ("/dev/null", 400, "Invalid argument"),
            ("x" * 300, 400, "File name too long"),
        ],
    )
    def test_what_cannot_be_written_is_said_in_the_systems_words(
        self, box: Box, path: str, status: int, phrase: str
    ) -> None:
        answer = box.http.post("/file", params={"path": path}, content=b"x" * 100_000)
        assert (answer.status_code, error_of(answer)) == (status, phrase)

    @pytest.mark.parametrize("path", [None, "", "a\0b", "x" * 4097])
    def test_a_path_that_cannot_be_one_is_400(self, box: Box, path: str | None) -> None:
        params = {} if path is None else {"path": path}
        assert box.http.get("/file", params=params).status_code == 400
        assert box.http.post("/file", params=params, content=b"x").status_code == 400
        assert box.rpc("filesystem.Filesystem/Stat", params).status_code == 400

    def test_a_path_that_is_no_text_is_400(self, box: Box) -> None:
        body = '{"path": "a\\ud800"}'
        for method in ("Stat", "ListDir", "MakeDir", "Remove"):
            assert box.http.post(f"/filesystem.Filesystem/{method}", content=body).status_code == 400

    def test_a_full_disk_is_507_and_the_old_file_stays(self, box: Box) -> None:
        box.http.post("/file", params={"path": "/dev/shm/f"}, content=b"old")
        answer = box.http.post("/file", params={"path": "/dev/shm/f"}, content=b"x" * (65 << 20))
        assert (answer.status_code, error_of(answer)) == (507, "No space left on device")
        assert box.http.get("/file", params={"path": "/dev/shm/f"}).content == b"old"
        assert box.run("ls", "-A", "/dev/shm").stdout == "f\n"

    def test_an_aborted_upload_leaves_the_old_file(self, box: Box) -> None:
        box.http.post("/file", params={"path": "upload/f"}, content=b"old")

        def broken() -> Iterator[bytes]:
            yield b"new" * 1000
            raise ConnectionAbortedError

        with pytest.raises(ConnectionAbortedError):
            box.http.post("/file", params={"path": "upload/f"}, content=broken())
        wait_for(lambda: box.run("ls", "-A", "upload").stdout == "f\n", what="the end of the upload")
        assert box.http.get("/file", params={"path": "upload/f"}).content == b"old"

    def test_a_write_keeps_the_mode_and_follows_a_link(self, box: Box) -> None:
        box.sh("echo '#!/bin/sh' > tool; chmod 755 tool; ln -sf tool link")
        box.http.post("/file", params={"path": "link"}, content=b"#!/bin/sh\necho ok\n")
        assert box.run("./tool").stdout == "ok\n"
        assert box.run("readlink", "link").stdout == "tool\n"

    def test_gzip_is_unpacked(self, box: Box) -> None:
        headers = {"Content-Encoding": "gzip"}
        packed = gzip.compress(b"x" * 3_000_000)
        assert box.http.post("/file", params={"path": "gz"}, content=packed, headers=headers).status_code == 204
        assert box.run("wc", "-c", "gz").stdout == "3000000 gz\n"
        for broken in (packed[:-9], b"not gzip"):
            assert box.http.post("/file", params={"path": "gz"}, content=broken, headers=headers).status_code == 400
        assert box.run("wc", "-c", "gz").stdout == "3000000 gz\n"
        unknown = {"Content-Encoding": "br"}
        assert box.http.post("/file", params={"path": "gz"}, content=b"x", headers=unknown).status_code == 415

    @pytest.mark.parametrize(
        ("header", "status", "body", "content_range"),
        [
            ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
            ("bytes=8-", 206, b"89", "bytes 8-9/10"),
            ("bytes=-3", 206, b"789", "bytes 7-9/10"),
            ("bytes=5-100", 206, b"56789", "bytes 5-9/10"),
            ("bytes=10-", 416, b"", "bytes */10"),
            ("bytes=3-1", 416, None, None),
            ("lines=1-2", 416, None, None),
        ],
    )
    def test_a_range_is_a_part(
        self, box: Box, header: str, status: int, body: bytes | None, content_range: str | None
    ) -> None:
        box.http.post("/file", params={"path": "range"}, content=b"0123456789")
        answer = box.http.get("/files", params={"path": "range"}, headers={"Range": header})
        assert answer.status_code == status
        assert body is None or answer.content == body
        assert answer.headers.get("content-range") == content_range

    def test_files_takes_raw_bytes_and_json(self, box: Box) -> None:
        entry = {"path": "/tmp/a.txt", "name": "a.txt", "type": "file"}
        raw = box.http.post(
            "/files",
            params={"path": "/tmp/a.txt"},
            content=b"raw",
            headers={"Content-Type": "application/octet-stream"},
        )
        assert (raw.status_code, raw.json()) == (200, [entry])
        text = box.http.post("/files", json={"path": "/tmp/a.txt", "content": "json é"})
        assert (text.status_code, text.json()) == (200, [entry])
        assert box.run("cat", "/tmp/a.txt").stdout == "json é"
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        assert box.http.post("/files", content=b"--x--", headers=form).status_code == 400

    def test_a_batch_writes_several(self, box: Box) -> None:
        files = [{"path": "/tmp/b1", "data": "MQ=="}, {"path": "/tmp/b2", "content": "bb", "mode": 0o755}]
        answer = box.http.post("/files/batch", json={"files": files})
        assert answer.json() == {
            "files": [{"path": "/tmp/b1", "bytes_written": 1}, {"path": "/tmp/b2", "bytes_written": 2}]
        }
        assert box.sh("cat /tmp/b1 /tmp/b2; stat -c %a /tmp/b2").stdout == "1bb755\n"
        assert box.http.post("/files/batch", json={"files": [{"path": "/tmp/b3"}]}).status_code == 400

    def test_compose_joins_and_deletes_its_sources(self, box: Box) -> None:
        box.sh("printf a > /tmp/c1; printf b > /tmp/c2")
        body = {"source_paths": ["/tmp/c1", "/tmp/c2"], "destination": "/tmp/c3"}
        assert box.http.post("/files/compose", json=body).json() == {"path": "/tmp/c3", "name": "c3", "type": "file"}
        assert box.sh("cat /tmp/c3; ls /tmp/c1").stdout == "ab"
        assert box.http.post("/files/compose", json=body).status_code == 404
        for sources in ([], ["/tmp/c3"]):
            assert box.http.post("/files/compose", json=body | {"source_paths": sources}).status_code == 400
        assert box.run("cat", "/tmp/c3").stdout == "ab"

    def test_content_is_for_a_model(self, box: Box) -> None:
        box.http.post("/file", params={"path": "c.txt"}, content=b"hello")
        shown = box.http.get("/files/content", params={"path": "c.txt"}).json()
        assert shown == {"type": "text", "content": "hello", "truncated": False}
        cut = box.http.get("/files/content", params={"path": "c.txt", "max_tokens": 1}).json()
        assert cut == {"type": "text", "content": "hell", "truncated": True}
        box.http.post("/file", params={"path": "c.png"}, content=b"\x89PNG")
        image = box.http.get("/files/content", params={"path": "c.png"}).json()
        assert image == {"type": "image", "mime_type": "image/png", "data": base64.b64encode(b"\x89PNG").decode()}

    def test_stat_says_what_a_file_is(self, box: Box) -> None:
        box.sh("mkdir -p st; printf 123 > st/f; chmod 640 st/f; ln -sfn f st/l")
        file = box.rpc("filesystem.Filesystem/Stat", {"path": "st/f"}).json()["entry"]
        assert (file["name"], file["path"], file["type"], file["size"]) == ("f", f"{HOME}/st/f", "FILE_TYPE_FILE", 3)
        assert (file["mode"], file["permissions"], file["owner"], file["group"]) == (
            0o100640,
            "-rw-r-----",
            "user",
            "user",
        )
        assert file["symlinkTarget"] is None
        assert file["modifiedTime"].endswith("Z")
        link = box.rpc("filesystem.Filesystem/Stat", {"path": "st/l"}).json()["entry"]
        assert (link["type"], link["symlinkTarget"]) == ("FILE_TYPE_SYMLINK", "f")
        assert box.rpc("filesystem.Filesystem/Stat", {"path": "st"}).json()["entry"]["type"] == "FILE_TYPE_DIRECTORY"
        assert box.rpc("filesystem.Filesystem/Stat", {"path": "st/nope"}).status_code == 404

    def test_a_directory_is_listed_to_a_depth(self, box: Box) -> None:
        box.sh("mkdir -p ls/a/b; touch ls/f ls/a/g ls/a/b/h; ln -sfn a ls/link; mkdir -p ls/closed; chmod 0 ls/closed")

        def names(depth: int | None) -> list[str]:
            entries = box.rpc("filesystem.Filesystem/ListDir", {"path": "ls", "depth": depth}).json()["entries"]
            return [entry["path"].removeprefix(f"{HOME}/ls/") for entry in entries]

        assert names(None) == names(0) == names(1) == ["a", "closed", "f", "link"]
        assert names(2) == ["a", "a/b", "a/g", "closed", "f", "link"]
        assert names(99) == ["a", "a/b", "a/b/h", "a/g", "closed", "f", "link"]
        assert box.rpc("filesystem.Filesystem/ListDir", {"path": "ls/nope"}).status_code == 404
        assert box.rpc("filesystem.Filesystem/ListDir", {"path": "ls/f"}).status_code == 400
        box.sh("mkdir -p empty")
        assert box.rpc("filesystem.Filesystem/ListDir", {"path": "empty"}).json() == {"entries": []}

    def test_names_that_are_no_text_are_shown_somehow(self, box: Box) -> None:
        box.python("import os; os.makedirs('raw', exist_ok=True); open(b'raw/\\xff', 'w'); open('raw/a\\nb', 'w')")
        entries = box.rpc("filesystem.Filesystem/ListDir", {"path": "raw"}).json()["entries"]
        assert {entry["name"] for entry in entries} == {"�", "a\nb"}

    def test_a_very_big_directory_is_refused_and_not_cut(self, box: Box) -> None:
        box.python("import os; os.makedirs('many'); [open(f'many/{i}', 'w').close() for i in range(10_001)]")
        assert box.rpc("filesystem.Filesystem/ListDir", {"path": "many"}).status_code == 400

    def test_directories_are_made_moved_and_removed(self, box: Box) -> None:
        made = box.rpc("filesystem.Filesystem/MakeDir", {"path": "m/a/b"})
        assert made.json()["entry"]["path"] == f"{HOME}/m/a/b"
        assert box.rpc("filesystem.Filesystem/MakeDir", {"path": "m/a"}).status_code == 409
        moved = box.rpc("filesystem.Filesystem/Move", {"source": "m/a", "destination": "m/new/c"})
        assert moved.json()["entry"]["path"] == f"{HOME}/m/new/c"
        assert box.run("ls", "m/new/c").stdout == "b\n"
        across = box.rpc("filesystem.Filesystem/Move", {"source": "m/new", "destination": "/tmp/moved"})
        assert across.json()["entry"]["type"] == "FILE_TYPE_DIRECTORY"
        assert box.rpc("filesystem.Filesystem/Move", {"source": "m/a", "destination": "m/z"}).status_code == 404
        box.sh("chmod 000 /tmp/moved/c")
        for _ in range(2):
            assert box.rpc("filesystem.Filesystem/Remove", {"path": "/tmp/moved"}).json() == {}
        assert box.run("ls", "/tmp/moved").exit_code == 2

    def test_remove_does_not_follow_a_link(self, box: Box) -> None:
        box.sh("mkdir -p keep rm; touch keep/f; ln -sfn ../keep rm/link; ln -sfn keep top")
        for path in ("rm", "top"):
            assert box.rpc("filesystem.Filesystem/Remove", {"path": path}).json() == {}
        assert box.run("ls", "keep").stdout == "f\n"


class TestPreview:
    """5."""

    def test_ports_are_listed(self, box: Box, served: int) -> None:
        assert {"port": served, "protocol": "tcp", "address": "127.0.0.1"} in box.http.get("/ports").json()

    def test_a_request_gets_through_as_it_is(self, box: Box, served: int) -> None:
        url = f"{box.record['envdUrl']}/proxy/{served}/a%2Fb/../c?x=1&y=%20"
        request = httpx.Request("PUT", url, content=b"body", headers={"X-Mine": "1"})
        request.extensions["target"] = url.removeprefix(str(box.control.base_url).rstrip("/")).encode()
        with httpx.Client() as client:
            answer = client.send(request)
        assert answer.status_code == 418
        seen = answer.json()
        assert (seen["method"], seen["path"], seen["body"]) == ("PUT", "/a%2Fb/../c?x=1&y=%20", "body")
        assert ["x-mine", "1"] in [[name.lower(), value] for name, value in seen["headers"]]

    def test_no_token_reaches_the_app_and_a_cookie_only_from_who_has_the_token(self, box: Box, served: int) -> None:
        """Without it a page may be asking, which shares this origin with the pages of others."""
        secret = box.record["envdAccessToken"]
        url = f"{box.record['envdUrl']}/proxy/{served}/"
        headers = {"Cookie": "other=app", "X-API-Key": "k", "Connection": "X-Hop", "X-Hop": "1"}
        with_token = httpx.get(url, headers={**headers, "e2b-traffic-access-token": secret}).text
        without = httpx.get(url, headers=headers).text
        for hidden in (secret, "x-access-token", "traffic-access", "x-api-key", "x-hop"):
            assert hidden not in with_token.lower() + without.lower()
        assert ("other=app" in with_token, "other=app" in without) == (True, False)

    def test_the_answer_is_the_apps_without_what_is_for_one_hop(self, box: Box, served: int) -> None:
        with_token = box.http.get(f"/proxy/{served}/")
        without = httpx.get(f"{box.record['envdUrl']}/proxy/{served}/")
        for answer in (with_token, without):
            assert answer.headers["x-app"] == "yes"
            assert not {"x-hop", "transfer-encoding"} & set(answer.headers)
        assert ("set-cookie" in with_token.headers, "set-cookie" in without.headers) == (True, False)

    def test_a_redirect_is_not_followed(self, box: Box, served: int) -> None:
        answer = box.http.get(f"/proxy/{served}/redirect")
        assert (answer.status_code, answer.headers["location"]) == (302, "http://127.0.0.1:1/")

    def test_an_answer_streams(self, box: Box, served: int) -> None:
        with box.http.stream("GET", f"/proxy/{served}/stream") as answer:
            chunks = answer.iter_raw()
            assert next(chunks) == b"one"
            box.sh("touch go")
            assert b"".join(chunks) == b"two"

    @pytest.mark.parametrize("port", ["0", "70000", "abc", "-1", "80%2F81", "\uff11"])
    def test_a_port_that_is_none_is_400(self, box: Box, port: str) -> None:
        assert box.http.get(f"/proxy/{port}/").status_code == 400

    def test_a_closed_port_is_502(self, box: Box) -> None:
        answer = box.http.get("/proxy/9/")
        body = answer.json()
        assert (answer.status_code, body["code"], body["port"], body["sandboxId"]) == (502, 502, 9, box.sandbox_id)
        assert "port is not listening" in body["message"]

    def test_a_port_that_speaks_no_http_is_502(self, box: Box) -> None:
        """And IPv6 is reached as well."""
        program = """
import socket
client = socket.create_server(("::1", 8322), family=socket.AF_INET6).accept()[0]
client.recv(9)
client.send(b"220 hi\\r\\n\\r\\n")
"""
        with box.start("python3", "-c", program):
            wait_for(lambda: 8322 in [item["port"] for item in box.http.get("/ports").json()], what="the server")
            assert box.http.get("/proxy/8322/").status_code == 502

    def test_public_previews_need_no_token_and_answer_web_pages(self, box: Box, served: int) -> None:
        url = f"{box.record['envdUrl']}/proxy/{served}/"
        assert httpx.get(url, headers={"Origin": "http://localhost"}).status_code == 418

    def test_private_previews_need_the_token(self, local_server: LocalServer) -> None:
        with local_server.sandbox(network={"allowPublicTraffic": False}) as sandbox:
            url, token = f"{sandbox.record['envdUrl']}/proxy/9/", sandbox.record["envdAccessToken"]
            refused = httpx.get(url)
            assert (refused.status_code, refused.json()["code"]) == (403, 403)
            assert "e2b-traffic-access-token" in refused.json()["message"]
            assert httpx.get(url, headers={"X-Access-Token": "wrong"}).status_code == 403
            for name in ("X-Access-Token", "e2b-traffic-access-token"):
                assert httpx.get(url, headers={name: token}).status_code == 502  # let through to a closed port
