"""guest/kernel.py as what it is: a program that a Python of any version from 3.8 runs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox_tools.guest import kernel as kernel_module
from sandbox_tools.wire.kernel import MAX_LINE_BYTES, YIELDED, event_from_line

KERNEL = Path(kernel_module.__file__)
DEADLINE_S = 20.0


def other_pythons() -> list[str]:
    """The oldest and the newest Python of pyenv that the kernel shall run on."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {tuple(map(int, re.findall(r"\d+", path.name))): path / "bin/python3" for path in versions.glob("3.*")}
    usable = [str(found[version]) for version in sorted(found) if version >= (3, 8) and found[version].exists()]
    return list(dict.fromkeys(usable[:1] + usable[-1:]))


@pytest.fixture(params=[sys.executable, *other_pythons()], ids=lambda path: Path(path).parts[-3])
def python(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def decoded(event: dict[str, Any]) -> dict[str, Any]:
    """An event with its texts as text."""
    for key in ("name", "message", "traceback"):
        if key in event:
            event[key] = base64.b64decode(event[key]).decode()
    if "text" in event:
        event["text"] = {mime: base64.b64decode(form).decode() for mime, form in event["text"].items()}
    return event


class Outcome:
    """The events of one run."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        assert [event["n"] for event in events] == list(range(events[0]["n"], events[-1]["n"] + 1))
        self.events = [event for event in events if event["ev"] != "begun"]
        self.done = events[-1]
        self.stdout = self._output("stdout")
        self.stderr = self._output("stderr")
        self.results = [event for event in events if event["ev"] == "result"]
        self.texts = [result["text"]["text/plain"] for result in self.results]
        errors = [event for event in events if event["ev"] == "error"]
        assert len(errors) <= 1
        self.error = errors[0] if errors else None

    def _output(self, stream: str) -> str:
        pieces = [event["b64"] for event in self.events if event["ev"] == "out" and event["stream"] == stream]
        return b"".join(map(base64.b64decode, pieces)).decode()


class KernelProcess:
    """A running kernel and its event lines."""

    def __init__(self, python: str, cwd: Path, *arguments: Path) -> None:
        pipe = subprocess.PIPE
        command = [python, "-u", KERNEL, cwd / "lock", *arguments]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd)
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.ready = self.next_event()
        self._count = 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == b"\n":
                continue  # each event stands between two line ends
            if not line.endswith(b"\n"):
                break  # the process ended while it wrote
            assert len(line) <= MAX_LINE_BYTES
            self._events.put(decoded(json.loads(line)))
            assert event_from_line(line) is not None or b'"pong"' in line, "the client refuses the line"
        self._events.put(None)

    def next_event(self) -> dict[str, Any]:
        event = self._events.get(timeout=DEADLINE_S)
        assert event is not None, "the kernel ended"
        return event

    def send(self, **request: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def start(self, code: str) -> str:
        self._count += 1
        run_id = f"run-{self._count}"
        self.ask(run_id, code)
        return run_id

    def ask(self, run_id: str, code: str, after: int = 0) -> None:
        self.send(op="run", id=run_id, code=code, after=after)

    def events_until(self, text: str) -> list[dict[str, Any]]:
        """Wait for code to print something."""
        events = []
        while True:
            events.append(self.next_event())
            if events[-1]["ev"] == "out" and text.encode() in base64.b64decode(events[-1]["b64"]):
                return events

    def finish(self, run_id: str) -> Outcome:
        events = [self.next_event()]
        while events[-1]["ev"] != "done":
            events.append(self.next_event())
        assert {event["id"] for event in events} == {run_id}
        return Outcome(events)

    def run(self, code: str) -> Outcome:
        return self.finish(self.start(code))

    def run_and_interrupt(self, code: str) -> Outcome:
        """Interrupt code after it has printed "started"."""
        run_id = self.start(code)
        self.events_until("started")
        self.send(op="interrupt", id=run_id)
        return self.finish(run_id)

    def wait_for_end(self) -> int:
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self._reader.join(DEADLINE_S)
            self.process.stdout.close()
            self.process.stderr.close()


@pytest.fixture
def kernel(python: str, tmp_path: Path) -> Iterator[KernelProcess]:
    process = KernelProcess(python, tmp_path)
    yield process
    process.close()


@pytest.fixture
def own_kernel(tmp_path: Path) -> Iterator[KernelProcess]:
    """A kernel on the Python of the tests, which has matplotlib."""
    process = KernelProcess(sys.executable, tmp_path)
    yield process
    process.close()


def test_it_says_that_it_is_ready_and_answers_a_ping(kernel: KernelProcess) -> None:
    assert kernel.ready["ev"] == "ready"
    assert kernel.ready["pid"] == kernel.process.pid
    kernel.send(op="ping")
    assert kernel.next_event() == {"ev": "pong"}


def second_kernel(python: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """Start another kernel with the same lock; its requests end at once."""
    request = b'{"op": "run", "id": 1, "code": "open(\'ran\', \'w\')"}\n'
    command = [python, "-u", KERNEL, cwd / "lock"]
    return subprocess.run(command, input=request, capture_output=True, cwd=cwd, check=False, timeout=DEADLINE_S)


def test_a_second_kernel_with_the_same_lock_ends_and_runs_nothing(kernel: KernelProcess, tmp_path: Path) -> None:
    second = second_kernel(sys.executable, tmp_path)
    assert (second.returncode, second.stdout, second.stderr) == (YIELDED, b"", b"")
    assert not (tmp_path / "ran").exists()
    assert kernel.run("1").texts == ["1"]


@pytest.mark.parametrize(
    "start",
    [
        "import os, time\npid = os.fork()\nif pid == 0: time.sleep(60)",
        "import subprocess\npid = subprocess.Popen(['sleep', '60'], close_fds=False).pid",
    ],
)
def test_what_a_dead_kernel_started_does_not_hold_its_lock(python: str, tmp_path: Path, start: str) -> None:
    kernel = KernelProcess(python, tmp_path)
    child = int(kernel.run(f"{start}\npid").texts[0])
    kernel.process.kill()
    kernel.process.wait()
    assert second_kernel(python, tmp_path).returncode == 0
    os.kill(child, signal.SIGKILL)
    kernel.close()


def test_without_a_place_for_its_lock_a_kernel_runs_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    kernel = KernelProcess(sys.executable, tmp_path)
    assert kernel.run("1").texts == ["1"]
    kernel.close()


def test_variables_live_on_and_the_last_expression_is_the_result(kernel: KernelProcess) -> None:
    assert kernel.run("x = 20").results == []
    assert kernel.run("import math\nx + 1").texts == ["21"]
    assert kernel.run("_ + 1").texts == ["22"]
    assert kernel.run("None").results == []
    last = kernel.run("x; y = 5")
    assert (last.results, last.error) == ([], None)
    assert last.done == {"ev": "done", "id": "run-5", "n": 2, "count": 5, "interrupted": False}


def test_everything_that_is_printed_comes_before_done_and_separately(kernel: KernelProcess) -> None:
    outcome = kernel.run(
        "import ctypes, os, subprocess, sys\n"
        "print('print')\n"
        "print('error', file=sys.stderr)\n"
        "os.write(1, b'descriptor\\n')\n"
        "os.system('echo child; echo child error >&2')\n"
        "ctypes.CDLL(None).puts(b'C code')\n"
        "print('no line end', end='')"
    )
    assert outcome.stdout == "print\ndescriptor\nchild\nC code\nno line end"
    assert outcome.stderr == "error\nchild error\n"


def test_output_arrives_while_the_code_runs(kernel: KernelProcess, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    run_id = kernel.start("print('first')\nopen('gate').close()\nprint('second')")
    kernel.events_until("first")
    (tmp_path / "gate").write_text("")  # the code waited for this
    assert kernel.finish(run_id).stdout == "second\n"


def test_results_and_output_keep_their_order(kernel: KernelProcess) -> None:
    outcome = kernel.run("print('a')\ndisplay(1, 'two')\nprint('b')\n3")
    kinds = [event["ev"] for event in outcome.events]
    assert kinds == ["out", "result", "result", "out", "result", "done"]
    assert outcome.texts == ["1", "'two'", "3"]


def test_a_large_output_is_complete_and_comes_in_small_events(kernel: KernelProcess) -> None:
    outcome = kernel.run("for i in range(200): print('x' * 50_000)")
    assert outcome.stdout == ("x" * 50_000 + "\n") * 200
    assert max(len(event.get("b64", "")) for event in outcome.events) <= 4 * 32 * 1024 / 3 + 4


def test_a_traceback_shows_the_users_frames_only(kernel: KernelProcess) -> None:
    kernel.run("def load(text):\n    import json\n    return json.loads(text)")
    error = kernel.run("value = '{'\nload(value)").error
    assert error is not None
    assert error["name"] == "JSONDecodeError"
    assert error["message"].startswith("Expecting property name")
    lines = [line for line in error["traceback"].splitlines() if set(line) - set(" ~^")]
    assert lines[:5] == [
        "Traceback (most recent call last):",
        '  File "<cell 2>", line 2, in <module>',
        "    load(value)",
        '  File "<cell 1>", line 3, in load',
        "    return json.loads(text)",
    ]
    assert len(lines) == 6


def test_an_exception_in_a_module_of_the_user_shows_its_frames(kernel: KernelProcess, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def fail():\n    1 / 0\n")
    error = kernel.run("import helper\nhelper.fail()").error
    assert error is not None
    assert 'helper.py", line 2, in fail' in error["traceback"]


def test_a_syntax_error_points_at_its_place(kernel: KernelProcess) -> None:
    error = kernel.run("a = 1\nb = = 2").error
    assert error is not None
    assert error["name"] == "SyntaxError"
    assert error["traceback"].splitlines()[:2] == ['  File "<cell 1>", line 2', "    b = = 2"]
    assert error["traceback"].splitlines()[2].strip() == "^"


@pytest.mark.parametrize(
    ("code", "message"), [("import sys\nsys.exit(3)", "3"), ("exit()", "None"), ("quit('x')", "x")]
)
def test_exit_is_an_error_and_the_state_is_kept(own_kernel: KernelProcess, code: str, message: str) -> None:
    own_kernel.run("x = 1")
    error = own_kernel.run(code).error
    assert error is not None
    assert (error["name"], error["message"]) == ("SystemExit", message)
    assert own_kernel.run("x").texts == ["1"]


def test_input_says_that_nobody_can_type(kernel: KernelProcess) -> None:
    error = kernel.run("input('name? ')").error
    assert error is not None
    assert error["name"] == "EOFError"
    assert "nobody is there to type" in error["message"]
    assert kernel.run("import sys\nsys.stdin.read()").texts == ["''"]


def test_a_child_process_does_not_eat_the_next_request(kernel: KernelProcess) -> None:
    assert kernel.run("import subprocess\nsubprocess.run(['cat']).returncode").texts == ["0"]
    assert kernel.run("1").texts == ["1"]


def test_top_level_await_works_and_its_loop_lives_on(kernel: KernelProcess) -> None:
    kernel.run("import asyncio\nasync def late():\n    await asyncio.sleep(0.01)\n    return 'late'")
    assert kernel.run("task = asyncio.ensure_future(late())\nawait asyncio.sleep(0)\ntask.done()").texts == ["False"]
    assert kernel.run("await task").texts == ["'late'"]
    assert kernel.run("[x async for x in agen()]").error is not None
    failed = kernel.run("await asyncio.sleep(0)\n1 / 0")
    assert failed.error is not None
    assert failed.error["traceback"].splitlines()[1] == '  File "<cell 5>", line 2, in <module>'
    exited = kernel.run("await asyncio.sleep(0)\nexit(1)")
    assert (exited.error or {})["name"] == "SystemExit"
    assert exited.stderr == ""
    assert kernel.run("asyncio.run(late())").texts == ["'late'"]


def test_an_interrupted_await_runs_its_finally_blocks(kernel: KernelProcess) -> None:
    outcome = kernel.run_and_interrupt(
        "import asyncio\n"
        "async def wait():\n"
        "    try:\n"
        "        print('started')\n"
        "        await asyncio.sleep(60)\n"
        "    finally:\n"
        "        print('cleaned up')\n"
        "await wait()"
    )
    assert outcome.stdout == "cleaned up\n"
    assert (outcome.error or {})["name"] == "KeyboardInterrupt"


@pytest.mark.parametrize(
    "code",
    [
        "import time\nprint('started')\ntime.sleep(60)",
        "print('started')\nwhile True: pass",
        "print('started')\nwhile True: display('x' * 1000)",
        "print('started')\nwhile True: print('y')",
        "class Endless:\n    def __repr__(self):\n        print('started')\n        while True: pass\nEndless()",
        "class Endless(Exception):\n  def __str__(self):\n    print('started')\n    while True: pass\nraise Endless",
        "import subprocess\nsubprocess.run('echo started; exec sleep 60', shell=True)",
        "import os\nos.system('echo started; exec sleep 60')\nimport time\ntime.sleep(60)",
        "import threading\nprint('started')\nthreading.Event().wait()",
        "import sys, time\nprint('started')\nsys.setrecursionlimit(100)\nwhile True: time.sleep(0.001)",
    ],
)
def test_an_interrupt_ends_code_and_keeps_the_state(own_kernel: KernelProcess, code: str) -> None:
    own_kernel.run("x = 1")
    outcome = own_kernel.run_and_interrupt(code)
    assert outcome.done["interrupted"] is True
    assert outcome.error is not None
    assert own_kernel.run("x").texts == ["1"]


def test_an_interrupt_shows_where_the_code_was(kernel: KernelProcess) -> None:
    outcome = kernel.run_and_interrupt("import time\nprint('started')\ntime.sleep(60)")
    assert outcome.error is not None
    assert outcome.error["name"] == "KeyboardInterrupt"
    assert outcome.error["traceback"].splitlines()[1] == '  File "<cell 1>", line 3, in <module>'


def test_code_may_handle_an_interrupt(kernel: KernelProcess) -> None:
    code = (
        "import time\ntry:\n    print('started')\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('handled')"
    )
    outcome = kernel.run_and_interrupt(code)
    assert (outcome.stdout, outcome.error, outcome.done["interrupted"]) == ("handled\n", None, True)


def test_sigint_from_outside_interrupts_a_run_and_nothing_else(kernel: KernelProcess) -> None:
    kernel.process.send_signal(signal.SIGINT)
    run_id = kernel.start("import time\nprint('started')\ntime.sleep(60)")
    kernel.events_until("started")
    kernel.process.send_signal(signal.SIGINT)
    outcome = kernel.finish(run_id)
    assert (outcome.error or {})["name"] == "KeyboardInterrupt"
    assert outcome.done["interrupted"] is True
    assert kernel.run("1").done["interrupted"] is False


def test_an_interrupt_of_another_run_is_ignored(kernel: KernelProcess) -> None:
    kernel.run("1")
    kernel.send(op="interrupt", id="run-1")
    kernel.send(op="ping")
    assert kernel.next_event() == {"ev": "pong"}
    assert kernel.run("2").texts == ["2"]


def test_many_interrupts_at_any_moment_leave_every_event_whole(own_kernel: KernelProcess) -> None:
    for _ in range(20):
        outcome = own_kernel.run_and_interrupt(
            "print('started')\nwhile True:\n    display('x' * 200_000)\n    print(2)"
        )
        assert (outcome.error or {})["name"] == "KeyboardInterrupt"
    assert own_kernel.run("7").texts == ["7"]


def test_a_forked_child_does_not_answer(kernel: KernelProcess) -> None:
    outcome = kernel.run(
        "import os, sys\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    print('in the child')\n"
        "    display('not a result')\n"
        "    1 / 0\n"
        "os.waitpid(child, 0)[1] >> 8"
    )
    assert outcome.texts == ["1"]
    assert outcome.stdout == "in the child\n"
    assert outcome.stderr.splitlines()[0] == "Traceback (most recent call last):"
    assert outcome.stderr.splitlines()[1] == '  File "<cell 1>", line 6, in <module>'
    assert kernel.run("5").texts == ["5"]


@pytest.mark.parametrize(("end", "status"), [("pass", 0), ("sys.exit(3)", 3), ("sys.exit('no')", 1), ("exit()", 0)])
def test_a_forked_child_ends_with_the_status_of_a_script(own_kernel: KernelProcess, end: str, status: int) -> None:
    code = f"import os, sys\nchild = os.fork()\nif child == 0: {end}\nelse: status = os.waitpid(child, 0)[1] >> 8"
    assert own_kernel.run(code).results == []
    assert own_kernel.run("status").texts == [str(status)]


def test_multiprocessing_works_with_functions_of_a_cell(kernel: KernelProcess) -> None:
    outcome = kernel.run(
        "import multiprocessing\n"
        "def double(x): return 2 * x\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: result = pool.map(double, [1, 2, 3])\n"
        "result"
    )
    assert outcome.texts == ["[2, 4, 6]"]


def test_a_daemon_that_code_forked_does_not_hold_the_protocol_open(own_kernel: KernelProcess) -> None:
    code = "import os, time\npid = os.fork()\nif pid == 0:\n    os.setsid()\n    time.sleep(60)\n    os._exit(0)\npid"
    pid = int(own_kernel.run(code).texts[0])
    own_kernel.start("os._exit(5)")
    assert own_kernel.next_event()["ev"] == "begun"
    assert own_kernel._events.get(timeout=DEADLINE_S) is None  # end-of-file, though the daemon lives
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "code",
    [
        "import os\nfor fd in (0, 1, 2): os.close(fd)",
        "import sys\nsys.stdout.close()\nsys.stderr.close()",
        "import sys\nsys.stdin = sys.stdout = sys.stderr = None",
        "import sys, io\nsys.stdout = io.StringIO()",
        "import os\nos.closerange(3, 51)",
        "import os\nfd = os.open(os.devnull, os.O_RDWR)\nos.dup2(fd, 1)\nos.dup2(fd, 0)",
        "import builtins\nbuiltins.print = builtins.open = builtins.input = None\ndel builtins.print",
        "import json, os, time\njson.dumps = json.loads = lambda *a, **k: 1 / 0\ntime.sleep = None",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)",
        "import gc, sys\nsys.modules.pop('__main__')\ngc.collect()",
        "import sys\nsys.settrace(lambda *event: 1 / 0)",
        "import sys\nsys.setprofile(lambda frame, *event: 1 / (frame.f_code.co_name != 'attempt'))",
        "import sys\nclass Bad:\n    def write(self, text): 1 / 0\n    flush = write\nsys.stdout = Bad()",
    ],
)
def test_code_that_breaks_its_surroundings_does_not_break_the_next_run(own_kernel: KernelProcess, code: str) -> None:
    own_kernel.run(code)
    outcome = own_kernel.run("import os\nos.write(1, b'descriptor ')\nimport sys\nsys.stdout.write('stream\\n')\n7")
    assert outcome.stdout == "descriptor stream\n"
    assert outcome.texts == ["7"]
    interrupted = own_kernel.run_and_interrupt("import sys\nsys.stdout.write('started\\n')\nwhile True: pass")
    assert interrupted.done["interrupted"] is True


def test_a_kernel_whose_protocol_was_closed_ends(kernel: KernelProcess) -> None:
    kernel.start("import os\nos.closerange(3, 1000)")
    assert kernel.wait_for_end() != 0


def test_output_between_runs_waits_for_the_next_run(kernel: KernelProcess, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    os.mkfifo(tmp_path / "written")
    outcome = kernel.run(
        "import threading\n"
        "def later():\n"
        "    while open('gate').read():\n"
        "        print('x' * 40_000, flush=True)\n"
        "        open('written', 'w').close()\n"
        "thread = threading.Thread(target=later)\n"
        "thread.start()"
    )
    assert outcome.stdout == ""
    for _ in range(3):
        (tmp_path / "gate").write_text("go")
        (tmp_path / "written").read_text()
    following = kernel.run("print('now')")
    assert following.stdout == ("x" * 40_000 + "\n" + "x" * 40_000)[: kernel_module.MAX_IDLE_BYTES] + "now\n"
    dropped = 3 * 40_001 - kernel_module.MAX_IDLE_BYTES
    assert following.stderr == f"\n[{dropped} bytes of output between the calls are not kept]\n"
    (tmp_path / "gate").write_text("")
    assert kernel.run("thread.join()").stdout == ""


def test_a_run_that_is_asked_for_again_is_answered_again_and_not_run(kernel: KernelProcess) -> None:
    first = kernel.run("count = globals().get('count', 0) + 1\nprint('printed')\ncount")
    kernel.ask("run-1", "count = 'run again'")
    again = kernel.finish("run-1")
    assert again.events == first.events
    assert again.texts == ["1"]
    kernel.ask("run-1", "", after=first.events[0]["n"])
    assert kernel.finish("run-1").events == first.events[1:]
    kernel.ask("run-1", "", after=first.done["n"])
    assert kernel.finish("run-1").events == [first.done]
    assert kernel.run("count").texts == ["1"]


def test_a_run_that_goes_on_is_answered_with_what_it_said_and_goes_on(kernel: KernelProcess, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    run_id = kernel.start("print('first')\nopen('gate').close()\nprint('second')")
    [begun, out] = kernel.events_until("first")
    kernel.ask(run_id, "")
    assert kernel.events_until("first") == [begun, out]
    (tmp_path / "gate").write_text("")
    assert kernel.finish(run_id).stdout == "second\n"


def test_what_is_kept_of_large_runs_is_bounded_and_their_end_is_always_known(kernel: KernelProcess) -> None:
    run_id = kernel.start("for _ in range(1000): print('x' * 9_999)")
    events = [kernel.next_event()]
    while events[-1]["ev"] != "done":
        events.append(kernel.next_event())
    kernel.ask(run_id, "")
    again = kernel.finish(run_id)
    assert again.events == events[-len(again.events) :]
    assert kernel_module.MAX_KEPT_BYTES * 0.7 < len(again.stdout) < kernel_module.MAX_KEPT_BYTES
    for _ in range(2):
        kernel.run("display('y' * 250_000)\n" * 20)
    kernel.ask(run_id, "")
    assert kernel.finish(run_id).events == [events[-1]]


def test_requests_that_are_halves_are_ignored(kernel: KernelProcess) -> None:
    assert kernel.process.stdin is not None
    kernel.process.stdin.write(b'{"op": "run", "id": "lost", "co\n\xff\n\n')
    assert kernel.run("1").texts == ["1"]


def test_a_run_that_waits_is_taken_back_by_an_interrupt(kernel: KernelProcess, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    first = kernel.start("print('started')\nopen('gate').close()")
    kernel.events_until("started")
    second = kernel.start("x = 'was run'")
    kernel.send(op="interrupt", id=second)
    kernel.send(op="ping")
    assert kernel.next_event() == {"ev": "pong"}
    (tmp_path / "gate").write_text("")
    assert kernel.finish(first).error is None
    taken_back = kernel.finish(second)
    assert (taken_back.error or {})["name"] == "KeyboardInterrupt"
    assert taken_back.done["interrupted"] is True
    assert kernel.run("'x' in globals()").texts == ["False"]


def test_a_thread_that_never_stops_printing_does_not_delay_the_end(kernel: KernelProcess) -> None:
    outcome = kernel.run(
        "import threading\n"
        "def flood():\n"
        "    while True: print('x' * 100)\n"
        "threading.Thread(target=flood, daemon=True).start()\n"
        "'over'"
    )
    assert outcome.texts == ["'over'"]


def test_deep_recursion_and_memory_errors_are_ordinary_errors(kernel: KernelProcess) -> None:
    deep = kernel.run("def f(): return f()\nf()").error
    assert deep is not None
    assert deep["name"] == "RecursionError"
    assert "[Previous line repeated" in deep["traceback"]
    assert (kernel.run("b'x' * (1 << 60)").error or {})["name"] == "MemoryError"
    nested = kernel.run("x = []\nfor _ in range(100000): x = [x]\nx")
    assert nested.texts == ["<list: its repr raised RecursionError>"]
    chain = (
        "def f(n):\n    try: 1 / 0\n    except ZeroDivisionError:\n        if n: f(n - 1)\n        else: raise\nf(300)"
    )
    assert (kernel.run(chain).error or {})["name"] == "ZeroDivisionError"


MEMORY_LIMIT = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))"
FILE_LIMIT = "import os, resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))"
ODD_CLASS = "class M(type):\n    __name__ = {}\nclass E(Exception, metaclass=M): pass\nraise E"
ODD_FORMS = """\
class D(dict):
    def keys(self): raise OSError
    __iter__ = keys
class A:
    def _repr_mimebundle_(self, **k): return D()
A()"""


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (f"{MEMORY_LIMIT}\nx = []\nwhile True: x.append(bytearray(1 << 20))", "MemoryError"),
        (f"{FILE_LIMIT}\nx = []\nwhile True: x.append(os.open(os.devnull, os.O_RDONLY))", "OSError"),
        ("class A:\n    def __repr__(self): raise SystemExit(3)\nA()", "SystemExit"),
        ("class E(Exception):\n    def __str__(self): return 5\nraise E", "E"),
        (ODD_CLASS.format(5), "E"),
        (ODD_CLASS.format("property(lambda self: 1 / 0)"), "E"),
        (ODD_FORMS, "OSError"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("a, b = ValueError(), ValueError()\na.__cause__, b.__cause__ = b, a\nraise a", "ValueError"),
        ("'\0'", "SyntaxError|ValueError"),
        ("'\ud800'", "UnicodeEncodeError"),
        ("import asyncio\nasyncio.current_task().cancel()\nawait asyncio.sleep(1)", "CancelledError"),
    ],
)
def test_whatever_is_raised_is_told_and_the_state_is_kept(own_kernel: KernelProcess, code: str, name: str) -> None:
    own_kernel.run("kept = 'kept'")
    error = own_kernel.run(code).error
    assert error is not None
    assert re.fullmatch(name, error["name"])
    assert own_kernel.run("x = None\nkept").texts == ["'kept'"]


def test_the_end_of_the_requests_ends_the_kernel_even_while_it_runs(kernel: KernelProcess) -> None:
    kernel.start("print('started')\nwhile True: pass")
    kernel.events_until("started")
    assert kernel.process.stdin is not None
    kernel.process.stdin.close()
    assert kernel.wait_for_end() == 0


def test_a_crash_leaves_its_place_on_stderr(kernel: KernelProcess) -> None:
    kernel.start("def crash():\n    import ctypes\n    ctypes.string_at(0)\ncrash()")
    assert kernel.wait_for_end() == -signal.SIGSEGV
    assert kernel.process.stderr is not None
    said = kernel.process.stderr.read().decode()
    assert "Segmentation fault" in said
    assert 'File "<cell 1>", line 3 in crash' in said


def test_user_code_is_the_main_module_of_an_interactive_python(kernel: KernelProcess) -> None:
    kernel.run("import pickle, sys\nfrom dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int")
    assert kernel.run("pickle.loads(pickle.dumps(Point(3)))").texts == ["Point(x=3)"]
    assert kernel.run("__name__, sys.argv, sys.path[0], sys.modules['__main__'].Point is Point").texts == [
        "('__main__', [''], '', True)"
    ]
    assert kernel.run("from __future__ import annotations\ndef f(x: nowhere): pass\nf.__annotations__").texts == [
        "{'x': 'nowhere'}"
    ]


def test_rich_forms_are_taken_from_the_class(kernel: KernelProcess) -> None:
    outcome = kernel.run(
        "class Rich:\n"
        "    def __repr__(self): return 'plain'\n"
        "    def _repr_html_(self): return '<b>x</b>'\n"
        "    def _repr_markdown_(self): return '**x**', {'metadata': 1}\n"
        "    def _repr_json_(self): return {'x': 1}\n"
        "    def _repr_latex_(self): raise ValueError\n"
        "    def _repr_svg_(self): return None\n"
        "    def _repr_png_(self): return b'PNG'\n"
        "class Magic:\n"
        "    def __getattr__(self, name): return lambda *a: 'magic'\n"
        "class Bundle:\n"
        "    def __repr__(self): return 'unused'\n"
        "    def _repr_mimebundle_(self, include=None, exclude=None):\n"
        "        return {'text/plain': 'bundled', 'image/png': 'UE5H', 'application/x-unknown': 'x'}\n"
        "display(Rich(), Magic(), Rich, Bundle())"
    )
    rich, magic, rich_class, bundle = outcome.results
    assert rich["text"] == {
        "text/plain": "plain",
        "text/html": "<b>x</b>",
        "text/markdown": "**x**",
        "application/json": '{"x": 1}',
    }
    assert rich["images"] == {"image/png": base64.b64encode(b"PNG").decode()}
    assert list(magic["text"]) == list(rich_class["text"]) == ["text/plain"]
    assert (bundle["text"], bundle["images"]) == ({"text/plain": "bundled"}, {"image/png": "UE5H"})


def test_every_form_of_a_value_arrives(kernel: KernelProcess) -> None:
    text = {"html": "<b>", "markdown": "**", "latex": "$x$", "svg": "<svg/>"}
    methods = "".join(f"    def _repr_{name}_(self): return {form!r}\n" for name, form in text.items())
    methods += "".join(f"    def _repr_{name}_(self): return b'{name}'\n" for name in ("png", "jpeg"))
    [shown] = kernel.run(f"class All:\n{methods}    def _repr_json_(self): return [1]\nAll()").results
    assert {mime: form for mime, form in shown["text"].items() if mime != "text/plain"} == {
        "text/html": "<b>",
        "text/markdown": "**",
        "text/latex": "$x$",
        "image/svg+xml": "<svg/>",
        "application/json": "[1]",
    }
    assert {mime: base64.b64decode(data) for mime, data in shown["images"].items()} == {
        "image/png": b"png",
        "image/jpeg": b"jpeg",
    }


def test_values_that_cannot_be_encoded_are_shown_all_the_same(kernel: KernelProcess) -> None:
    outcome = kernel.run(
        "class Bad:\n"
        "    def __repr__(self): raise ValueError\n"
        "    def _repr_json_(self): return float('nan')\n"
        "class NotText:\n"
        "    def __repr__(self): return 5\n"
        "print('\\ud800')\n"
        "display(float('nan'), {1, 2}, '\\ud800', Bad(), NotText())"
    )
    assert outcome.stdout == "\\ud800\n"
    assert outcome.texts == [
        "nan",
        "{1, 2}",
        "'\\ud800'",
        "<Bad: its repr raised ValueError>",
        "<NotText: its repr raised TypeError>",
    ]
    assert list(outcome.results[3]["text"]) == ["text/plain"]
    surrogate = kernel.run("raise ValueError(chr(0xD800))").error
    assert surrogate is not None
    assert surrogate["message"] == "\\ud800"


def test_large_results_are_cut_or_left_out_with_a_notice(kernel: KernelProcess) -> None:
    long = kernel.run("list(range(100_000))").texts[0]
    assert 250_000 < len(long) < kernel_module.MAX_TEXT_CHARS + 100
    assert re.fullmatch(r"\[.*\d,\n\[\d+ more characters not shown\]", long, re.DOTALL)
    html = kernel.run("class Page:\n    def _repr_html_(self): return 'x' * 300_000\nPage()").results[0]
    assert list(html["text"]) == ["text/plain"]
    assert html["text"]["text/plain"].endswith("[text/html not shown: 300000 characters]")
    image = "class Image:\n    def __repr__(self): return 'image'\n    def _repr_png_(self): return b'x' * {}\n"
    assert kernel.run(image.format("((4 << 20) + 1)") + "Image()").texts == [
        "image\n[image/png of 4194305 bytes not shown: too large]"
    ]
    many = kernel.run(image.format("(4 << 20)") + "for _ in range(5): display(Image())")
    assert [len(result["images"]) for result in many.results] == [1, 1, 1, 1, 0]
    assert kernel.run("Image()").results[0]["images"], "the budget is for one run"
    forms = "".join(
        f"    def _repr_{form}_(self): return repr(self)\n" for form in ("html", "markdown", "latex", "svg")
    )
    forms += "    def _repr_png_(self): return b'x' * (3 << 20)\n"
    fitted = kernel.run(f"class Wide:\n    def __repr__(self): return chr(0x1F600) * 262_144\n{forms}Wide()").results[0]
    assert list(fitted["images"]) == ["image/png"]
    assert list(fitted["text"]) == ["text/html", "text/plain"]
    assert fitted["text"]["text/plain"].endswith("\n[image/svg+xml not shown: the result is too large]")


PNG = b"\x89PNG\r\n\x1a\n"


def figures(outcome: Outcome) -> list[bytes]:
    return [base64.b64decode(result["images"]["image/png"]) for result in outcome.results]


def test_figures_are_shown_where_show_is_called_and_at_the_end(own_kernel: KernelProcess) -> None:
    outcome = own_kernel.run(
        "import matplotlib.pyplot as plt\n"
        "plt.plot([1, 2])\n"
        "print('before')\n"
        "plt.show()\n"
        "print('after')\n"
        "line, = plt.plot([2, 1])\n"
        "plt.show(block=False)\n"
        "fig, ax = plt.subplots()\n"
        "plots = ax.plot([1, 3, 2])"
    )
    assert (outcome.error, outcome.stderr) == (None, "")
    kinds = [event["ev"] for event in outcome.events]
    assert kinds == ["out", "result", "out", "result", "result", "done"]
    shown = figures(outcome)
    assert all(figure.startswith(PNG) for figure in shown)
    assert len(set(shown)) == 3
    assert own_kernel.run("plt.get_fignums()").texts == ["[]"]


def test_a_figure_that_cannot_be_drawn_fails_one_run_only(own_kernel: KernelProcess) -> None:
    failed = own_kernel.run("import matplotlib.pyplot as plt\nplt.title('$\\\\nonsense{$')")
    assert failed.error is not None
    assert own_kernel.run("1").error is None


def test_a_figure_of_code_that_failed_is_shown(own_kernel: KernelProcess) -> None:
    outcome = own_kernel.run("import matplotlib.pyplot as plt\nplt.plot([1])\n1 / 0")
    assert len(figures(outcome)) == 1
    assert (outcome.error or {})["name"] == "ZeroDivisionError"


@pytest.mark.parametrize("length", [0, 1, kernel_module.MAX_TEXT_CHARS, kernel_module.MAX_TEXT_CHARS + 1])
@pytest.mark.parametrize("unit", ["x", "word ", "line\n"])
def test_clipping_cuts_between_words_and_counts_what_is_missing(length: int, unit: str) -> None:
    text = (unit * length)[:length]
    clipped = kernel_module.clip(text)
    if length <= kernel_module.MAX_TEXT_CHARS:
        assert clipped == text
        return
    head, notice = clipped.rsplit("\n", 1)
    assert text.startswith(head)
    assert notice == f"[{length - len(head)} more characters not shown]"
    assert unit == "x" or text[len(head)].isspace()
