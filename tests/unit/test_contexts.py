"""client/contexts.py over real local processes: only the HTTP between is left out."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_tools.client.coderun import MAX_RESULTS
from sandbox_tools.client.context import CodeContext
from sandbox_tools.client.contexts import CodeContexts
from sandbox_tools.client.kernel_line import TRIES_OF_A_LOCK, YIELD_PAUSES_S
from sandbox_tools.client.kernel_program import ContextLanguage, lock_path
from sandbox_tools.errors import (
    SandboxProtocolError,
    SandboxRequestError,
    SandboxResponseError,
    SandboxUnreachableError,
    ToolError,
)
from sandbox_tools.runtime import CodeResult, OutputStream
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.kernel import YIELDED, LineDecoder, OfRun, Shown, event_from_line
from sandbox_tools.wire.process import SIGNALS, Command, Ended, OutputData, ProcessEvent, SignalName, StreamName

DEADLINE_S = 20.0
LONG_S = 60.0

UNSTOPPABLE = "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"

PROTOCOL = """\
import os, sys
def protocol():
    frame = sys._getframe()
    while "_wire" not in vars(frame.f_locals.get("self", type)): frame = frame.f_back
    return frame.f_locals["self"]._wire._events
def forge(line):
    while line: line = line[os.write(protocol(), line):]
"""
"""What hostile code does: it finds the descriptor and writes to it."""


class LocalProcess:
    """A process of this machine. Like some runtimes, it signals the process only, and repeats no output."""

    def __init__(self, sandbox: LocalSandbox, process: anyio.abc.Process, tag: str | None) -> None:
        self.sandbox = sandbox
        self.process = process
        self.tag = tag
        self.streams: list[LocalStream] = []
        self.refused = anyio.Event()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def pump(self) -> None:
        async with self.process:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._forward, "stdout", self.process.stdout)
                tasks.start_soon(self._forward, "stderr", self.process.stderr)
            code = await self.process.wait()
            if self.sandbox.late_end:
                await self.refused.wait()
            status = f"exit status {code}" if code >= 0 else f"signal: {signal.strsignal(-code)}".lower()
            await self._send(Ended(max(code, -1), code >= 0, status))
            for stream in self.streams:
                stream.sender.close()

    async def _forward(self, name: StreamName, pipe: anyio.abc.ByteReceiveStream | None) -> None:
        assert pipe is not None
        async for data in pipe:
            await self._send(OutputData(name, data))

    async def _send(self, event: ProcessEvent) -> None:
        for stream in list(self.streams):
            try:
                await stream.sender.send(event)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                self.streams = [
                    other for other in self.streams if other is not stream
                ]  # nobody listens any more: a runtime discards it

    def stream(self) -> LocalStream:
        self.streams.append(LocalStream(self))
        return self.streams[-1]

    def cut(self) -> None:
        """Break the connections of all who listen."""
        for stream in self.streams:
            stream.cut.set()
            stream.sender.close()
        self.streams.clear()


class LocalStream:
    """A connection to a process: a `ProcessStream`."""

    def __init__(self, process: LocalProcess) -> None:
        self.sender, self.receiver = anyio.create_memory_object_stream[ProcessEvent](8)
        self.cut = anyio.Event()
        self.mute = False
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def events(self) -> AsyncIterator[ProcessEvent]:
        async for event in self.receiver:
            if self.cut.is_set():
                raise SandboxUnreachableError("run a process", was_sent=True)
            if not self.mute:
                yield event
        if self.cut.is_set():
            raise SandboxUnreachableError("run a process", was_sent=True)

    async def send_input(self, data: bytes) -> None:
        sandbox, process = self._process.sandbox, self._process.process
        sandbox.requests.append("send_input")
        assert process.stdin is not None
        if process.returncode is None:
            try:
                await process.stdin.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            else:
                if sandbox.lost_answers:
                    sandbox.lost_answers -= 1
                    raise SandboxUnreachableError("run a process", was_sent=True)
                return
        self._process.refused.set()
        raise SandboxResponseError("run a process", kind="not_found", status=404, reason="process_not_found")

    async def send_signal(self, signal: SignalName) -> None:
        self._process.sandbox.requests.append(signal)
        if self._process.process.returncode is not None:
            raise SandboxResponseError("run a process", kind="not_found", status=404, reason="process_not_found")
        self._process.process.send_signal(SIGNALS[signal])

    async def aclose(self) -> None:
        self.receiver.close()
        self.sender.close()


class LocalSandbox:
    """A `ProcessHost` on this machine."""

    def __init__(self, root: Path, tasks: anyio.abc.TaskGroup) -> None:
        self.requests: list[str] = []
        self.kernels: list[LocalProcess] = []
        self.late_end = False
        self.lost_answers = 0
        self.unreachable = False
        self.python = [sys.executable]
        self.gate: anyio.Event | None = None
        self.starting = 0
        self.starts_together = 0
        self.before_connect: Callable[[LocalProcess], Awaitable[None]] | None = None
        self._root = root
        self._tasks = tasks

    async def write_file(self, path: str, data: bytes) -> None:
        self.requests.append("write_file")
        if self.unreachable:
            raise SandboxUnreachableError("write a file")
        file = anyio.Path(str(self._root) + path)
        await file.parent.mkdir(parents=True, exist_ok=True)
        await file.write_bytes(data)

    @property
    def processes(self) -> LocalSandbox:
        return self

    async def list(self) -> Sequence[LocalProcess]:
        self.requests.append("list")
        return [kernel for kernel in self.kernels if kernel.process.returncode is None]

    async def connect(self, pid: int) -> LocalStream:
        self.requests.append("connect")
        if self.unreachable:
            raise SandboxUnreachableError("run a process")
        for kernel in await self.list():
            if kernel.pid == pid:
                if self.before_connect is not None:
                    await self.before_connect(kernel)
                if kernel.process.returncode is None:
                    return kernel.stream()
        raise SandboxResponseError("run a process", kind="not_found", status=404, reason="process_not_found")

    async def start(self, command: Command) -> LocalStream:
        self.requests.append(f"start {command.cmd}")
        self.starting += 1
        if self.gate is not None and self.starting == self.starts_together:
            self.gate.set()
        if self.gate is not None:
            await self.gate.wait()
        argv = [command.cmd, *command.args]
        if command.cmd == "python3":
            argv = [*self.python, "-u", *(str(self._root) + path for path in command.args[1:])]
        process = LocalProcess(self, await anyio.open_process(argv, cwd=self._root), command.tag)
        stream = process.stream()
        self._tasks.start_soon(process.pump)
        if command.cmd == "python3":
            self.kernels.append(process)
        return stream


class Harness:
    """A context in a local sandbox, and the output that the last run gave."""

    def __init__(self, root: Path, tasks: anyio.abc.TaskGroup) -> None:
        self.sandbox = LocalSandbox(root, tasks)
        self.contexts = CodeContexts(self.sandbox, tasks)
        self.tasks = tasks
        self.output: list[tuple[OutputStream, bytes]] = []
        self._printed = anyio.Event()

    def sink(self, stream: OutputStream, data: bytes) -> None:
        self.output.append((stream, data))
        self._printed.set()

    async def run(self, code: str, *, timeout_s: float = DEADLINE_S) -> CodeResult:
        self.output = []
        with anyio.fail_after(DEADLINE_S + 10):
            context = await self.contexts.get()
            return await context.run(code, timeout_s=timeout_s, on_output=self.sink)

    async def value(self, code: str) -> str:
        """Run an expression and return its text."""
        result = await self.run(code)
        assert result.error is None, result.error
        return result.results[0].text["text/plain"]

    async def wait_for_output(self, data: bytes) -> None:
        with anyio.fail_after(DEADLINE_S):
            while data not in b"".join(piece for _, piece in self.output):
                self._printed = anyio.Event()
                await self._printed.wait()

    def text(self, stream: OutputStream = "stdout") -> str:
        return b"".join(data for name, data in self.output if name == stream).decode()


@asynccontextmanager
async def harness(root: Path) -> AsyncIterator[Harness]:
    async with anyio.create_task_group() as tasks:
        made = Harness(root, tasks)
        try:
            yield made
        finally:
            with anyio.CancelScope(shield=True):
                await made.contexts.restart()
            tasks.cancel_scope.cancel()


async def wait_until_gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    with anyio.fail_after(DEADLINE_S):
        while is_alive(pid):
            await anyio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def test_a_run_costs_one_request_after_the_first(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        assert (await box.run("x = 41")).results == ()
        assert box.sandbox.requests == ["list", "write_file", "start python3", "send_input"]
        box.sandbox.requests.clear()
        assert await box.value("x + 1") == "42"
        assert box.sandbox.requests == ["send_input"]


async def test_output_results_and_errors_come_back(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\ndisplay('shown')\nprint(1/0)"
        result = await box.run(code)
        assert (box.text(), box.text("stderr")) == ("out\n", "err\n")
        assert [rich.text for rich in result.results] == [{"text/plain": "'shown'"}]
        assert result.error is not None
        assert (result.error.name, result.error.message) == ("ZeroDivisionError", "division by zero")
        assert '"<cell 1>", line 5' in result.error.traceback
        assert (result.timed_out, result.state_kept, result.state_lost_before) == (False, True, False)
        assert 0 < result.elapsed_ms < DEADLINE_S * 1000


async def test_images_are_decoded_and_lone_surrogates_made_harmless(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        result = await box.run(
            "class I:\n    def __repr__(self): return '\\ud800'\n    def _repr_png_(self): return b'P'\nI()"
        )
        assert result.results[0].images == {"image/png": b"P"}
        assert result.results[0].text == {"text/plain": "\\ud800"}


async def test_code_that_sleeps_too_long_is_interrupted_and_the_state_is_kept(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run("x = 1")
        result = await box.run("import time\nprint('begun')\ntime.sleep(60)", timeout_s=0.3)
        assert (result.timed_out, result.state_kept) == (True, True)
        assert box.text() == "begun\n"
        assert result.error is not None
        assert "line 3, in <module>" in result.error.traceback
        assert 300 <= result.elapsed_ms < 2300
        assert await box.value("x") == "1"


async def test_code_that_cannot_be_interrupted_is_killed_and_says_so(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run("x = 1")
        result = await box.run("print('begun')\n" + UNSTOPPABLE, timeout_s=0.3)
        assert (result.timed_out, result.state_kept, result.error) == (True, False, None)
        assert box.text() == "begun\n"
        assert result.elapsed_ms < 4300
        again = await box.run("x")
        assert again.error is not None
        assert again.error.name == "NameError"
        assert not again.state_lost_before, "it was already told"


async def test_killing_a_context_ends_what_it_started(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        child = int(
            await box.value(
                "import subprocess\nchild = subprocess.Popen(\"trap '' INT TERM; sleep 60\", shell=True)\nchild.pid"
            )
        )
        result = await box.run(
            "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nchild.wait()", timeout_s=0.1
        )
        assert not result.state_kept
        await wait_until_gone(child)


async def test_code_that_ends_just_after_its_time_is_no_timeout(tmp_path: Path) -> None:
    """The interrupt comes too late for the first run, and must not hit the second."""
    async with harness(tmp_path) as box:
        await box.run("import time")
        for _ in range(20):
            result = await box.run("time.sleep(0.02)\n'done'", timeout_s=0.02)
            assert result.state_kept
            assert result.timed_out or result.error is None
            assert await box.value("'next'") == "'next'"


async def test_cancelling_interrupts_and_keeps_the_state(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run("x = 1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(box.run, "import time\nprint('begun')\ntime.sleep(60)\nx = 2")
            await box.wait_for_output(b"begun")
            tasks.cancel_scope.cancel()
        assert await box.value("x") == "1"
        assert len(box.sandbox.kernels) == 1


async def test_cancelling_code_that_cannot_be_interrupted_kills_it(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run("x = 1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(box.run, "print('begun')\n" + UNSTOPPABLE)
            await box.wait_for_output(b"begun")
            began = time.monotonic()
            tasks.cancel_scope.cancel()
        assert time.monotonic() - began < 4
        assert not is_alive(box.sandbox.kernels[0].pid)
        result = await box.run("1")
        assert result.state_lost_before


async def test_cancelling_during_the_start_leaves_no_second_process(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        box.sandbox.gate = anyio.Event()
        with anyio.move_on_after(0.05) as scope:
            await box.run("x = 1")
        assert scope.cancelled_caught
        timed_out = await box.run("x = 2", timeout_s=0.05)
        assert (timed_out.timed_out, timed_out.results) == (True, ())
        box.sandbox.gate.set()
        assert await box.value("'x' in vars()") == "False"
        assert len(box.sandbox.kernels) == 1


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os\nos._exit(3)", "exit status 3"),
        ("import os\nos.kill(os.getpid(), 9)", "signal: killed; often the memory limit"),
        ("import ctypes\nctypes.string_at(0)", "signal: segmentation fault"),
    ],
)
async def test_the_death_of_a_context_is_told_and_the_next_run_is_fresh(tmp_path: Path, code: str, how: str) -> None:
    async with harness(tmp_path) as box:
        result = await box.run("display('shown')\nprint('said')\n" + code)
        assert result.error is not None
        assert result.error.name == "ContextDied"
        assert f"({how})" in result.error.message
        assert (result.state_kept, result.timed_out) == (False, False)
        assert [rich.text["text/plain"] for rich in result.results] == ["'shown'"]
        assert ("Segmentation fault" in result.error.traceback) == ("ctypes" in code)
        assert ".sandbox-tools/kernel" not in result.error.traceback
        assert await box.value("'x' in vars()") == "False"


@pytest.mark.parametrize("late_end", [False, True], ids=["the end was seen", "the end was not seen yet"])
async def test_a_death_between_runs_is_told_by_the_next_run(tmp_path: Path, late_end: bool) -> None:
    async with harness(tmp_path) as box:
        box.sandbox.late_end = late_end
        await box.run("x = 1")
        kernel = box.sandbox.kernels[0]
        os.kill(kernel.pid, signal.SIGKILL)
        await kernel.process.wait()
        result = await box.run("'x' in vars()")
        box.sandbox.late_end = False
        assert result.results[0].text["text/plain"] == "False"
        assert (result.state_lost_before, result.state_kept, result.error) == (True, True, None)
        assert not (await box.run("1")).state_lost_before


async def test_what_a_restart_ended_is_not_told_as_lost(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run("x = 1")
        kernel = box.sandbox.kernels[0]
        os.kill(kernel.pid, signal.SIGKILL)
        await kernel.process.wait()
        for _ in range(2):
            await box.contexts.restart()
        assert not (await box.run("x = 1")).state_lost_before
        for _ in range(2):
            await box.contexts.restart()
        assert not (await box.run("x = 1")).state_lost_before


async def test_a_restart_before_the_start_does_not_hide_a_later_death(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        box.sandbox.gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(box.run, "x = 1")
            with anyio.fail_after(DEADLINE_S):
                while "start python3" not in box.sandbox.requests:
                    await anyio.sleep(0.001)
            await box.contexts.restart()
            box.sandbox.gate.set()
        assert await box.value("x") == "1"
        kernel = box.sandbox.kernels[0]
        os.kill(kernel.pid, signal.SIGKILL)
        await kernel.process.wait()
        assert (await box.run("1")).state_lost_before


async def test_a_template_without_python_is_a_clear_error(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        box.sandbox.python = ["/usr/bin/env", "PATH=/nowhere", "python3"]
        for _ in range(2):
            with pytest.raises(SandboxResponseError) as caught:
                await box.run("1")
            assert caught.value.reason == "command_not_found"
        box.sandbox.python = [sys.executable]
        assert not (await box.run("1")).state_lost_before


async def test_fifty_megabytes_of_output_take_little_memory(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run("1")
        count = 0

        def sink(stream: OutputStream, data: bytes) -> None:
            nonlocal count
            count += len(data)

        tracemalloc.start()
        try:
            code = "line = 'x' * 9_999\nfor _ in range(5_000): print(line)"
            result = await (await box.contexts.get()).run(code, timeout_s=LONG_S, on_output=sink)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (count, result.error, result.timed_out) == (50_000_000, None, False)
        assert peak < 8 * 1024 * 1024


async def test_output_between_runs_goes_to_the_next_run(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        os.mkfifo(tmp_path / "go")
        os.mkfifo(tmp_path / "done")
        await box.run("import subprocess\nsubprocess.Popen('cat go; echo late; echo > done', shell=True)")
        await anyio.to_thread.run_sync((tmp_path / "go").write_text, "")
        await anyio.to_thread.run_sync((tmp_path / "done").read_text)
        await box.run("print('now')")
        assert box.text() == "late\nnow\n"


async def test_a_run_may_show_so_much_and_no_more(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        result = await box.run("for n in range(100): display(n)")
        assert len(result.results) == MAX_RESULTS + 1
        assert result.results[-1].text["text/plain"] == "[36 more results are not shown]"
        large = await box.run("for n in range(20): display('x' * 250_000)")
        assert len(large.results) == 9
        assert sum(len(rich.text["text/plain"]) for rich in large.results) < 2.1 * 1024 * 1024


@pytest.mark.parametrize(
    "line",
    [
        "b'x' * (9 << 20)",
        "b'not JSON\\n'",
        "b'[]\\n'",
        'b\'{"ev": "out", "b64": "%%"}\\n\'',
        'b\'{"ev": "result", "text": {"text/plain": 5}, "images": {}}\\n\'',
        "b'[' * 100_000 + b'\\n'",
    ],
)
async def test_a_kernel_that_breaks_the_protocol_is_killed(tmp_path: Path, line: str) -> None:
    async with harness(tmp_path) as box:
        await box.run(PROTOCOL)
        with pytest.raises(SandboxProtocolError) as caught:
            await box.run(f"forge({line})\nwhile True: pass")
        assert caught.value.__context__ is None
        await wait_until_gone(box.sandbox.kernels[0].pid)
        assert (await box.run("1")).state_lost_before


async def test_forged_events_of_other_runs_and_unknown_ones_are_ignored(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run(PROTOCOL)
        forged: list[dict[str, Any]] = [{"ev": "done", "id": "x"}, {"ev": "new"}, {"ev": "done"}, {"ev": "error"}]
        forged[3] |= {"name": "TkFNRQ==", "message": "", "traceback": ""}
        for event in forged:
            event["n"] = 99
        lines = "".join(json.dumps(event) + "\n" for event in forged)
        result = await box.run(f"forge({lines.encode()!r})\n'own'")
        assert (result.error, result.results[0].text["text/plain"]) == (None, "'own'")


async def test_a_stream_that_breaks_during_a_run_is_replaced_and_the_code_runs_once(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        os.mkfifo(tmp_path / "go")
        results: list[CodeResult] = []

        async def run() -> None:
            code = "count = globals().get('count', 0) + 1\nprint('begun')\nopen('go').read()\nprint('end')\ncount"
            results.append(await box.run(code))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await box.wait_for_output(b"begun")
            box.sandbox.kernels[0].cut()
            await anyio.to_thread.run_sync((tmp_path / "go").write_text, "now")
        assert (results[0].error, results[0].state_lost_before) == (None, False)
        assert results[0].results[0].text["text/plain"] == "1"
        assert box.text() == "begun\nend\n", "what was printed while nobody listened comes all the same"
        assert box.text("stderr") == ""
        assert len(box.sandbox.kernels) == 1


async def test_a_request_of_which_nobody_knows_whether_it_arrived_is_asked_again_and_runs_once(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run("count = 0")
        box.sandbox.lost_answers = 1
        box.sandbox.requests.clear()
        assert await box.value("count += 1\ncount") == "1"
        assert box.sandbox.requests == ["send_input", "send_input"]
        assert await box.value("count") == "1"


async def test_a_stream_that_breaks_between_runs_loses_nothing(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run("x = 1")
        box.sandbox.kernels[0].cut()
        result = await box.run("x")
        assert result.results[0].text["text/plain"] == "1"
        assert not result.state_lost_before
        assert len(box.sandbox.kernels) == 1


async def test_a_stream_that_died_in_silence_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_tools.client.kernel.ANSWER_S", 0.2)
    async with harness(tmp_path) as box:
        await box.run("count = 0")
        box.sandbox.kernels[0].streams[0].mute = True
        assert await box.value("count += 1\ncount") == "1"
        assert len(box.sandbox.kernels) == 1


async def test_a_process_that_ended_while_nobody_listened_is_told(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        os.mkfifo(tmp_path / "go")
        results: list[CodeResult] = []

        async def run() -> None:
            results.append(await box.run("import os\nprint('begun')\nopen('go').read()\nos._exit(0)"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await box.wait_for_output(b"begun")
            kernel = box.sandbox.kernels[0]
            box.sandbox.unreachable = True
            kernel.cut()
            await anyio.to_thread.run_sync((tmp_path / "go").write_text, "now")
            await kernel.process.wait()
            box.sandbox.unreachable = False
        assert results[0].error is not None
        assert results[0].error.message.startswith("The Python process ended while the code ran (it is not known how)")
        assert not results[0].state_kept


async def test_another_client_finds_a_context_and_its_variables(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run("x = 1")
        other = CodeContexts(box.sandbox, box.tasks)
        [info] = await other.list()
        assert (info.name, info.language, info.pid) == ("default", "python", box.sandbox.kernels[0].pid)
        box.sandbox.requests.clear()
        result = await (await other.get()).run("x += 1\nx", timeout_s=DEADLINE_S, on_output=box.sink)
        assert result.results[0].text["text/plain"] == "2"
        assert box.sandbox.requests == ["list", "connect", "list", "send_input"]
        assert await box.value("x") == "2", "the first client goes on"
        assert box.output == [], "and sees the output of its own runs only"


async def test_two_clients_wait_for_each_other_and_see_their_own_output(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        os.mkfifo(tmp_path / "go")
        await box.run("x = 1")
        other, heard = CodeContexts(box.sandbox, box.tasks), []

        def hear(stream: OutputStream, data: bytes) -> None:
            heard.append(data)

        async def run() -> None:
            await box.run("print('mine')\nx = int(open('go').read())")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await box.wait_for_output(b"mine")
            busy = await (await other.get()).run("x = 'not run'", timeout_s=0.2, on_output=hear)
            assert (busy.ran, busy.timed_out, busy.state_kept, busy.error) == (False, True, True, None)
            await anyio.to_thread.run_sync((tmp_path / "go").write_text, "5")
        result = await (await other.get()).run("print('other')\nx", timeout_s=DEADLINE_S, on_output=hear)
        assert result.results[0].text["text/plain"] == "5"
        assert b"".join(heard) == b"other\n"
        assert box.text() == "mine\n"
        assert len(box.sandbox.kernels) == 1


async def test_contexts_have_variables_of_their_own_until_they_are_restarted_or_removed(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:

        async def run(name: str | None, code: str) -> CodeResult:
            context = await box.contexts.get(name)
            return await context.run(code, timeout_s=DEADLINE_S, on_output=box.sink)

        await run(None, "x = 'default'")
        await run("a", "x = 'a'")
        assert (await run("a", "x")).results[0].text["text/plain"] == "'a'"
        assert (await run(None, "x")).results[0].text["text/plain"] == "'default'"
        assert [info.name for info in await box.contexts.list()] == ["a", "default"]
        await box.contexts.restart("a")
        again = await run("a", "'x' in globals()")
        assert (again.results[0].text["text/plain"], again.state_lost_before) == ("False", False)
        other = CodeContexts(box.sandbox, box.tasks)
        await other.remove("a")
        assert [info.name for info in await box.contexts.list()] == ["default"]
        assert (await run("a", "1")).state_lost_before, "somebody else removed it"
        await box.contexts.remove("a")
        await box.contexts.remove("never-there")
        assert [info.name for info in await box.contexts.list()] == ["default"]
        assert box.sandbox.requests.count("write_file") == 1, "the kernel is written once"


COUNT = "n = globals().get('n', 0) + 1\nopen('runs', 'a').write('x')\nn"


async def run_together(box: Harness, clients: int, language: ContextLanguage = "python") -> list[CodeContext]:
    """Have so many new clients start a context at the same moment: all have seen that it is not there."""
    contexts = [await CodeContexts(box.sandbox, box.tasks).get(language=language) for _ in range(clients)]
    box.sandbox.gate, box.sandbox.starting, box.sandbox.starts_together = anyio.Event(), 0, clients
    count = COUNT if language == "python" else "n = (globalThis.n || 0) + 1"
    results: list[CodeResult] = []

    async def run(context: CodeContext) -> None:
        results.append(await context.run(count, timeout_s=DEADLINE_S, on_output=box.sink))

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            for context in contexts:
                tasks.start_soon(run, context)
    assert [result.error for result in results] == [None] * clients
    texts = sorted(result.results[0].text["text/plain"] for result in results)
    assert texts == [str(n) for n in range(1, clients + 1)], "each ran once, in the same process"
    assert not any(result.state_lost_before for result in results)
    return contexts


@pytest.mark.parametrize("clients", [2, 5])
async def test_clients_that_start_a_context_at_the_same_moment_have_one_process(tmp_path: Path, clients: int) -> None:
    async with harness(tmp_path) as box:
        for n in range(1, 6):
            contexts = await run_together(box, clients)
            assert len(box.sandbox.kernels) >= n * clients, "they did start at the same moment"
            assert len(await box.sandbox.list()) == 1
            for context in contexts:
                result = await context.run("n", timeout_s=DEADLINE_S, on_output=box.sink)
                assert result.results[0].text["text/plain"] == str(clients)
            await contexts[n % clients].end()
            assert await box.sandbox.list() == []
        assert len((tmp_path / "runs").read_text()) == 5 * clients


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
async def test_clients_that_start_javascript_at_the_same_moment_have_one_process(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        contexts = await run_together(box, 2, "javascript")
        assert len(await box.sandbox.list()) == 1
        await contexts[0].end()


async def test_a_winner_that_dies_while_the_other_connects_is_replaced(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        first_result, results = anyio.Event(), []

        async def kill(kernel: LocalProcess) -> None:
            await first_result.wait()
            box.sandbox.before_connect = None
            os.kill(kernel.pid, signal.SIGKILL)
            await kernel.process.wait()

        async def run() -> None:
            context = await CodeContexts(box.sandbox, box.tasks).get()
            results.append(await context.run(COUNT, timeout_s=DEADLINE_S, on_output=box.sink))
            first_result.set()

        box.sandbox.before_connect = kill
        box.sandbox.gate, box.sandbox.starts_together = anyio.Event(), 2
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                tasks.start_soon(run)
        assert [result.results[0].text["text/plain"] for result in results] == ["1", "1"]
        assert (tmp_path / "runs").read_text() == "xx"
        assert len(await box.sandbox.list()) == 1


async def test_a_restart_while_others_start_ends_all_that_they_started(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        os.mkfifo(tmp_path / "go")
        box.sandbox.python = ["/bin/sh", "-c", f'read line <{tmp_path}/go; exec {sys.executable} "$@"', "sh"]
        results = []

        async def run() -> None:
            context = await CodeContexts(box.sandbox, box.tasks).get()
            results.append(await context.run(COUNT, timeout_s=DEADLINE_S, on_output=box.sink))

        box.sandbox.gate, box.sandbox.starts_together = anyio.Event(), 2
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                tasks.start_soon(run)
                while box.sandbox.requests.count("send_input") < 2:
                    await anyio.sleep(0.01)
                await box.contexts.restart()
        assert [result.error and result.error.name for result in results] == ["ContextDied"] * 2
        assert await box.sandbox.list() == []
        box.sandbox.python = [sys.executable]
        assert await box.value(COUNT) == "1"
        assert (tmp_path / "runs").read_text() == "x"


async def test_a_lock_that_something_else_holds_keeps_nobody_from_a_context(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        taken = tmp_path / lock_path("sandbox-tools-context:python:default", 0).lstrip("/")
        taken.parent.mkdir(parents=True)
        with taken.open("w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            assert await box.value("x = 1\nx") == "1"
            assert box.sandbox.requests.count("start python3") == TRIES_OF_A_LOCK + 1
            assert await box.value("x") == "1"
            await box.contexts.restart()
            await run_together(box, 2)
            assert len(await box.sandbox.list()) == 1


async def test_locks_that_are_all_taken_are_told(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        box.sandbox.python = ["/bin/sh", "-c", f"exit {YIELDED}"]
        result = await box.run("1")
        assert result.error is not None
        assert f"(exit status {YIELDED})" in result.error.message
        assert box.sandbox.requests.count("start python3") == len(YIELD_PAUSES_S) + 1


async def test_code_that_ends_its_process_with_the_exit_code_of_who_yields_runs_once(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run("x = 1")
        other = await CodeContexts(box.sandbox, box.tasks).get()
        code = f"import os\nopen('runs', 'a').write('x')\nos._exit({YIELDED})"
        result = await other.run(code, timeout_s=DEADLINE_S, on_output=box.sink)
        assert result.error is not None
        assert f"(exit status {YIELDED})" in result.error.message
        assert (tmp_path / "runs").read_text() == "x"
        assert (await box.run("1")).state_lost_before


async def test_a_kernel_whose_file_cannot_be_read_is_told(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        box.sandbox.python = ["/bin/sh", "-c", "exit 2"]
        result = await box.run("1")
        assert result.error is not None
        assert "(exit status 2)" in result.error.message
        assert not result.timed_out


async def test_names_and_numbers_of_contexts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with harness(tmp_path) as box:
        monkeypatch.setattr("sandbox_tools.client.contexts.MAX_CONTEXTS", 1)
        await box.run("1")
        assert await box.contexts.get("default")
        with pytest.raises(ToolError, match=r"Use one of them: default \(python\)"):
            await box.contexts.get("second")
        for name in ("", "a b", "x" * 65, "a\n", "\N{SNOWMAN}"):
            with pytest.raises(ToolError, match="1 to 64 letters"):
                await box.contexts.get(name or " ")


async def test_a_kernel_whose_file_was_removed_is_written_again(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        await box.run("import pathlib, shutil")
        await box.contexts.restart()
        for file in tmp_path.glob("tmp/.sandbox-tools/*"):
            file.unlink()
        box.sandbox.requests.clear()
        assert await box.value("1 + 1") == "2"
        assert box.sandbox.requests.count("write_file") == 1


async def test_code_left_running_by_a_lost_connection_is_interrupted_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in ("kernel", "kernel_line"):
        monkeypatch.setattr(f"sandbox_tools.client.{user}.RETRY_PAUSES_S", (0.0, 0.0))
    async with harness(tmp_path) as box:
        await box.run("x = 1")
        errors: list[SandboxRequestError] = []

        async def run() -> None:
            try:
                await box.run("print('begun')\nimport time\ntime.sleep(60)")
            except SandboxRequestError as exc:
                errors.append(exc)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await box.wait_for_output(b"begun")
            box.sandbox.unreachable = True
            box.sandbox.kernels[0].cut()
        box.sandbox.unreachable = False
        assert [type(error) for error in errors] == [SandboxUnreachableError]
        assert errors[0].__context__ is None
        result = await box.run("x")
        assert (result.results[0].text["text/plain"], result.state_lost_before) == ("1", False)


async def test_a_sandbox_that_cannot_start_anything_raises_its_own_error(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        box.sandbox.unreachable = True
        with pytest.raises(SandboxRequestError, match="write a file"):
            await box.run("1")
        box.sandbox.unreachable = False
        assert await box.value("1") == "1"


async def test_an_exception_of_the_sink_reaches_the_caller_and_nobody_else(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:

        def sink(stream: OutputStream, data: bytes) -> None:
            raise LookupError("sink")

        with pytest.raises(LookupError, match="sink"):
            await (await box.contexts.get()).run("x = 1\nprint(1)", timeout_s=DEADLINE_S, on_output=sink)
        assert await box.value("x") == "1"


async def test_runs_wait_for_each_other(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        async with anyio.create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(one_run, box, n)
        lines = box.text().split()
        assert [line[1:] for line in lines[::2]] == [line[1:] for line in lines[1::2]]
        assert sorted(lines) == sorted(f"{letter}{n}" for letter in "ab" for n in range(5))


async def one_run(box: Harness, n: int) -> None:
    await (await box.contexts.get()).run(f"print('a{n}')\nprint('b{n}')", timeout_s=DEADLINE_S, on_output=box.sink)


async def test_closing_ends_the_process_and_what_it_started(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        child = int(await box.value("import subprocess\nsubprocess.Popen(['sleep', '60']).pid"))
        await box.contexts.restart()
        await wait_until_gone(child)
        assert not is_alive(box.sandbox.kernels[0].pid)
        await box.contexts.restart()


async def test_closing_during_a_run_ends_the_run(tmp_path: Path) -> None:
    async with harness(tmp_path) as box:
        results: list[CodeResult] = []

        async def run() -> None:
            results.append(await box.run("print('begun')\nimport time\ntime.sleep(60)"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await box.wait_for_output(b"begun")
            await box.contexts.restart()
        assert results[0].error is not None
        assert results[0].error.name == "ContextDied"
        assert not results[0].state_kept


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_any_chunking_of_lines_gives_the_same_lines(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    decoder = LineDecoder()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [line for piece in pieces for line in decoder.feed(piece)] == lines


@settings(deadline=None)  # the machine may be busy
@given(st.integers(1, 50), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_a_line_is_refused_before_more_than_its_limit_is_kept(limit: int, sizes: list[int]) -> None:
    decoder = LineDecoder(max_line_bytes=limit)
    total = 0
    for size in sizes:
        total += size
        if total <= limit:
            assert list(decoder.feed(b"x" * size)) == []
            continue
        with pytest.raises(WireError):
            list(decoder.feed(b"x" * size))
        assert len(decoder._buffer) <= limit
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.fixed_dictionaries(
    {"ev": st.sampled_from(["out", "result", "error", "done", "ready", "pong", "x"])},
    optional={
        key: JSON | st.dictionaries(st.sampled_from(["text/plain", "image/png"]), JSON)
        for key in ("id", "n", "stream", "b64", "text", "images", "name", "message", "traceback", "interrupted")
    },
)


@settings(deadline=None)  # the machine may be busy
@given(EVENTS.map(lambda event: json.dumps(event).encode()) | st.binary())
def test_any_line_is_an_event_or_a_wire_error(line: bytes) -> None:
    try:
        event_from_line(line)
    except WireError:
        return


@pytest.mark.parametrize("filler", [b"[],", b'"":{},', b'"",'])
def test_a_line_of_much_structure_is_refused_before_it_is_parsed(filler: bytes) -> None:
    line = b'{"ev": "ready", "x": {' + filler * ((4 << 20) // len(filler)) + b"}}"
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="structure"):
            event_from_line(line)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1024 * 1024


def test_only_known_forms_of_a_result_are_taken() -> None:
    message: dict[str, Any] = {
        "ev": "result",
        "id": 1,
        "n": 2,
        "text": {"text/plain": base64.b64encode("ü".encode() + b"\xff").decode(), "text/x-script": "!"},
        "images": {"image/png": base64.b64encode(b"P").decode(), "image/x": "!"},
    }
    shown = Shown({"text/plain": "ü\ufffd"}, {"image/png": b"P"})
    assert event_from_line(json.dumps(message).encode()) == OfRun(1, 2, shown)
