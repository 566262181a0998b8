"""Terminals, streamed input and the headers of process streams (wire contract 4.1, 4.3), with plain HTTP."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox_tools.wire.envelope import FrameDecoder, encode_json_frame
from tests.local.service import Box, LocalServer, Stream, wait_for


@pytest.fixture(scope="module")
def box(local_server: LocalServer) -> Iterator[Box]:
    """One sandbox for this module: its tests do not disturb each other."""
    with local_server.sandbox() as sandbox:
        yield sandbox


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def type_in(box: Box, process: dict[str, Any], data: bytes) -> None:
    answer = box.rpc("process.Process/SendInput", {"process": process, "input": {"pty": b64(data)}})
    assert answer.status_code == 200, answer.text


def shown(stream: Stream, until: bytes) -> bytes:
    """Read what a terminal shows until it has shown `until`."""
    text = b""
    while until not in text:
        text += base64.b64decode(stream.event()["data"]["pty"])
    return text


def shown_to_the_end(stream: Stream) -> tuple[bytes, dict[str, Any]]:
    text = b""
    while "end" not in (event := stream.event()):
        text += base64.b64decode(event["data"]["pty"])
    return text, event["end"]


SIZE = {"pty": {"size": {"cols": 91, "rows": 37}}}


class TestTerminal:
    def test_a_program_has_a_controlling_terminal_of_the_size_that_was_asked_for(self, box: Box) -> None:
        line = "tty; stty size; echo $TERM; test -t 0 && test -t 1 && test -t 2 && echo all; : < /dev/tty && echo mine"
        with box.start("sh", "-c", line, **SIZE) as stream:
            text, end = shown_to_the_end(stream)
        assert text.decode().split("\r\n") == ["/dev/pts/0", "37 91", "xterm-256color", "all", "mine", ""]
        assert end["exitCode"] == 0

    def test_a_shell_answers_and_ctrl_c_and_ctrl_d_do_what_they_do(self, box: Box) -> None:
        with box.start("bash", "--norc", "-i", **SIZE) as stream:
            process = {"pid": stream.pid}
            # Control keys are typed at a prompt: before it the terminal is not in readline's mode, and one may be lost.
            type_in(box, process, b"bind 'set enable-bracketed-paste off'; PS1='> '; echo $((40 + 2))\n")
            shown(stream, b"42\r\n> ")
            # Said by the child, which has the terminal then: a shell ignores ^C while it starts one.
            type_in(box, process, b"sh -c 'echo be\"\"gun; exec sleep 1000'\n")
            shown(stream, b"begun\r\n")
            type_in(box, process, b"\x03")
            shown(stream, b"> ")
            type_in(box, process, b"echo status $?\n")
            shown(stream, b"status 130\r\n> ")
            type_in(box, process, b"\x04")
            _, end = shown_to_the_end(stream)
        assert end["exitCode"] == 0

    def test_a_new_size_is_told_to_the_program(self, box: Box) -> None:
        line = "trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done"
        with box.start("bash", "-c", line, **SIZE) as stream:
            shown(stream, b"ready")
            size = {"process": {"pid": stream.pid}, "pty": {"size": {"cols": 100, "rows": 40}}}
            assert box.rpc("process.Process/Update", size).json() == {}
            text, end = shown_to_the_end(stream)
        assert (text.split()[-2:], end["exitCode"]) == ([b"40", b"100"], 3)

    def test_all_output_comes_before_the_end_and_is_in_the_result(self, box: Box) -> None:
        """Also when the program is gone long before its terminal was read."""
        with box.start("sh", "-c", "seq 20000; exit 5", **SIZE) as stream:
            text, end = shown_to_the_end(stream)
            result = box.rpc("process.Process/GetResult", {"cmdId": stream.started["cmdId"]}).json()
        assert text.split() == [str(number).encode() for number in range(1, 20001)]
        assert (end["exitCode"], result["exitCode"], result["stderr"]) == (5, 5, "")
        assert result["stdout"].encode() == text

    def test_a_process_is_found_by_its_tag_by_every_call(self, box: Box) -> None:
        process = {"tag": "terminal one"}
        with (
            box.start("cat", tag="terminal one", **SIZE) as first,
            box.stream("Connect", {"process": process}) as second,
        ):
            type_in(box, process, b"hello\n")
            for stream in (first, second):
                shown(stream, b"hello\r\nhello\r\n")
            assert box.rpc("process.Process/Update", {"process": process, **SIZE}).status_code == 200
            [listed] = [
                item for item in box.rpc("process.Process/List", {}).json()["processes"] if item["pid"] == first.pid
            ]
            assert (listed["tag"], listed["config"]["cmd"]) == ("terminal one", "cat")
            assert listed["cmdId"] == first.started["cmdId"]
            kill = {"process": process, "signal": "SIGNAL_SIGKILL"}
            assert box.rpc("process.Process/SendSignal", kill).status_code == 200
            for stream in (first, second):
                assert stream.until_end()["status"] == "signal: killed"
        with box.stream("Connect", {"process": process}) as late:
            assert late.until_end()["status"] == "signal: killed"

    def test_closing_the_input_of_a_terminal_is_refused_with_what_to_do(self, box: Box) -> None:
        with box.start("cat", **SIZE) as stream:
            answer = box.rpc("process.Process/CloseStdin", {"process": {"pid": stream.pid}})
            assert (answer.status_code, "Ctrl-D" in answer.json()["message"]) == (400, True)
            type_in(box, {"pid": stream.pid}, b"\x04")
            assert stream.until_end()["exitCode"] == 0

    def test_a_program_that_closes_its_terminal_before_it_ends_is_not_hung_up(self, box: Box) -> None:
        with box.start("bash", "-c", "echo last; exec <&- >&- 2>&-; sleep 0.3; exit 6", **SIZE) as stream:
            text, end = shown_to_the_end(stream)
        assert (text, end["exitCode"]) == (b"last\r\n", 6)

    def test_a_job_that_is_left_behind_neither_delays_the_end_nor_keeps_the_terminal(self, box: Box) -> None:
        line = "(trap '' HUP; while echo x; do :; done 2>/dev/null; touch /tmp/hung-up) & sleep 0.1; exit 4"
        began = time.monotonic()
        with box.start("bash", "-c", line, **SIZE) as stream:
            _, end = shown_to_the_end(stream)
        assert end["exitCode"] == 4
        assert time.monotonic() - began < 8
        wait_for(lambda: box.run("ls", "/tmp/hung-up").exit_code == 0, what="the end of the terminal")

    def test_killing_the_relay_hangs_up_only_its_own_terminal(self, box: Box) -> None:
        with box.start("sh", "-c", "echo up; exec sleep 1000", **SIZE) as stream:
            shown(stream, b"up")
            box.sh(
                "for p in /proc/[0-9]*; do test -r $p/environ || echo ${p#/proc/}; done | grep -vx 1 | xargs kill -9"
            )
            assert shown_to_the_end(stream)[1]["status"] == "signal: hangup"
        assert box.run("echo", "still here").stdout == "still here\n"

    def test_a_terminal_ends_with_its_timeout(self, box: Box) -> None:
        with box.start("sleep", "1000", timeoutMs=200, **SIZE) as stream:
            assert shown_to_the_end(stream)[1]["status"] == "signal: terminated"

    def test_terminals_leave_no_process_behind(self, box: Box) -> None:
        before = box.sh("ls -d /proc/[0-9]* | wc -l").stdout
        for _ in range(5):
            with box.start("true", **SIZE) as stream:
                stream.until_end()
        wait_for(lambda: box.sh("ls -d /proc/[0-9]* | wc -l").stdout == before, what="the end of the relays")

    @pytest.mark.parametrize("size", [{"cols": 0, "rows": 1}, {"cols": 1, "rows": 65536}, {"cols": "x"}, 5, "80x24"])
    def test_a_size_that_is_none_is_400(self, box: Box, size: object) -> None:
        for method in ("Start", "Update"):
            body = {"process": {"cmd": "true", "tag": "t"}, "pty": {"size": size}}
            assert box.rpc(f"process.Process/{method}", body).status_code in (400, 404)

    def test_a_process_without_a_terminal_has_nothing_to_resize_and_takes_no_keys(self, box: Box) -> None:
        with box.start("sleep", "1000") as stream:
            process = {"process": {"pid": stream.pid}}
            assert box.rpc("process.Process/Update", {**process, **SIZE}).status_code == 400
            keys = {**process, "input": {"pty": b64(b"x")}}
            assert box.rpc("process.Process/SendInput", keys).status_code == 400
            box.rpc("process.Process/SendSignal", {**process, "signal": "SIGKILL"})


class TestStreamInput:
    def test_input_is_written_as_it_comes(self, box: Box) -> None:
        with box.start("cat", tag="streamed", stdin=True) as stream:

            def frames() -> Iterator[bytes]:
                yield encode_json_frame({"start": {"process": {"tag": "streamed"}}})
                yield encode_json_frame({"data": {"input": {"stdin": b64(b"one")}}})
                assert base64.b64decode(stream.event()["data"]["stdout"]) == b"one"
                yield encode_json_frame({"keepalive": {}})
                last = encode_json_frame({"data": {"input": {"stdin": b64(b"two")}}})
                yield last[:7]
                yield last[7:]

            headers = {"Content-Type": "application/connect+json"}
            answer = box.http.post("/process.Process/StreamInput", content=frames(), headers=headers)
            assert (answer.status_code, answer.content) == (200, b"\0\0\0\0\2{}\2\0\0\0\2{}")
            assert base64.b64decode(stream.event()["data"]["stdout"]) == b"two"
            box.rpc("process.Process/CloseStdin", {"process": {"tag": "streamed"}})
            assert stream.until_end()["exitCode"] == 0

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (encode_json_frame({"data": {"input": {"stdin": "eA=="}}}), 400),
            (encode_json_frame({"start": {"process": {"tag": "nobody"}}}), 404),
            (encode_json_frame({"start": {}}), 400),
            (b"{}", 400),
            (b"\0\xff\xff\xff\xff", 400),
            (b"\0\0\0\0\2{", 400),
        ],
    )
    def test_what_is_no_input_stream_is_refused(self, box: Box, body: bytes, status: int) -> None:
        assert box.http.post("/process.Process/StreamInput", content=body).status_code == status


class TestTimeouts:
    def test_older_clients_say_seconds(self, box: Box) -> None:
        """Quirk 14: `timeoutMs` goes first."""
        with box.start("sleep", "1000", timeout=1) as stream:
            assert stream.until_end()["status"] == "signal: terminated"
        with box.start("sleep", "1000", timeout=1000, timeoutMs=100) as stream:
            assert stream.until_end()["status"] == "signal: terminated"
        assert box.http.post("/run", json={"cmd": "sleep", "args": ["9"], "timeout": 1}).json()["exit_code"] == -1

    def test_the_time_limit_of_connect_ends_a_process_that_it_started(self, box: Box) -> None:
        """4.3: both may be sent; the shorter counts."""
        for limits in ({"headers": 200, "timeoutMs": 100_000}, {"headers": 100_000, "timeoutMs": 200}):
            frames = frames_of(box, "Start", {"process": {"cmd": "sleep", "args": ["99"]}, **limits}, limits["headers"])
            assert frames[-2]["event"]["end"]["status"] == "signal: terminated"
            assert frames[-1] == {}

    def test_the_time_limit_of_connect_ends_a_later_stream_and_not_the_process(self, box: Box) -> None:
        with box.start("sleep", "1000", tag="goes on") as stream:
            frames = frames_of(box, "Connect", {"process": {"tag": "goes on"}}, 200)
            assert frames[-1]["error"]["code"] == "deadline_exceeded"
            kill = {"process": {"pid": stream.pid}, "signal": "SIGKILL"}
            assert box.rpc("process.Process/SendSignal", kill).status_code == 200
            assert stream.until_end()["status"] == "signal: killed"

    def test_keepalives_come_as_often_as_the_client_asks(self, box: Box) -> None:
        body = {"process": {"cmd": "sleep", "args": ["1.5"]}}
        answer = box.http.post("/process.Process/Start", json=body, headers={"Keepalive-Ping-Interval": "1"})
        assert answer.content.count(b'{"event":{"keepalive":{}}}') == 1

    @pytest.mark.parametrize("name", ["Connect-Timeout-Ms", "Keepalive-Ping-Interval"])
    def test_a_header_that_is_no_number_is_400(self, box: Box, name: str) -> None:
        body = {"process": {"cmd": "true"}}
        assert box.http.post("/process.Process/Start", json=body, headers={name: "soon"}).status_code == 400


class TestResults:
    def test_results_of_big_commands_are_forgotten_and_the_last_ones_kept(self, box: Box) -> None:
        """What a client sent counts, too: 40 commands of 900 KB must not stay in the service."""
        big, ids = "x" * 100_000, []
        for _ in range(40):
            with box.start("true", *[big] * 9) as stream:
                stream.until_end()
            ids.append(stream.started["cmdId"])
        found = [box.rpc("process.Process/GetResult", {"cmdId": cmd_id}).status_code for cmd_id in ids]
        assert found == sorted(found, reverse=True)  # the oldest are gone
        assert 10 <= found.count(200) <= 18


def frames_of(box: Box, method: str, body: dict[str, Any], limit_ms: int) -> list[dict[str, Any]]:
    """Send an enveloped request with a time limit; return all messages of the answer."""
    headers = {"Connect-Timeout-Ms": str(limit_ms), "Content-Type": "application/connect+json"}
    answer = box.http.post(f"/process.Process/{method}", content=encode_json_frame(body), headers=headers)
    assert answer.status_code == 200, answer.text
    return [json.loads(frame.payload) for frame in FrameDecoder().feed(answer.content)]
