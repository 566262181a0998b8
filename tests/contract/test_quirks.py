"""The quirks of the wire (contract 8) that concern a server, one row each, against the local service.

Every quirk of the list is accounted for: here, in a test elsewhere, or as the affair of clients only.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox_tools.wire.envelope import FrameDecoder, encode_json_frame
from sandbox_tools.wire.files import file_signature
from tests.local.service import Box, LocalServer

HERE = Path(__file__).parent
NUMBERS = range(1, 52)

ELSEWHERE = {
    1: "test_local_control.py::test_every_root_has_the_routes",
    8: "test_local_wire.py::test_the_list_is_filtered",
    9: "test_local_wire.py::test_the_list_is_filtered",
    10: "test_local_control.py::test_a_token_of_an_old_client_is_a_plain_or_an_encoded_offset",
    15: "test_local_wire.py::test_connect_keeps_the_time_to_live_with_0_and_resets_it_otherwise",
    24: "test_local_wire.py::test_the_frames_of_a_start",
    27: "../local/test_watch.py::test_bare_json_gets_events_and_an_envelope_what_connect_clients_expect",
    36: "test_local_process.py::test_keepalives_come_as_often_as_the_client_asks",
    40: "test_local_files.py::test_a_path_that_is_a_directory_gets_the_file",
}
CLIENTS_ONLY = {
    19: "a README of the SDK",
    21: "texts of the CLI",
    23: "how the SDK reads the times of build logs; there are no builds here",
    32: "how SDKs read the end event: see 31 for what they get",
    43: "what a method of the SDK returns",
    47: "what run_code of the SDK returns",
    48: "what the SDK caches",
    49: "the SDK never closes the input of such a process",
    50: "an example of a README",
    51: "about the documents themselves",
}

Check = Callable[[Box], Any]
QUIRKS: list[Any] = []


def quirk(number: int, title: str, expected: object) -> Callable[[Check], Check]:
    """Add a row: what a check has to return."""

    def add(check: Check) -> Check:
        QUIRKS.append(pytest.param(check, expected, id=f"{number}: {title}"))
        ROWS.add(number)
        return check

    return add


ROWS: set[int] = set()


@pytest.fixture(scope="module")
def box(local_server: LocalServer) -> Iterator[Box]:
    with local_server.sandbox(envVars={"Q_CREATED": "0"}) as sandbox:
        sandbox.http.post("/file", params={"path": "a.txt"}, content=b"abc")
        yield sandbox


def path_of(box: Box, *rest: str) -> str:
    return "/".join([f"/sandboxes/{box.sandbox_id}", *rest])


def frames(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(frame.payload) for frame in FrameDecoder().feed(answer.content)]


def started(box: Box, line: str, **more: Any) -> dict[str, Any]:
    """Run a shell line through Start, and return its end event."""
    body = {"process": {"cmd": "sh", "args": ["-c", line]}, "stdin": False, **more}
    answer = box.http.post("/process.Process/Start", json=body)
    end: dict[str, Any] = frames(answer)[-2]["event"]["end"]
    return end


@quirk(2, "clients that keep only the host of the base URL", 200)
def host_only(box: Box) -> Any:
    return box.control.get("/api/v1/sandboxes").status_code


@quirk(3, "templates below either root", [200, 200])
def template_roots(box: Box) -> Any:
    return [box.control.get(f"{root}/templates").status_code for root in ("/api/v1", "/api/v1/sandbox")]


@quirk(4, "a bearer key alone, or beside X-API-Key", [200, 200])
def bearer(box: Box) -> Any:
    key = box.control.headers["X-API-Key"]
    url = str(box.control.base_url.join("/sandboxes"))
    both = {"Authorization": f"Bearer {key}"}, {"Authorization": f"Bearer {key}", "X-API-Key": key}
    return [httpx.get(url, headers=headers).status_code for headers in both]


@quirk(5, "requestID and request_id, on both surfaces", [True, True])
def request_ids(box: Box) -> Any:
    bodies = [box.control.get("/sandboxes/sb-nope").json(), box.http.get("/file", params={"path": "/no"}).json()]
    return [bool(body["requestID"]) and body["requestID"] == body["request_id"] for body in bodies]


@quirk(6, "code is the status, as a number, beside message and error", [(404, True), (404, True)])
def error_codes(box: Box) -> Any:
    bodies = [box.control.get("/sandboxes/sb-nope").json(), box.http.get("/file", params={"path": "/no"}).json()]
    return [(body["code"], body["error"] == body["message"]) for body in bodies]


@quirk(7, "templateID is optional", "tpl-base-local")
def default_template(box: Box) -> Any:
    return box.record["templateID"]


@quirk(11, "limits of pages: sandboxes 100, logs 1000, templates 100", [(200, 400), (200, 400), (200, 400)])
def page_limits(box: Box) -> Any:
    pages = [("/sandboxes", 100), (path_of(box, "logs"), 1000), ("/templates", 100)]
    return [
        (
            box.control.get(path, params={"limit": limit}).status_code,
            box.control.get(path, params={"limit": limit + 1}).status_code,
        )
        for path, limit in pages
    ]


@quirk(12, "autoResume is a boolean; a name in allowOut is refused", [400, 400])
def create_forms(box: Box) -> Any:
    bodies: list[dict[str, Any]] = [{"autoResume": {"enabled": True}}, {"network": {"allowOut": ["example.com"]}}]
    return [box.control.post("/sandboxes", json=body).status_code for body in bodies]


@quirk(13, "envVars at create, envs at configure and Start, env at run", ["0", "1", "2", "3"])
def variables(box: Box) -> Any:
    box.http.post("/configure", json={"envs": {"Q_CONFIGURED": "1"}})
    body = {"process": {"cmd": "printenv", "args": ["Q_STARTED"], "envs": {"Q_STARTED": "2"}}, "stdin": False}
    events = [frame["event"] for frame in frames(box.http.post("/process.Process/Start", json=body))[:-1]]
    given = next(base64.b64decode(event["data"]["stdout"]).decode().strip() for event in events if "data" in event)
    created, configured, ran = box.sh("echo $Q_CREATED $Q_CONFIGURED $Q_RUN", env={"Q_RUN": "3"}).stdout.split()
    return [created, configured, given, ran]


@quirk(14, "timeoutMs is refused outside and comes first inside", [400, 400, "deadline exceeded"])
def timeouts(box: Box) -> Any:
    refused = [
        box.control.post(path_of(box, route), json={"timeoutMs": 1000}).status_code for route in ("connect", "timeout")
    ]
    body = {"cmd": "sleep", "args": ["1000"], "timeoutMs": 50, "timeout": 900}
    return [*refused, box.http.post("/run", json=body).json()["error"]]


@quirk(16, "state and status say the same", [("running", "running"), ("running", "running")])
def states(box: Box) -> Any:
    listed = next(item for item in box.control.get("/sandboxes").json() if item["sandboxID"] == box.sandbox_id)
    return [(record["state"], record["status"]) for record in (box.control.get(path_of(box)).json(), listed)]


@quirk(17, "a paused sandbox has null for its runtime", [(None, None), 201])
def paused(box: Box) -> Any:
    record = box.control.post("/sandboxes", json={}).json()
    path = f"/sandboxes/{record['sandboxID']}"
    box.control.post(f"{path}/pause")
    detail = box.control.get(path).json()
    resumed = box.control.post(f"{path}/connect", json={"timeout": 0})
    box.control.delete(path)
    return [(detail["envdUrl"], detail["envdAccessToken"]), resumed.status_code]


@quirk(18, "no traffic token in any record", False)
def traffic_token(box: Box) -> Any:
    return "traffic" in json.dumps([*box.record, *box.control.get(path_of(box)).json()]).lower()


@quirk(20, "metrics: an object for one, items for many by sandbox_ids", [True, ["sb-nope", True]])
def metrics_shapes(box: Box) -> Any:
    one = box.control.get(path_of(box, "metrics")).json()
    many = box.control.get("/sandboxes/metrics", params={"sandbox_ids": f"{box.sandbox_id},sb-nope"}).json()
    [here, missing] = sorted(many["items"], key=lambda item: bool(item["error"]))
    return [one["sandboxID"] == here["sandboxID"] == box.sandbox_id, [missing["sandboxID"], bool(missing["error"])]]


@quirk(22, "builds are not offered, under neither path", [404, 404])
def builds(box: Box) -> Any:
    paths = ("/templates/tpl-base-local/builds", "/build")
    return [box.control.post(path, json={}).status_code for path in paths]


@quirk(25, "WatchDir as application/json", 200)
def watch_as_json(box: Box) -> Any:
    body = {"path": "/tmp", "recursive": False}
    with box.http.stream("POST", "/filesystem.Filesystem/WatchDir", json=body) as answer:
        return answer.status_code


@quirk(26, "what fails before a stream is an HTTP error, in either form", [400, 404, 404, 404])
def errors_before_streams(box: Box) -> Any:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/process.Process/Start", {"process": {"cmd": "true", "cwd": "/nope"}}),
        ("/process.Process/Connect", {"process": {"pid": 4_000_000}}),
        ("/filesystem.Filesystem/WatchDir", {"path": "/nope"}),
    ]
    envelope = encode_json_frame(calls[1][1])
    enveloped = box.http.post(calls[1][0], content=envelope, headers={"Content-Type": "application/connect+json"})
    return [*(box.http.post(path, json=body).status_code for path, body in calls), enveloped.status_code]


@quirk(28, "code is a number in errors of RPCs, whose message can be read", [(404, "process not found")] * 2)
def codes_of_rpcs(box: Box) -> Any:
    answers = [
        box.rpc("process.Process/GetResult", {"cmdId": "cmd-none"}),
        box.rpc("process.Process/SendSignal", {"process": {"pid": 4_000_000}, "signal": "SIGNAL_SIGKILL"}),
    ]
    return [(answer.json()["code"], answer.json()["message"]) for answer in answers]


@quirk(29, "sizes are numbers, and empty lists are there", [3, [], [], {"events": []}])
def numbers_and_lists(box: Box) -> Any:
    size = box.rpc("filesystem.Filesystem/Stat", {"path": "a.txt"}).json()["entry"]["size"]
    box.rpc("filesystem.Filesystem/MakeDir", {"path": "/tmp/empty"})
    entries = box.rpc("filesystem.Filesystem/ListDir", {"path": "/tmp/empty"}).json()["entries"]
    processes = box.rpc("process.Process/List", {}).json()["processes"]
    watcher = box.rpc("filesystem.Filesystem/CreateWatcher", {"path": "/tmp/empty"}).json()["watcherId"]
    return [size, entries, processes, box.rpc("filesystem.Filesystem/GetWatcherEvents", {"watcherId": watcher}).json()]


@quirk(30, "what only SeaCloud has is there", [200, 200, 204, 200, 200, 200, 204, 200, 200])
def only_here(box: Box) -> Any:
    box.http.post("/file", params={"path": "b.txt"}, content=b"old")
    answers = [
        box.rpc("filesystem.Filesystem/Edit", {"path": "b.txt", "oldText": "old", "newText": "new"}),
        box.http.post("/run", json={"cmd": "true"}),
        box.http.post("/file", params={"path": "c.txt"}, content=b"x"),
        box.http.post("/files/batch", json={"files": [{"path": "d.txt", "content": "x"}]}),
        box.http.get("/files/content", params={"path": "d.txt"}),
        box.http.get("/ports"),
        box.http.post("/configure", json={}),
        box.http.get("/envs"),
        box.http.post("/files", json={"path": "e.txt", "content": "x"}),
    ]
    return [answer.status_code for answer in answers]


@quirk(
    31, "the end event satisfies every way to read it", [(0, True, "exit status 0", None), (3, True, "exit status 3")]
)
def end_events(box: Box) -> Any:
    good, bad = started(box, "true"), started(box, "exit 3")
    return [
        (good["exitCode"], good["exited"], good["status"], good["error"]),
        (bad["exitCode"], bad["exited"], bad["status"]),
    ]


@quirk(33, "signals by their long names, and by the short ones of old clients", [-1, -1, -1])
def signal_names(box: Box) -> Any:
    codes = []
    for name in ("SIGNAL_SIGKILL", "SIGKILL", "SIGTERM"):
        with box.start("sleep", "1000") as stream:
            box.rpc("process.Process/SendSignal", {"process": {"pid": stream.pid}, "signal": name})
            codes.append(stream.until_end()["exitCode"])
    return codes


@quirk(34, "the kill of a dead process is 404", 404)
def kill_twice(box: Box) -> Any:
    with box.start("true") as stream:
        stream.until_end()
    selector = {"process": {"pid": stream.pid}, "signal": "SIGNAL_SIGKILL"}
    return box.rpc("process.Process/SendSignal", selector).status_code


@quirk(35, "the output of a terminal stays `pty` for who connects later", {"pty"})
def late_terminal(box: Box) -> Any:
    size = {"size": {"cols": 80, "rows": 24}}
    selector = {"tag": "late"}
    with (
        box.start("sh", "-c", "read x; echo late", stdin=True, pty=size, **selector),
        box.stream("Connect", {"process": selector}) as later,
    ):
        typed = base64.b64encode(b"x\n").decode()
        box.rpc("process.Process/SendInput", {"process": selector, "input": {"pty": typed}})
        return set(later.event()["data"])


@quirk(37, "a user by query, by Basic, or by su; none for batch and compose", [(200, 200), (200, 200), (401, 401)])
def users(box: Box) -> Any:
    statuses = []
    for name in ("user", "root", "nobody"):
        basic = {"Authorization": "Basic " + base64.b64encode(f"{name}:".encode()).decode()}
        read = box.http.get("/file", params={"path": "a.txt", "username": name})
        statuses.append((read.status_code, box.http.post("/run", json={"cmd": "true"}, headers=basic).status_code))
    return statuses


@quirk(
    37,
    "what the SDK makes of user=: su works for either name and knows no other",
    [(0, "it's 1000\n"), (0, "it's 1000\n"), 1],
)
def users_by_su(box: Box) -> Any:
    def asked(name: str) -> Any:
        return box.run("sh", "-lc", f"su -s /bin/sh '{name}' -c 'echo \"it'\"'\"'s\" $(id -u)'")

    found = [asked(name) for name in ("user", "root")]
    unknown = asked("nobody")
    assert "user nobody does not exist" in unknown.stderr
    return [*((ran.exit_code, ran.stdout) for ran in found), unknown.exit_code]


@quirk(38, "mode is the whole st_mode", (0o100644, "-rw-r--r--"))
def whole_mode(box: Box) -> Any:
    entry = box.rpc("filesystem.Filesystem/Stat", {"path": "a.txt"}).json()["entry"]
    return entry["mode"], entry["permissions"]


@quirk(39, "REST says file, RPC says FILE_TYPE_FILE", ["file", "FILE_TYPE_FILE", "FILE_TYPE_DIRECTORY"])
def type_names(box: Box) -> Any:
    rest = box.http.post("/files", params={"path": "f.txt"}, content=b"x").json()[0]["type"]
    found = [
        box.rpc("filesystem.Filesystem/Stat", {"path": path}).json()["entry"]["type"] for path in ("f.txt", "/tmp")
    ]
    return [rest, *found]


@quirk(41, "null is absent", [200, 200, 200])
def nulls(box: Box) -> Any:
    run = {"cmd": "true", "args": None, "cwd": None, "env": None, "timeoutMs": None, "stdin": None}
    start = {"process": {"cmd": "true", "args": None, "envs": None, "cwd": None}, "timeoutMs": None, "tag": None}
    answers = [
        box.http.post("/run", json=run),
        box.http.post("/process.Process/Start", json={**start, "pty": None, "stdin": None}),
        box.rpc("filesystem.Filesystem/ListDir", {"path": "/tmp", "depth": None}),
    ]
    return [answer.status_code for answer in answers]


@quirk(42, "signature_expiration is a time, not a duration", [200, 401])
def expirations(box: Box) -> Any:
    statuses = []
    for expiration in (str(int(time.time()) + 60), "60"):
        signature = file_signature("a.txt", "read", "", box.record["envdAccessToken"], expiration=expiration)
        query = {"path": "a.txt", "signature": signature, "signature_expiration": expiration}
        statuses.append(httpx.get(f"{box.record['envdUrl']}/files", params=query).status_code)
    return statuses


@quirk(44, "what listens on loopback is reached; 45: without a token, unless the traffic is private", [200, 200])
def loopback(box: Box) -> Any:
    server = "import http.server as h; h.HTTPServer(('127.0.0.1', 8044), h.SimpleHTTPRequestHandler).serve_forever()"
    with box.start("python3", "-c", server):
        url = f"{box.record['envdUrl']}/proxy/8044/a.txt"
        while (answer := httpx.get(url)).status_code == 502:
            time.sleep(0.01)
        return [answer.status_code, box.http.get("/proxy/8044/a.txt").status_code]


@quirk(45, "a private preview needs the token", [403, 502])
def private_preview(box: Box) -> Any:
    record = box.control.post("/sandboxes", json={"network": {"allowPublicTraffic": False}}).json()
    url = f"{record['envdUrl']}/proxy/8045/"
    given = {"X-Access-Token": record["envdAccessToken"]}
    statuses = [httpx.get(url).status_code, httpx.get(url, headers=given).status_code]
    box.control.delete(f"/sandboxes/{record['sandboxID']}")
    return statuses


@quirk(46, "/metrics of a runtime is JSON; the service's own is not offered", [True, 404])
def two_metrics(box: Box) -> Any:
    return ["mem_total" in box.http.get("/metrics").json(), box.control.get("/metrics").status_code]


@pytest.mark.parametrize(("check", "expected"), QUIRKS)
def test_the_service_answers_every_quirk_as_documented(box: Box, check: Check, expected: object) -> None:
    assert check(box) == expected


def test_every_quirk_is_accounted_for() -> None:
    assert sorted({*ROWS, *ELSEWHERE, *CLIENTS_ONLY}) == list(NUMBERS)
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in (HERE / file).read_text(), place
