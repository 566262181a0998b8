"""One run of code in a context: what came of it so far."""

from __future__ import annotations

import uuid
from typing import Final

import anyio

from sandbox_tools.runtime import CodeError, OutputSink, OutputStream, RichResult
from sandbox_tools.wire.kernel import Begun, Done, OfRun, Printed, Raised, Shown, run_request

MAX_RESULTS: Final = 64
MAX_RESULT_CHARS: Final = 2 * 1024 * 1024
MAX_RESULT_IMAGE_BYTES: Final = 16 * 1024 * 1024
"""What one run may show; the rest is dropped with a notice."""


class Run:
    """One run of code.

    Attributes:
        id: By which the kernel knows it: asked for again, it is answered and not run again.
        stirred: Set when there is something to do for whoever waits: it is over, or must be asked for again.
        heard: Set when something came of it, or the connection to its kernel is a new one.
        over: Set when nothing more will come: `done` says whether the code ended, or the process did.
        begun: It has had its turn.
        asked: It may have reached the kernel.
        stopping: Whether we interrupted it.
        taken_back: It did not have its turn, and will not have it.
        sink_failure: The first exception that the caller's sink raised; it is not called after that.
    """

    def __init__(self, code: str, on_output: OutputSink) -> None:
        self.id = uuid.uuid4().hex
        self.stirred = anyio.Event()
        self.heard = anyio.Event()
        self.over = anyio.Event()
        self.begun = False
        self.asked = False
        self.done: Done | None = None
        self.error: CodeError | None = None
        self.stopping = False
        self.taken_back = False
        self.sink_failure: Exception | None = None
        self._code = code
        self._on_output = on_output
        self._number = 0
        self._results: list[RichResult] = []
        self._dropped = 0
        self._chars = MAX_RESULT_CHARS
        self._image_bytes = MAX_RESULT_IMAGE_BYTES

    @property
    def results(self) -> tuple[RichResult, ...]:
        """What it showed, and a notice when some of that was dropped."""
        if not self._dropped:
            return tuple(self._results)
        notice = RichResult(text={"text/plain": f"[{self._dropped} more results are not shown]"})
        return (*self._results, notice)

    def request(self) -> bytes:
        """Return the request for it, or for what we have not seen of it."""
        return run_request(self.id, self._code, after=self._number)

    def end(self) -> None:
        """Nothing more will come."""
        self.over.set()
        self.stir()

    def stir(self) -> None:
        """Wake up who waits for it."""
        self.heard.set()
        self.stirred.set()

    def take(self, arrived: OfRun) -> None:
        """Take an event; one of another run, or one that came before, is ignored."""
        if arrived.run_id != self.id or arrived.number <= self._number or self.over.is_set():
            return
        if arrived.number > self._number + 1:
            self._print("stderr", b"\n[the connection broke: some of the output and results before this are lost]\n")
        self._number = arrived.number
        self.begun = True
        self.heard.set()
        event = arrived.event
        if isinstance(event, Printed):
            self._print(event.stream, event.data)
        elif isinstance(event, Shown):
            self._show(event)
        elif isinstance(event, Raised):
            self.error = CodeError(name=event.name, message=event.message, traceback=event.traceback)
        elif not isinstance(event, Begun):
            self.done = event
            self.end()

    def _print(self, stream: OutputStream, data: bytes) -> None:
        if self.sink_failure is None:
            try:
                self._on_output(stream, data)
            except Exception as exc:  # noqa: BLE001 - raised to the caller of the run, not to the reader's task group
                self.sink_failure = exc

    def _show(self, shown: Shown) -> None:
        chars = sum(map(len, shown.text.values()))
        image_bytes = sum(map(len, shown.images.values()))
        if len(self._results) == MAX_RESULTS or chars > self._chars or image_bytes > self._image_bytes:
            self._dropped += 1
            return
        self._chars -= chars
        self._image_bytes -= image_bytes
        self._results.append(RichResult(text=shown.text, images=shown.images))
