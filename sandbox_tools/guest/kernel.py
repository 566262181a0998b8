"""Runs Python code inside a sandbox and keeps its variables between calls.

Standard library only, Python 3.8 or newer: this one file is written into a sandbox and started as
`python3 -u kernel.py LOCK`. The client (client/contexts.py) writes JSON lines to its standard input and reads
JSON lines from its standard output.

LOCK is the path of a file that names the context. Only one kernel at a time has the lock on it, which the operating
system frees when that process ends, however it ends. Another one ends with the exit code 75 before it reads or writes
anything: two clients that start the same context at the same moment have one process, and the second one's requests go
there. User code that reads or removes the file takes that guarantee away, and nothing else; so does a place where no
file can be made.

    requests  {"op": "run", "id": ..., "code": ..., "after": 0}   {"op": "interrupt", "id": ...}   {"op": "ping"}
    events    {"ev": "ready", "python": "3.11.7", "pid": 7}                {"ev": "pong"}
              {"ev": "begun", "id": ..., "n": 1}                           runs wait for each other
              {"ev": "out", "id": ..., "n": 2, "stream": "stdout", "b64": ...}     at most 32 KiB of output each
              {"ev": "result", "id": ..., "n": 3, "text": {mime: b64}, "images": {mime: b64}}
              {"ev": "error", "id": ..., "n": 4, "name": b64, "message": b64, "traceback": b64}
              {"ev": "done", "id": ..., "n": 5, "count": 3, "interrupted": false}  once per run, after all of its output

Content of user code is base64 (b64; text is UTF-8): so the client can see that a line is small in structure
before it parses it.

A run is known by its id. When a client asks for one that it has asked for before, because a connection broke, the
code does not run again: the client gets the events of that run after number `after` (see `Memory`), then what
follows. Several clients may read the events; each looks at those of its own runs. Every event stands between two line
ends, so that who begins to read in the middle of a line can tell where the next one begins; a request that is not
JSON is half of one whose connection broke, and ignored.

What keeps it standing (design decision 10): user code never sees the two protocol descriptors. Descriptor 0 is
/dev/null; 1 and 2 are pipes into this process, so that what child processes and C code write is output like any
other. Each run starts with these three in place, whatever the last one did to them.

`python3 -u kernel.py LOCK kernel.js` runs JavaScript: the same, but the code runs in a child process, which is `node
kernel.js`. That file says how the two speak.

Threads: the main thread runs user code; "reader" takes requests; "pump" passes output on. When either of these
two fails, or the client goes away, the process ends: the client sees its death, never a half-alive kernel.
"""

from __future__ import annotations

import ast
import base64
import builtins
import contextlib
import fcntl
import importlib.util
import io
import json
import linecache
import os
import queue
import re
import select
import signal
import sys
import termios
import threading
import traceback
import types
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from time import sleep
from typing import Any

CHUNK_BYTES = 32 * 1024
"""Output in one event."""

COALESCE_S = 0.005
"""How long the pump lets little output gather: a loop that prints makes one event, not hundreds."""

PIPE_BYTES = 256 * 1024
"""Size of an output pipe: more than the usual 64 KiB, because nobody drains it while C code holds the interpreter's
lock; not much more, because the kernel grants one user 64 MiB for all pipes."""

MAX_TEXT_CHARS = 256 * 1024
"""Characters of one text form of a result; also of an error's message and of its traceback."""

MAX_IMAGE_BYTES = 4 * 1024 * 1024
MAX_RUN_IMAGE_BYTES = 16 * 1024 * 1024
"""Decoded image bytes in one run."""

MAX_EVENT_BYTES = 7 * 1024 * 1024
"""Encoded forms of one result. The client refuses lines over 8 MiB."""

MAX_KEPT_BYTES = 4 * 1024 * 1024
"""Events that can be asked for again; the newest one is kept whatever its size."""

MAX_KEPT_RUNS = 1000
"""Runs whose ids are known, and how they ended."""

MAX_IDLE_BYTES = 64 * 1024
"""Output between runs (of threads and child processes) that is kept for the next run."""

INTERRUPT_STEP_S = 0.5
"""When a run has not ended this long after an interrupt, child processes of this group get it too."""

INTERRUPT_STEPS = 3

FIRST_PRIVATE_FD = 100
"""High, so that code which closes "all" of the low descriptors does not hit the protocol."""

YIELDED = 75
"""Exit code when another kernel has the lock."""

VALUE = "__sandbox_tools_value__"
"""Where a compiled cell leaves the value of its last expression."""

ENCODE = json.JSONEncoder().encode
DECODE = json.JSONDecoder().decode
"""Not `json.dumps` and `json.loads`: user code may replace those."""

CLASS_NAME = type.__dict__["__name__"].__get__
"""Not `__name__` of a class: its metaclass may have another one."""

SET_TRACE, SET_PROFILE = sys.settrace, sys.setprofile
"""User code may replace these in `sys`, too."""

MAIN_THREAD = threading.get_ident()

AWAITS = 0x80  # inspect.CO_COROUTINE

LIBRARY = re.compile(r"/lib(64)?/python3|^<frozen ")
"""Files whose frames are not the user's."""

TEXT_FORMS = (
    ("text/html", "_repr_html_"),
    ("text/markdown", "_repr_markdown_"),
    ("text/latex", "_repr_latex_"),
    ("image/svg+xml", "_repr_svg_"),
    ("application/json", "_repr_json_"),
)
IMAGE_FORMS = (("image/png", "_repr_png_"), ("image/jpeg", "_repr_jpeg_"))


def main() -> None:
    errors = private_copy(2)
    try:
        import faulthandler

        faulthandler.enable(errors, all_threads=False)  # says in which line a crash of C code happened
        lock, *node_program = sys.argv[1:]
        if not take(lock):
            os._exit(YIELDED)
        Kernel(*node_program).serve()
    except BaseException:
        os.write(errors, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        os._exit(70)


def take(lock: str) -> bool:
    """Take a lock until this process ends; tell whether no other process has it. Where there can be none, go on."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return True
    private = private_copy(fd)
    os.close(fd)  # before the lock is taken: closing any descriptor of the file frees it
    try:
        fcntl.lockf(private, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def private_copy(fd: int) -> int:
    """Return a copy of a descriptor that no child process gets and that is out of the way of user code."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_PRIVATE_FD)


def start_service(target: Callable[[], None], name: str) -> None:
    """Run `target` in a thread; when it ends, for whatever reason, the process ends."""

    def serve() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the main thread shall wake up for it
        try:
            target()
        finally:
            os._exit(71)

    threading.Thread(target=serve, name="sandbox-tools-" + name, daemon=True).start()


class Memory:
    """What the newest runs said."""

    def __init__(self) -> None:
        self._counts: dict[object, int] = {}
        self._ends: dict[object, bytes] = {}
        self._lines: deque[tuple[object, int, bytes]] = deque()
        self._bytes = 0

    def is_new(self, run_id: object) -> bool:
        """Tell whether a run was never asked for before; from now on it was."""
        if run_id in self._counts:
            return False
        self._counts[run_id] = 0
        if len(self._counts) > MAX_KEPT_RUNS:
            oldest = next(iter(self._counts))
            del self._counts[oldest]
            self._ends.pop(oldest, None)
        return True

    def line_of(self, event: dict[str, object]) -> bytes:
        """Return the line of an event; number and keep it when it belongs to a run."""
        run_id = event.get("id")
        if run_id is None:
            return line_of(event)
        event["n"] = self._counts[run_id] = self._counts.get(run_id, 0) + 1
        line = line_of(event)
        if event["ev"] == "done":
            self._ends[run_id] = line
        else:
            self._keep(run_id, self._counts[run_id], line)
        return line

    def lines_after(self, run_id: object, number: int) -> bytes:
        """Return what is kept of a run's events after the one with this number."""
        kept = [line for owner, n, line in self._lines if owner == run_id and n > number]
        return b"".join([*kept, self._ends.get(run_id, b"")])

    def _keep(self, run_id: object, number: int, line: bytes) -> None:
        self._lines.append((run_id, number, line))
        self._bytes += len(line)
        while self._bytes > MAX_KEPT_BYTES and len(self._lines) > 1:
            self._bytes -= len(self._lines.popleft()[2])


def line_of(event: Mapping[str, object]) -> bytes:
    return b"\n" + ENCODE(event).encode("ascii") + b"\n"


class Wire:
    """The way to the client. Only this class writes to it."""

    def __init__(self) -> None:
        self._memory = Memory()
        self.requests = private_copy(0)
        self._events = private_copy(1)
        self._lock = threading.Lock()
        self._pid = os.getpid()
        os.register_at_fork(after_in_child=self._close)

    def emit(self, **event: object) -> None:
        """Send one event; in a forked child, do nothing."""
        if not self.is_ours():
            return
        with self._lock:
            self._write(self._memory.line_of(event))

    def is_new(self, run_id: object, after: int) -> bool:
        """Tell whether a run was never asked for before. One that was: send what came after event `after`."""
        with self._lock:
            if self._memory.is_new(run_id):
                return True
            self._write(self._memory.lines_after(run_id, after))
            return False

    def _write(self, lines: bytes) -> None:
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(self._events, rest) :]

    def is_ours(self) -> bool:
        """Tell whether this is the process that the client started, and not a child that user code forked."""
        return os.getpid() == self._pid

    def _close(self) -> None:
        close_all(self.requests, self._events)


class Output:
    """Descriptors 1 and 2: pipes whose content goes to the client."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._lock = threading.Lock()
        self._run_id: object = None
        self._idle = Idle()
        self._inputs: dict[int, str] = {}
        self._streams: dict[int, io.TextIOWrapper] = {}
        self._ends = {0: private_copy(os.open(os.devnull, os.O_RDWR))}
        for name, fd in (("stdout", 1), ("stderr", 2)):
            read_end, self._ends[fd] = open_pipe()
            self._inputs[read_end] = name
        os.register_at_fork(after_in_child=self._close)

    def set_up(self) -> None:
        """Put the three standard descriptors and streams (back) in place."""
        for fd, end in self._ends.items():
            os.dup2(end, fd)
        sys.stdin = sys.__stdin__ = self._stream(0, "r")  # type: ignore[misc]  # Final in typeshed, not in fact
        sys.stdout = sys.__stdout__ = self._stream(1, "w")  # type: ignore[misc]  # the same
        sys.stderr = sys.__stderr__ = self._stream(2, "w")  # type: ignore[misc]  # the same

    def begin(self, run_id: object) -> None:
        """Name what comes from now on; what is already there keeps the name of before. Output of no run waits for the
        next one."""
        with self._lock:
            self._pass_on()
            self._run_id = run_id
            if run_id is not None:
                for name, data in self._idle.taken():
                    self._emit(name, data)

    def drain(self) -> None:
        """Pass on all that has been written so far; does not wait for what others go on writing."""
        if self._wire.is_ours():
            with self._lock:
                self._pass_on()

    def pump(self) -> None:
        """Pass output on as it comes; runs in a thread of its own."""
        poller = select.poll()
        for fd in self._inputs:
            poller.register(fd, select.POLLIN)
        while True:
            poller.poll()
            if max(map(bytes_waiting, self._inputs)) < CHUNK_BYTES:
                sleep(COALESCE_S)
            self.drain()

    def _pass_on(self) -> None:
        for fd, name in self._inputs.items():
            waiting = bytes_waiting(fd)
            while waiting > 0:
                data = os.read(fd, min(waiting, CHUNK_BYTES))
                waiting -= len(data)
                if self._run_id is None:
                    self._idle.add(name, data)
                else:
                    self._emit(name, data)

    def _emit(self, name: str, data: bytes) -> None:
        self._wire.emit(ev="out", id=self._run_id, stream=name, b64=b64(data))

    def _stream(self, fd: int, mode: str) -> io.TextIOWrapper:
        stream = self._streams.get(fd)
        if stream is None or stream.closed:
            raw = io.FileIO(fd, mode, closefd=False)
            buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
            stream = io.TextIOWrapper(buffer, "utf-8", "backslashreplace", line_buffering=True)
            self._streams[fd] = stream
        return stream

    def _close(self) -> None:
        close_all(*self._inputs)


class Idle:
    """Output that came while nothing ran."""

    def __init__(self) -> None:
        self._clear()

    def add(self, stream: str, data: bytes) -> None:
        kept = data[: self._room]
        self._room -= len(kept)
        self._dropped += len(data) - len(kept)
        if kept:
            self._pieces.append((stream, kept))

    def taken(self) -> list[tuple[str, bytes]]:
        """Return it, and be empty."""
        pieces = self._pieces
        if self._dropped:
            pieces.append(("stderr", b"\n[%d bytes of output between the calls are not kept]\n" % self._dropped))
        self._clear()
        return pieces

    def _clear(self) -> None:
        self._pieces: list[tuple[str, bytes]] = []
        self._room = MAX_IDLE_BYTES
        self._dropped = 0


def close_all(*fds: int) -> None:
    """Close the protocol in a forked child: it must not answer, nor keep the client waiting for the end."""
    for fd in fds:
        with contextlib.suppress(OSError):  # user code was faster
            os.close(fd)


def bytes_waiting(fd: int) -> int:
    """Return how much can be read from a pipe now."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def open_pipe() -> tuple[int, int]:
    """Return the private ends of a new, large pipe."""
    low = os.pipe()
    ends = private_copy(low[0]), private_copy(low[1])
    for fd in low:
        os.close(fd)
    with contextlib.suppress(OSError):  # the user's share of pipe memory is used up: the default size works too
        fcntl.fcntl(ends[1], 1031, PIPE_BYTES)  # F_SETPIPE_SZ, which `fcntl` has from 3.10
    return ends


def flush() -> None:
    """Write out what is still in buffers. User code may have put anything in place of the streams."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()  # type: ignore[union-attr]  # None or anything: the next line is the answer
        except Exception:
            continue


def line_buffer_c_output() -> None:
    """Make C code in this process print line by line; else its output comes with the next 4 KiB, or never."""
    try:
        import ctypes

        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, 1, 0)  # _IOLBF of glibc and musl
    except Exception:
        pass  # no ctypes, or another C library: only live output of C code is lost


class Interrupts:
    """SIGINT becomes KeyboardInterrupt in user code, and nowhere else.

    Attributes:
        pass_on: Called instead, when the code runs in another process.
    """

    def __init__(self) -> None:
        self._run_id: object = None
        self._over = threading.Event()
        self._over.set()
        self._interrupted = self._pending = False
        self._asked: deque[object] = deque(maxlen=100)
        self.pass_on: Callable[[], None] | None = None
        signal.signal(signal.SIGINT, self._on_signal)

    def begin(self, run_id: object) -> None:
        self._over = threading.Event()
        self._run_id = run_id
        self._interrupted = False
        self._pending = run_id in self._asked
        signal.signal(signal.SIGINT, self._on_signal)  # user code may have set its own

    def end(self) -> bool:
        """End the run; return whether an interrupt came before its end."""
        self._over.set()
        return self._interrupted

    def request(self, run_id: object) -> None:
        """Interrupt the main thread; when it stays in the run, its child processes too (`os.system` waits for one).
        A run that has not begun yet will end at once."""
        self._asked.append(run_id)  # before the look at what runs: it may begin now
        over = self._over
        if over.is_set() or run_id != self._run_id:
            return
        signal.pthread_kill(MAIN_THREAD, signal.SIGINT)
        for _ in range(INTERRUPT_STEPS):
            if over.wait(INTERRUPT_STEP_S):
                return
            self._interrupted = True
            if os.getpgrp() == os.getpid():
                os.killpg(0, signal.SIGINT)

    def deliver(self) -> None:
        """Raise the interrupt that has come, if one has."""
        if self._pending:
            self._pending = False
            self._interrupted = True
            raise KeyboardInterrupt

    def _on_signal(self, signum: int, frame: types.FrameType | None) -> None:
        if self._over.is_set():
            return
        if self.pass_on is not None:
            self._interrupted = True
            self.pass_on()
            return
        self._pending = True
        if interruptible(frame):
            self.deliver()


def call_user(function: Callable[..., object], *arguments: object) -> None:
    """Call what may run user code. Only inside this call an interrupt raises. What traces that code, as a debugger
    does, ends with it: it would trace this program next, and what it raises would end it."""
    try:
        function(*arguments)
    finally:
        SET_TRACE(None)
        SET_PROFILE(None)


UNINTERRUPTIBLE = {Wire.emit.__code__, Output.drain.__code__}
"""Half an event would break the protocol."""


def interruptible(frame: types.FrameType | None) -> bool:
    """Tell whether an exception may be raised in this frame."""
    while frame is not None and frame.f_code not in UNINTERRUPTIBLE:
        if frame.f_code is call_user.__code__:
            return True
        frame = frame.f_back
    return False


class Display:
    """Makes results of values."""

    def __init__(self, wire: Wire, output: Output, interrupts: Interrupts) -> None:
        self._wire = wire
        self._output = output
        self._interrupts = interrupts
        self._run_id: object = None
        self._image_bytes = 0

    def begin(self, run_id: object) -> None:
        self._run_id = run_id
        self._image_bytes = 0

    def display(self, *values: object) -> None:
        """Show each value as a result."""
        for value in values:
            text, images, notices = forms_of(value)
            self._show(text, images, notices)

    def show_figures(self) -> None:
        """Show and close the open figures of pyplot."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        for number in getattr(pyplot, "get_fignums", list)():
            figure = pyplot.figure(number)  # type: ignore[union-attr]  # it has figures, so it is there
            buffer = io.BytesIO()
            try:
                figure.savefig(buffer, format="png", bbox_inches="tight")
            finally:  # a figure that cannot be drawn shall not fail every later run
                pyplot.close(figure)  # type: ignore[union-attr]  # the same
            self._show({"text/plain": repr(figure)}, {"image/png": buffer.getvalue()}, [])

    def _show(self, text: dict[str, str], images: dict[str, bytes], notices: list[str]) -> None:
        flush()
        self._output.drain()  # what was printed before stands before
        images = self._within_budget(images, notices)
        plain = text.pop("text/plain")
        room = MAX_EVENT_BYTES - len(b64(plain))
        encoded_images, room = fit(images, room, notices)
        encoded_text, _ = fit(text, room, notices)
        encoded_text["text/plain"] = b64("\n".join([plain, *notices]))
        self._wire.emit(ev="result", id=self._run_id, text=encoded_text, images=encoded_images)
        self._interrupts.deliver()

    def _within_budget(self, images: dict[str, bytes], notices: list[str]) -> dict[str, bytes]:
        kept = {}
        for mime, data in images.items():
            if len(data) > MAX_IMAGE_BYTES or self._image_bytes + len(data) > MAX_RUN_IMAGE_BYTES:
                notices.append(f"[{mime} of {len(data)} bytes not shown: too large]")
                continue
            self._image_bytes += len(data)
            kept[mime] = data
        return kept


def fit(forms: Mapping[str, str | bytes], room: int, notices: list[str]) -> tuple[dict[str, str], int]:
    """Return the encoded forms that fit into an event, and the room that is left; add a notice for the others."""
    encoded = {}
    for mime, form in forms.items():
        code = b64(form)
        if len(code) > room:
            notices.append(f"[{mime} not shown: the result is too large]")
            continue
        encoded[mime] = code
        room -= len(code)
    return encoded, room


def b64(content: str | bytes) -> str:
    """Return content in the alphabet of the protocol."""
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")  # it may hold lone surrogates
    return base64.b64encode(content).decode("ascii")


def forms_of(value: object) -> tuple[dict[str, str], dict[str, bytes], list[str]]:
    """Return the text forms, the images, and notices about what is missing. A form that fails is left out."""
    bundle = ask(value, "_repr_mimebundle_")
    offered = dict(bundle) if isinstance(bundle, dict) else {}
    notices: list[str] = []
    text = {"text/plain": clip(plain_text(value, offered.get("text/plain")))}
    for mime, method in TEXT_FORMS:
        form = as_text(mime, offered[mime] if mime in offered else ask(value, method))
        if form is not None and len(form) > MAX_TEXT_CHARS:
            notices.append(f"[{mime} not shown: {len(form)} characters]")
        elif form is not None:
            text[mime] = form
    images = {}
    for mime, method in IMAGE_FORMS:
        image = as_bytes(offered[mime] if mime in offered else ask(value, method))
        if image:
            images[mime] = image
    return text, images, notices


def ask(value: object, method: str) -> object:
    """Return one representation, or None. The look-up is on the class: instances may answer to any name."""
    try:
        if getattr(type(value), method, None) is None:
            return None
        form = getattr(value, method)()
    except Exception:
        return None
    return form[0] if isinstance(form, tuple) and form else form


def plain_text(value: object, offered: object) -> str:
    if isinstance(offered, str):
        return offered
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__}: its repr raised {type(error).__name__}>"


def as_text(mime: str, form: object) -> str | None:
    if mime == "application/json" and form is not None:
        try:
            return json.dumps(form, allow_nan=False)
        except Exception:
            return None
    return form if isinstance(form, str) else None


def as_bytes(form: object) -> bytes | None:
    if isinstance(form, str):  # Jupyter's convention for a bundle
        try:
            return base64.b64decode(form)
        except ValueError:
            return None
    return form if isinstance(form, bytes) else None


def clip(text: str) -> str:
    """Return at most `MAX_TEXT_CHARS`, cut between words where there are any, and a notice."""
    if len(text) <= MAX_TEXT_CHARS:
        return text
    gap = max(text.rfind(mark, MAX_TEXT_CHARS - 4096, MAX_TEXT_CHARS) for mark in " \n")
    end = gap if gap > 0 else MAX_TEXT_CHARS
    return f"{text[:end]}\n[{len(text) - end} more characters not shown]"


def traceback_of(error: BaseException) -> str:
    """Return the traceback without the frames of this file and of libraries."""
    report = traceback.TracebackException(type(error), error, error.__traceback__)
    drop_foreign_frames(report, set())
    return "".join(report.format() if report.stack else report.format_exception_only())


def drop_foreign_frames(report: traceback.TracebackException | None, seen: set[int]) -> None:
    if report is None or id(report) in seen:
        return
    seen.add(id(report))
    report.stack = traceback.StackSummary.from_list([frame for frame in report.stack if is_users(frame.filename)])
    for other in (report.__cause__, report.__context__, *(getattr(report, "exceptions", None) or ())):
        drop_foreign_frames(other, seen)


def is_users(filename: str) -> bool:
    return filename != call_user.__code__.co_filename and not LIBRARY.search(filename)


class Namespace:
    """The user's `__main__` and what runs in it."""

    def __init__(self) -> None:
        self.count = 0
        self._loop: object = None
        module = types.ModuleType("__main__")
        self.variables = module.__dict__
        self._own_main = sys.modules["__main__"]  # kept: this very code runs in it
        sys.modules["__main__"] = module
        sys.argv = [""]
        if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
            del sys.path[0]
        sys.path.insert(0, "")

    def execute(self, source: str) -> object:
        """Run one cell; return the value of its last expression."""
        self.count += 1
        cell = f"<cell {self.count}>"
        linecache.cache[cell] = (len(source), None, source.splitlines(True), cell)
        tree = keep_last_value(ast.parse(source, cell))
        code = compile(tree, cell, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        self.variables.pop(VALUE, None)
        coroutine = eval(code, self.variables)
        if code.co_flags & AWAITS:
            self._wait_for(coroutine)
        return self.variables.pop(VALUE, None)

    def _wait_for(self, coroutine: Coroutine[object, None, None]) -> None:
        import asyncio  # slow to import, and few cells await

        if not isinstance(self._loop, asyncio.AbstractEventLoop) or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(coroutine)
        try:
            self._loop.run_until_complete(task)
        finally:
            if not task.done():  # interrupted: its `finally` blocks run now, not in a later cell
                task.cancel()
                self._loop.run_until_complete(asyncio.wait([task], timeout=1))
            elif not task.cancelled():
                task.exception()  # else asyncio complains that nobody looked at it


def keep_last_value(tree: ast.Module) -> ast.Module:
    """Make the last statement, if it is an expression, an assignment to `VALUE`."""
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = tree.body[-1]
        target = ast.Name(VALUE, ast.Store())
        tree.body[-1] = ast.copy_location(ast.Assign([target], last.value), last)
        ast.fix_missing_locations(tree)
    return tree


class Node:
    """JavaScript: a child process that runs it, and ends this one when it ends."""

    def __init__(self, program: str, display: Display) -> None:
        self.count = 0
        self._cell = ""
        self._sends = False
        self._program = program
        self._display = display
        requests, replies = os.pipe(), os.pipe()
        self._child_ends = requests[0], replies[1]
        self._requests = private_copy(requests[1])
        self._replies = io.BufferedReader(io.FileIO(private_copy(replies[0])))
        close_all(requests[1], replies[0])
        self._wait: Callable[[], int] = int

    def start(self) -> None:
        import subprocess

        command = ["node", "--no-force-async-hooks-checks", self._program, *map(str, self._child_ends)]
        try:
            self._wait = subprocess.Popen(command, pass_fds=self._child_ends).wait
        except OSError:
            os._exit(127)  # as a shell says that there is no such program
        close_all(*self._child_ends)

    def execute(self, source: str) -> None:
        """Run code; raises ForeignError."""
        self.count += 1
        self._cell = f"cell-{self.count}"
        self._sends = True
        self._send({"op": "run", "cell": self._cell, "code": source})
        self._sends = False
        while True:
            event = self._next_event()
            if event["ev"] == "result":
                self._display.display(Bundle(event["forms"]))
            elif event["cell"] == self._cell:
                break
        if "error" in event:
            raise ForeignError(**event["error"])

    def interrupt(self) -> None:
        """Have the code interrupted; called by a signal, which comes again if it comes in the middle of a request."""
        if not self._sends:
            self._send({"op": "interrupt", "cell": self._cell})

    def _send(self, request: dict[str, object]) -> None:
        rest = ENCODE(request).encode("ascii") + b"\n"
        with contextlib.suppress(OSError):  # it has ended: its replies say so
            while rest:
                rest = rest[os.write(self._requests, rest) :]

    def _next_event(self) -> dict[str, Any]:
        line = self._replies.readline()
        if line.endswith(b"\n"):
            event: dict[str, Any] = DECODE(line.decode("utf-8", "replace"))
            return event
        status = self._wait()
        if status < 0:
            with contextlib.suppress(OSError):  # it cannot be set, for SIGKILL
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)


class Bundle:
    """A value of another language, in the forms that it has."""

    def __init__(self, forms: dict[str, object]) -> None:
        self._forms = forms

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        return self._forms


class ForeignError(Exception):
    """An error of another language."""

    def __init__(self, name: str, message: str, stack: str) -> None:
        super().__init__(message)
        self.name = name
        self.stack = stack


class FigureHook:
    """An import hook: `pyplot.show()` shows figures at that point, as it does in a notebook."""

    def __init__(self, show: Callable[..., None]) -> None:
        self._show = show

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != "matplotlib.pyplot":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]  # a finder by shape
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            self._wrap(spec.loader)
        return spec

    def _wrap(self, loader: object) -> None:
        load = loader.exec_module  # type: ignore[attr-defined]  # every loader has it

        def load_and_patch(module: types.ModuleType) -> None:
            load(module)
            module.show = lambda *a, **b: self._show()  # type: ignore[attr-defined]  # pyplot wants a plain function

        loader.exec_module = load_and_patch  # type: ignore[attr-defined]  # the same


def no_input(prompt: object = "") -> str:
    """Stand in for `input`."""
    raise EOFError("input() cannot be used here: nobody is there to type. Put the value into the code.")


class Kernel:
    """Takes requests one by one."""

    def __init__(self, node_program: str | None = None) -> None:
        self._requests: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
        self._wire = Wire()
        self._output = Output(self._wire)
        self._interrupts = Interrupts()
        self._display = Display(self._wire, self._output, self._interrupts)
        self._namespace = Namespace()
        self._node = None if node_program is None else Node(node_program, self._display)

    def serve(self) -> None:
        """Run until the client goes away."""
        self._set_up()
        self._wire.emit(ev="ready", python=".".join(map(str, sys.version_info[:3])), pid=os.getpid())
        while True:
            request = self._requests.get()
            self._run(request["id"], request["code"])

    def _set_up(self) -> None:
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)  # so that the client can end what this kernel started
        self._output.set_up()
        line_buffer_c_output()
        os.environ.setdefault("MPLBACKEND", "Agg")
        sys.meta_path.insert(0, FigureHook(self._display.show_figures))  # type: ignore[arg-type]  # a finder by shape
        builtins.input = no_input
        # Python 3.12 warns each `os.fork()` of the threads above, which a fork does not disturb.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        self._namespace.variables["display"] = self._display.display
        if self._node is not None:
            self._node.start()
            self._interrupts.pass_on = self._node.interrupt
        start_service(self._output.pump, "pump")
        start_service(self._read, "reader")

    def _read(self) -> None:
        """Take requests; the end of the stream ends the process, whatever it is doing."""
        for line in io.BufferedReader(io.FileIO(self._wire.requests, closefd=False)):
            try:
                request = DECODE(line.decode())
            except ValueError:
                continue
            if request["op"] == "run":
                if self._wire.is_new(request["id"], request.get("after", 0)):
                    self._requests.put(request)
            elif request["op"] == "interrupt":
                self._interrupts.request(request["id"])
            else:
                self._wire.emit(ev="pong")
        os._exit(0)

    def _run(self, run_id: object, source: object) -> None:
        self._output.set_up()
        self._wire.emit(ev="begun", id=run_id)
        self._output.begin(run_id)
        self._display.begin(run_id)
        self._interrupts.begin(run_id)
        error = attempt(self._evaluate, source)
        if not self._wire.is_ours():
            leave_forked_child(error)
        if not isinstance(error, KeyboardInterrupt):
            failure = attempt(self._display.show_figures)
            error = failure if error is None else error
        attempt(flush)
        self._output.drain()
        if error is not None:
            self._wire.emit(ev="error", id=run_id, **{key: b64(text) for key, text in describe(error).items()})
        interrupted = self._interrupts.end()
        self._output.begin(None)
        count = self._namespace.count if self._node is None else self._node.count
        self._wire.emit(ev="done", id=run_id, count=count, interrupted=interrupted)

    def _evaluate(self, source: str) -> None:
        self._interrupts.deliver()
        if self._node is not None:
            self._node.execute(source)
            return
        value = self._namespace.execute(source)
        if value is not None:
            self._namespace.variables["_"] = value
            self._display.display(value)


def attempt(function: Callable[..., object], *arguments: object) -> BaseException | None:
    """Call what may run user code; return the exception that it raised."""
    try:
        call_user(function, *arguments)
    except BaseException as error:
        return error
    return None


def describe(error: BaseException) -> dict[str, str]:
    """Return what an error event says. The exception's own code may raise, or never end."""
    if isinstance(error, ForeignError):
        return {"name": clip(error.name), "message": clip(str(error)), "traceback": clip(error.stack)}
    name = CLASS_NAME(type(error))
    said = {"name": name, "message": "", "traceback": f"{name}\n"}
    attempt(lambda: said.update(message=clip(str(error))))
    attempt(lambda: said.update(traceback=clip(traceback_of(error))))
    return said


def leave_forked_child(error: BaseException | None) -> None:
    """End a child that user code forked and that ran to the end of the cell, as a script would."""
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else 1 if error.code else 0
    elif error is not None:
        attempt(lambda: sys.stderr.write(traceback_of(error)))
    attempt(flush)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
