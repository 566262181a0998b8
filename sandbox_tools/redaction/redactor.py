"""Replacing secret values, in whole texts and in streams that are cut anywhere."""

from __future__ import annotations

import logging
from typing import Final

from sandbox_tools.redaction.budget import Budget
from sandbox_tools.redaction.marks import WITHHELD, find_mark, placeholder
from sandbox_tools.redaction.matcher import Match
from sandbox_tools.redaction.registry import MIN_CHARS, Registry
from sandbox_tools.redaction.secret import Opaque
from sandbox_tools.redaction.shapes import find_shapes
from sandbox_tools.redaction.tally import Counts
from sandbox_tools.redaction.walk import Walk

_LOG: Final = logging.getLogger(__name__)

_PIECE_BYTES: Final = 64 * 1024
"""Scanned at once: small enough for the processor's cache, large enough to make the work per piece disappear."""


class Redactor(Opaque):
    """Replaces the values in a registry. Safe to share between threads.

    What cannot be redacted, because of an error or because it takes too much work (see budget.py), is withheld; the
    original is never returned instead.
    """

    __slots__ = ("_registry", "_unknown_in_output")

    def __init__(self, registry: Registry, *, unknown_in_output: bool = True) -> None:
        """Make a redactor.

        Args:
            registry: The values to replace.
            unknown_in_output: Whether what looks like a token that nobody registered (see shapes.py) is replaced in
                what a sandbox printed, too. In errors and logs it always is.
        """
        self._registry = registry
        self._unknown_in_output = unknown_in_output

    def text(self, value: str) -> str:
        """Return `value` redacted; the same object when there is nothing to redact. Lone surrogates are kept."""
        return self._text(value, Budget(), unknown=True)

    def output(self, value: str) -> str:
        """As `text`, for what a sandbox printed: tokens that nobody registered may be kept there."""
        return self._text(value, Budget(), unknown=self._unknown_in_output)

    def data(self, value: bytes) -> bytes:
        """Return `value` redacted; the same object when there is nothing to redact. Registered values only."""
        return self._data(value, Budget())

    @property
    def margin(self) -> int:
        """The most bytes that one registered value covers, in any of its forms."""
        return self._registry.patterns().longest_match

    def walk(self, value: object) -> object:
        """Return a copy of a JSON-like value with every string in it redacted as by `output`, keys too.

        None, bool, int and float are kept; dict, list, tuple, str and bytes keep their shape, a subclass becomes the
        plain type. Keys that collide once redacted get a suffix (`#2`). Anything else, a cycle, and what is nested
        deeper than 64 is withheld. The whole value has one budget.
        """
        budget = Budget()
        unknown = self._unknown_in_output
        walk = Walk(
            text=lambda text: self._text(text, budget, unknown=unknown), data=lambda data: self._data(data, budget)
        )
        try:
            return walk.value(value)
        except Exception:  # noqa: BLE001 - whatever went wrong, the original must not go on
            self._registry.tally.count_withheld()
            return WITHHELD

    def find_placeholder(self, text: str) -> str | None:
        """Return the first mark in a text that a redactor of this registry may have written; None: there is none."""
        return find_mark(text) and find_mark(text, self._registry.names())

    def trips(self, data: bytes, channel: str) -> bool:
        """Tell whether a registered value is in bytes that are about to leave by `channel`; then they must not.

        The tripwire: it rewrites nothing, counts, and logs the channel and the name. It should never find anything,
        because everything was redacted before.
        """
        name = self._registry.first_in(data)
        if name is None:
            return False
        self._registry.tally.count_blocked(channel)
        _LOG.error("blocked: %s was about to leave by %s", name, channel)
        return True

    def counts(self) -> Counts:
        """Return how often something was redacted with this registry, by this and by every other redactor of it."""
        return self._registry.tally.counts()

    def stream(self, *, after_gap: bool = False) -> StreamRedactor:
        """Return a redactor for one stream of bytes that arrives in pieces.

        Args:
            after_gap: What came before was not looked at. The first `margin` bytes are left out: they may belong to a
                secret that began before them.
        """
        return StreamRedactor(self._registry, covered=self.margin if after_gap else 0)

    def _text(self, value: str, budget: Budget, *, unknown: bool) -> str:
        if len(value) < MIN_CHARS:  # shorter than any form of any secret
            return value
        data = value.encode("utf-8", "surrogatepass")
        redacted = self._data(data, budget)
        redacted = self._without_unknown(redacted, budget) if unknown else redacted
        return value if redacted is data else _decoded(redacted)

    def _without_unknown(self, data: bytes, budget: Budget) -> bytes:
        """Return `data` without what looks like a token; the same object when nothing does."""
        try:
            budget.start(len(data))
            matches = find_shapes(data, budget)
            return self._replaced(data, matches, budget) if matches else data
        except Exception:  # noqa: BLE001 - whatever went wrong, the original must not go on
            self._registry.tally.count_withheld()
            return WITHHELD.encode()

    def _replaced(self, data: bytes, matches: list[Match], budget: Budget) -> bytes:
        out: list[bytes] = []
        done = 0
        for start, negative_size, label in matches:
            if start >= done:
                budget.count_hit()
                self._registry.tally.count_placeholder(label)
                out += (data[done:start], placeholder(label).encode())
            done = max(done, start - negative_size)
        return b"".join((*out, data[done:]))

    def _data(self, value: bytes, budget: Budget) -> bytes:
        before = budget.hits
        stream = StreamRedactor(self._registry, budget)
        redacted = stream.finish(value)
        return value if budget.hits == before and not stream.withheld else redacted


class StreamRedactor(Opaque):
    """Redacts one stream. The result does not depend on where the stream was cut into pieces.

    Use one for each stream: stdout and stderr that are shown apart are two. A value that is registered while a
    stream runs is redacted from the next piece on, also where it began in bytes that are still held back.

    Attributes:
        withheld: Whether the rest of the stream is withheld. `feed` then returns nothing any more.
    """

    __slots__ = ("_budget", "_covered", "_held", "_registry", "withheld")

    def __init__(self, registry: Registry, budget: Budget | None = None, covered: int = 0) -> None:
        self._registry = registry
        self._budget = budget or Budget()
        self._held = b""
        self._covered = covered
        """How many of the held bytes a placeholder already stands for."""
        self.withheld = False

    def feed(self, data: bytes) -> bytes:
        """Take a piece and return what is certain by now. At most a few KB are held back (the longest form)."""
        return self._redact(data, final=False)

    def peek(self) -> bytes:
        """Return what is held back, if it is too little to tell a secret, and do not return it again.

        For who reads a stream that may pause here for long: the end of a line, a prompt. What turns out to be the
        start of a secret is then shown without a placeholder: at most 7 characters of it.
        """
        if self._registry.patterns().could_tell(self._held):
            return b""
        shown = self._held[self._covered :]
        self._covered = len(self._held)
        return shown

    def close(self) -> bytes:
        """End the stream and return the rest of it."""
        return self.finish(b"")

    def finish(self, data: bytes) -> bytes:
        """Take the last piece and return all that is left."""
        return self._redact(data, final=True)

    def _redact(self, data: bytes, *, final: bool) -> bytes:
        out: list[bytes] = []
        try:
            if not self.withheld:
                self._advance(data, out, final=final)
        except Exception:  # noqa: BLE001 - whatever went wrong, the rest must not go on
            self.withheld = True
            self._registry.tally.count_withheld()
            self._held = b""
            out.append(WITHHELD.encode())
        return b"".join(out)

    def _advance(self, data: bytes, out: list[bytes], *, final: bool) -> None:
        patterns = self._registry.patterns()
        self._budget.start(len(data))
        for at in range(0, max(len(data), 1), _PIECE_BYTES):
            seen = self._held + data[at : at + _PIECE_BYTES]
            is_last = final and at + _PIECE_BYTES >= len(data)
            matches, pending = patterns.scan(seen)
            limit = len(seen) if is_last else len(seen) - pending
            self._budget.check_time()
            self._emit(seen, matches, limit, out)

    def _emit(self, seen: bytes, matches: list[Match], limit: int, out: list[bytes]) -> None:
        """Pass on what is before `limit`. All matches that begin before it are known, so that much is certain.

        Matches that overlap share a placeholder, with the name of the first; those that only touch do not. A match
        that reaches beyond the limit is not cut: the rest of it is remembered as covered.
        """
        done = self._covered
        for start, negative_size, name in matches:
            if start >= limit:
                break
            if start >= done:
                out.append(seen[done:start])
                self._budget.count_hit()
                self._registry.tally.count_placeholder(name)
                out.append(placeholder(name).encode())
            done = max(done, start - negative_size)
        out.append(seen[done:limit])
        self._held = seen[limit:]
        self._covered = max(0, done - limit)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # a piece of a value ended within a character
        return data.decode("utf-8", "replace")
