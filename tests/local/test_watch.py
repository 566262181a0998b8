"""Watchers of the local runtime (wire contract 4.2): what is told, in which frames, and what hostile code can do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from sandbox_tools.wire.envelope import Frame, FrameDecoder, encode_json_frame
from tests.local.service import Box, LocalServer, wait_for

HOME = "/root/workspace"
Event = tuple[str, str]


@pytest.fixture(scope="module")
def box(local_server: LocalServer) -> Iterator[Box]:
    """One sandbox for this module; each test has a directory of its own."""
    with local_server.sandbox() as sandbox:
        yield sandbox


def rpc(box: Box, method: str, **message: Any) -> httpx.Response:
    return box.rpc(f"filesystem.Filesystem/{method}", message)


class Watcher:
    """A polled watcher, and all that it has told."""

    def __init__(self, box: Box, path: str, *, recursive: bool = False) -> None:
        answer = rpc(box, "CreateWatcher", path=path, recursive=recursive)
        assert answer.status_code == 200, answer.text
        self.box = box
        self.watcher_id: str = answer.json()["watcherId"]
        self.told: list[Event] = []

    def poll(self, limit: int | None = None) -> list[Event]:
        answer = rpc(self.box, "GetWatcherEvents", watcherId=self.watcher_id, limit=limit)
        assert answer.status_code == 200, answer.text
        events = [(event["name"], event["type"].removeprefix("EVENT_TYPE_")) for event in answer.json()["events"]]
        self.told += events
        return events

    def until(self, *expected: Event) -> list[Event]:
        """Poll until all of `expected` came; return everything."""
        wait_for(lambda: self.poll() is not None and set(expected) <= set(self.told), what=f"{expected}", within_s=30)
        return self.told

    def remove(self) -> int:
        return rpc(self.box, "RemoveWatcher", watcherId=self.watcher_id).status_code


@pytest.fixture
def watch(box: Box) -> Iterator[Callable[..., Watcher]]:
    """Make watchers, and remove them at the end."""
    made: list[Watcher] = []

    def new(path: str, *, recursive: bool = False) -> Watcher:
        made.append(Watcher(box, path, recursive=recursive))
        return made[-1]

    yield new
    for watcher in made:
        watcher.remove()


@contextmanager
def watch_directory(box: Box, message: dict[str, Any], *, enveloped: bool = False) -> Iterator[Iterator[Frame]]:
    body = encode_json_frame(message) if enveloped else json.dumps(message).encode()
    headers = {"Content-Type": "application/connect+json", "Keepalive-Ping-Interval": "1"}
    with box.http.stream("POST", "/filesystem.Filesystem/WatchDir", content=body, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "application/connect+json"
        decoder = FrameDecoder()
        yield (frame for chunk in response.iter_raw() for frame in decoder.feed(chunk))


def processes(box: Box) -> int:
    return int(box.sh("ls -d /proc/[0-9]* | wc -l").stdout)


def events_until(frames: Iterator[Frame], last: Event) -> list[Event]:
    found: list[Event] = []
    for frame in frames:
        assert not frame.end_stream, found
        if frame.payload:
            message = json.loads(frame.payload)
            assert set(message) == {"filesystem"}
            event = message["filesystem"]
            found.append((event["name"], event["type"].removeprefix("EVENT_TYPE_")))
            if found[-1] == last:
                return found
    raise AssertionError(found)


class TestWhatIsTold:
    def test_each_kind_of_change(self, box: Box, watch: Callable[..., Watcher]) -> None:
        box.sh("mkdir -p kinds")
        told = watch("kinds")
        box.sh("cd kinds; : > f; echo x >> f; chmod 600 f; mv f g; rm g; mkdir d; rmdir d")
        assert told.until(("d", "REMOVE")) == [
            ("f", "CREATE"),
            ("f", "WRITE"),
            ("f", "CHMOD"),
            ("f", "RENAME"),
            ("g", "CREATE"),
            ("g", "REMOVE"),
            ("d", "CREATE"),
            ("d", "REMOVE"),
        ]
        assert told.poll() == []

    def test_a_file_that_came_through_the_api_has_its_name_only(self, box: Box, watch: Callable[..., Watcher]) -> None:
        box.sh("mkdir -p api")
        told = watch("api", recursive=True)
        for _ in range(2):
            box.http.post("/file", params={"path": "api/a.txt"}, content=b"x" * 100_000)
        rpc(box, "Edit", path="api/a.txt", oldText="x" * 100_000, newText="y")
        rpc(box, "Move", source="api/a.txt", destination="api/b.txt")
        events = told.until(("b.txt", "CREATE"))
        assert events[:2] == [("a.txt", "CREATE"), ("a.txt", "WRITE")]
        assert {name for name, _ in events} == {"a.txt", "b.txt"}

    def test_without_recursive_only_the_directory_itself(self, box: Box, watch: Callable[..., Watcher]) -> None:
        box.sh("mkdir -p flat/sub")
        told = watch("flat")
        box.sh("cd flat; : > sub/hidden; : > last")
        assert told.until(("last", "CREATE")) == [("last", "CREATE")]

    def test_recursive_names_are_below_the_directory(self, box: Box, watch: Callable[..., Watcher]) -> None:
        box.sh("mkdir -p deep/a/b outside; ln -sfn ../outside deep/link")
        told = watch(f"{HOME}/deep/", recursive=True)
        box.sh("cd deep; : > a/b/f; : > link/not-told; mkdir -p c/d/e; : > c/d/e/f; : > last")
        events = told.until(("last", "CREATE"), ("c/d/e/f", "CREATE"))
        names = [name for name, kind in events if kind == "CREATE"]
        assert sorted(names) == ["a/b/f", "c", "c/d", "c/d/e", "c/d/e/f", "last"], "each is told once"
        box.sh("rm deep/c/d/e/f; : > deep/c/d/e/f")
        told.told.clear()
        assert told.until(("c/d/e/f", "CREATE"))[0] == ("c/d/e/f", "REMOVE")

    def test_a_directory_that_moves_keeps_its_watch_under_its_new_name(
        self, box: Box, watch: Callable[..., Watcher]
    ) -> None:
        box.sh("mkdir -p moves/a/b elsewhere/x/y")
        told = watch("moves", recursive=True)
        box.sh("cd moves; mv a z; : > z/b/f; mv z ../elsewhere/; : > ../elsewhere/z/b/gone; mv ../elsewhere/x .")
        assert told.until(("x", "CREATE")) == [
            ("a", "RENAME"),
            ("z", "CREATE"),
            ("z/b/f", "CREATE"),
            ("z", "RENAME"),
            ("x", "CREATE"),
        ]
        box.sh("cd moves; : > x/y/f; : > ../elsewhere/z/b/gone2; : > last")
        assert told.until(("last", "CREATE"))[5:] == [("x/y/f", "CREATE"), ("last", "CREATE")]

    def test_names_that_are_no_text(self, box: Box, watch: Callable[..., Watcher]) -> None:
        box.sh("mkdir -p raw")
        told = watch("raw")
        box.python("open(b'raw/\\xff', 'w'); open('raw/a\\nb é', 'w')")
        assert told.until(("a\nb é", "CREATE"))[0] == ("\ufffd", "CREATE")

    @pytest.mark.parametrize(("change", "kind"), [("rm -r gone", "REMOVE"), ("mv gone moved-away", "RENAME")])
    def test_a_watcher_ends_with_its_directory(
        self, box: Box, watch: Callable[..., Watcher], change: str, kind: str
    ) -> None:
        box.sh("rm -rf gone moved-away; mkdir -p gone")
        told = watch("gone")
        box.sh(change)
        assert told.until((".", kind)) == [(".", kind)]
        wait_for(lambda: rpc(box, "GetWatcherEvents", watcherId=told.watcher_id).status_code == 404, what="the end")


class TestPolling:
    def test_a_limit_leaves_the_rest(self, box: Box, watch: Callable[..., Watcher]) -> None:
        box.sh("mkdir -p limit")
        told, witness = watch("limit"), watch("limit")
        box.sh("cd limit; : > a; : > b; : > c")
        witness.until(("c", "CREATE"))
        wait_for(lambda: told.poll(limit=1), what="the first")
        assert told.told == [("a", "CREATE")]
        assert told.until(("c", "CREATE")) == [("a", "CREATE"), ("b", "CREATE"), ("c", "CREATE")]

    @pytest.mark.parametrize("method", ["GetWatcherEvents", "RemoveWatcher"])
    def test_an_unknown_watcher_is_404(self, box: Box, method: str) -> None:
        assert rpc(box, method, watcherId="watch-nope").status_code == 404
        for bad in ({}, {"watcherId": ""}, {"watcherId": 1}):
            assert box.rpc(f"filesystem.Filesystem/{method}", bad).status_code == 400

    def test_a_removed_watcher_is_gone_with_its_process(self, box: Box) -> None:
        before = processes(box)
        told = Watcher(box, HOME)
        assert (told.remove(), told.remove()) == (200, 404)
        wait_for(lambda: processes(box) <= before, what="the end of its process")

    @pytest.mark.parametrize("method", ["CreateWatcher", "WatchDir"])
    def test_what_is_no_directory_is_refused_before_the_stream(self, box: Box, method: str) -> None:
        box.sh("touch file; mkdir -p closed; chmod 0 closed; ln -sfn loop loop")
        expected = {"nope": 404, "file": 400, "closed": 403, "loop": 400, "": 400, "a\0": 400}
        assert {path: rpc(box, method, path=path).status_code for path in expected} == expected
        assert rpc(box, method, path=HOME, recursive="yes").status_code == 400

    def test_there_is_a_limit_to_watchers(self, local_server: LocalServer) -> None:
        with local_server.sandbox() as box:
            watchers = [Watcher(box, HOME) for _ in range(32)]
            assert rpc(box, "CreateWatcher", path=HOME).status_code == 429
            assert rpc(box, "WatchDir", path=HOME).status_code == 429
            watchers[0].remove()
            assert Watcher(box, HOME).remove() == 200


class TestStream:
    def test_bare_json_gets_events_and_an_envelope_what_connect_clients_expect(self, box: Box) -> None:
        """Quirk 27: one of SeaCloud's clients stops at the first frame that is no event; Connect's wait for one."""
        box.sh("mkdir -p frames")
        message = {"path": "frames", "recursive": None}
        with watch_directory(box, message) as bare, watch_directory(box, message, enveloped=True) as connect:
            assert json.loads(next(connect).payload) == {"start": {}}
            box.sh(": > frames/f")
            assert events_until(bare, ("f", "CREATE")) == events_until(connect, ("f", "CREATE")) == [("f", "CREATE")]
            keepalive = next(bare)
            assert (keepalive.flags, keepalive.payload) == (0, b"")
            assert json.loads(next(connect).payload) == {"keepalive": {}}
            box.sh("rm -r frames")
            assert events_until(bare, (".", "REMOVE"))
            assert [(frame.end_stream, frame.payload) for frame in bare] == [(True, b"{}")]

    def test_a_dropped_stream_ends_its_process(self, box: Box) -> None:
        before = processes(box)
        with watch_directory(box, {"path": HOME}):
            pass
        wait_for(lambda: processes(box) <= before, what="the end of its process")

    def test_a_stream_ends_with_its_sandbox(self, local_server: LocalServer) -> None:
        with local_server.sandbox() as box, watch_directory(box, {"path": HOME}) as frames:
            told = Watcher(box, HOME)
            box.control.delete(f"/sandboxes/{box.sandbox_id}")
            assert [frame.end_stream for frame in frames] in ([True], [])
            assert rpc(box, "GetWatcherEvents", watcherId=told.watcher_id).status_code == 404


class TestHostile:
    def test_what_was_dropped_is_told(self, box: Box, watch: Callable[..., Watcher]) -> None:
        """Nobody polls: the queue is bounded, and what comes after it is a word that something is missing."""
        box.sh("mkdir -p /tmp/flood")
        told = watch("/tmp/flood")
        box.python(
            "import os\nfor i in range(10_000): os.mkdir(f'/tmp/flood/{i:0200}'); os.rmdir(f'/tmp/flood/{i:0200}')"
        )
        told.until((".", "UNSPECIFIED"))
        assert len(told.told) < 20_000
        box.sh(": > /tmp/flood/after")
        told.until(("after", "CREATE"))

    def test_a_stream_of_changes_does_not_keep_the_service_busy(self, box: Box) -> None:
        box.sh("mkdir -p /tmp/busy")
        program = "import os\nwhile True:\n for i in range(99): os.mkdir(f'/tmp/busy/{i}'); os.rmdir(f'/tmp/busy/{i}')"
        with box.start("python3", "-c", program) as stream, watch_directory(box, {"path": "/tmp/busy"}) as frames:
            for _, frame in zip(range(5000), frames, strict=False):
                assert not frame.end_stream
            assert box.run("echo", "still here").stdout == "still here\n"
            box.rpc("process.Process/SendSignal", {"process": {"pid": stream.pid}, "signal": "SIGNAL_SIGKILL"})

    def test_a_killed_watcher_is_an_end_and_not_an_error_of_the_service(self, local_server: LocalServer) -> None:
        with local_server.sandbox() as box, watch_directory(box, {"path": HOME}) as frames:
            told = Watcher(box, HOME)
            program = (
                "for p in os.listdir('/proc'):\n if p.isdigit() and int(p) not in (1, os.getpid()): os.kill(int(p), 9)"
            )
            box.python(f"import os\n{program}")
            assert [frame.end_stream for frame in frames] == [True]
            assert rpc(box, "GetWatcherEvents", watcherId=told.watcher_id).json() == {"events": []}
            assert rpc(box, "GetWatcherEvents", watcherId=told.watcher_id).status_code == 404
            assert box.run("echo", "fine").stdout == "fine\n"

    def test_too_many_directories_are_refused(self, box: Box) -> None:
        box.python("import os\nfor i in range(8200): os.makedirs(f'/tmp/dirs/{i}')")
        answer = rpc(box, "CreateWatcher", path="/tmp/dirs", recursive=True)
        assert (answer.status_code, answer.json()["message"]) == (400, "there are too many directories to watch")
        assert rpc(box, "CreateWatcher", path="/tmp/dirs").status_code == 200
