"""With Hyperscan, where it is installed, the same is found as without; nothing is missed while it gets ready."""

from __future__ import annotations

import os
import secrets
import string
import sys
import threading
from collections.abc import Iterable, Iterator
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_tools.redaction import Redactor, Registry, literals, registry
from sandbox_tools.redaction.literals import Literals, LiteralSearch
from sandbox_tools.redaction.matcher import Matcher
from sandbox_tools.redaction.patterns import Patterns
from tests.unit.redaction_cases import redact_in_pieces, registry_of
from tests.unit.test_redaction import outputs, sizes

pytestmark = pytest.mark.skipif(
    not literals.IS_INSTALLED and "CI" not in os.environ, reason="Hyperscan is not installed (the extra `fast`)"
)

WAIT_S = 60


@pytest.fixture(autouse=True, scope="module")
def _short_texts_too() -> Iterator[None]:
    with patch.object(literals, "MIN_BYTES", 0):
        yield


at_once = patch.object(literals, "BYTES_PER_LITERAL", 0)
never = patch.object(literals, "BYTES_PER_LITERAL", sys.maxsize)


def prepare(patterns: Patterns) -> None:
    """Have `patterns` search with Hyperscan from now on."""
    with at_once:
        patterns.scan(b"." * 16 + b"0" * 16)
    wait_until_prepared()
    assert use_hyperscan(patterns)


def wait_until_prepared() -> None:
    for thread in threading.enumerate():
        if thread.name == literals.THREAD_NAME:
            thread.join(WAIT_S)
            assert not thread.is_alive()


def use_hyperscan(patterns: Patterns) -> bool:
    """Whether every matcher that has patterns is ready for it, and there is one."""
    used = [matcher for matcher in patterns._matchers() if matcher.longest]
    return bool(used) and all(matcher._literals.are_absent(b"nothing") for matcher in used)


def test_a_redactor_with_hyperscan_finds_and_writes_the_same_wherever_a_stream_is_cut() -> None:
    fast, plain = registry_of(), registry_of()
    prepare(fast.patterns())

    @settings(max_examples=250, deadline=None)
    @given(outputs, sizes)
    def check(output: bytes, sizes: list[int]) -> None:
        assert fast.patterns().find(output) == plain.patterns().find(output)
        whole = Redactor(plain).data(output)
        assert Redactor(fast).data(output) == whole
        assert redact_in_pieces(Redactor(fast), output, sizes) == whole

    check()
    assert use_hyperscan(fast.patterns())
    assert not use_hyperscan(plain.patterns())


texts = (
    st.text(st.sampled_from("ab"), min_size=8, max_size=40)
    | st.text(st.sampled_from("aB3-/+\0\n\u00e9\u20ac"), min_size=8, max_size=90)
    | st.text(st.sampled_from(string.ascii_letters + string.digits + "-_"), min_size=16, max_size=90)
)


@st.composite
def overlapping(draw: st.DrawFn) -> list[str]:
    """Return values of which some begin as another one ends, or are in it, or are there again and again."""
    values = draw(st.lists(texts, min_size=1, max_size=3))
    first = values[0]
    values += draw(st.sampled_from([[], [first[3:] + "xyz98765"], [first * 3], [first[:8] * 4], [first[::-1]]]))
    return values


around = st.binary(max_size=9) | st.sampled_from([b"\x1b[1m", b"\0", b" ", "\uff21".encode()])
cuts = st.tuples(st.integers(0, 10_000), st.sampled_from([0, 0, 0, 1, 5, 9]), st.sampled_from([None, None, -1, -7]))


@settings(max_examples=50, deadline=None)
@given(overlapping(), st.lists(cuts | around, max_size=12))
def test_values_of_every_kind_are_found_alike(
    values: list[str], parts: list[tuple[int, int, int | None] | bytes]
) -> None:
    fast, plain = (Patterns.merged([Patterns.of(str(n), value) for n, value in enumerate(values)]) for _ in range(2))
    prepare(fast)
    forms = [form for matcher in plain._matchers() for form in [*matcher._fragments, *_whole_forms(matcher)]]
    cut = (part if isinstance(part, bytes) else forms[part[0] % len(forms)][part[1] : part[2]] for part in parts)
    output = b"".join(cut)
    assert fast.scan(output) == plain.scan(output)
    assert use_hyperscan(fast)


def test_every_pattern_alone_is_noticed() -> None:
    patterns = registry_of().patterns()
    prepare(patterns)
    for matcher in patterns._matchers():
        forms = [*matcher._fragments, *_whole_forms(matcher)]
        assert [form for form in forms if matcher._literals.are_absent(b"-" + form + b"-")] == []
        assert forms


def _whole_forms(matcher: Matcher) -> list[bytes]:
    return [pattern.data for patterns in matcher._anchored.values() for pattern in patterns]


STEPS = st.lists(
    st.tuples(st.sampled_from(["register", "retire", "prepare", "search"]), st.integers(0, 5)), min_size=4, max_size=16
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_registering_and_retiring_leaves_both_alike(steps: list[tuple[str, int]]) -> None:
    values = [secrets.token_hex(12) for _ in range(6)]
    output = "\n".join([*values, *(value[2:19] for value in values), *(one + two for one, two in pairwise(values))])
    fast, plain = Registry(), Registry()
    handles: dict[int, tuple[registry.Secret, ...]] = {}
    with patch.object(registry, "MAX_RETIRED", 2):
        for step, number in steps:
            if step == "register":
                handles[number] = tuple(one.register(f"N{number}", values[number]) for one in (fast, plain))
            elif step == "retire" and number in handles:
                fast.retire(handles[number][0])
                plain.retire(handles[number][1])
            elif step == "prepare" and plain.names():
                prepare(fast.patterns())
            assert Redactor(fast).text(output) == Redactor(plain).text(output)


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.text(st.sampled_from("ab\0\n"), min_size=1, max_size=4).map(str.encode), min_size=1, max_size=9),
    st.text(st.sampled_from("ab\0\n"), max_size=30).map(str.encode),
)
def test_it_finds_nothing_exactly_where_nothing_is(values: set[bytes], data: bytes) -> None:
    assert LiteralSearch(values).finds_nothing(data) == (not any(value in data for value in values))


def test_what_is_registered_while_hyperscan_gets_ready_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    one, (first, second) = registry_of("SK"), (secrets.token_hex(16), secrets.token_hex(16))
    begun, may_go_on = threading.Event(), threading.Event()

    class _Slow(LiteralSearch):
        __slots__ = ()

        def __init__(self, values: Iterable[bytes]) -> None:
            super().__init__(values)
            begun.set()
            assert may_go_on.wait(WAIT_S)

    monkeypatch.setattr(literals, "LiteralSearch", _Slow)
    one.register("FIRST", first)
    with at_once:
        assert Redactor(one).text(f"{first} " * 3) == "[REDACTED:FIRST] " * 3
    assert begun.wait(WAIT_S)
    one.register("SECOND", second)
    assert Redactor(one).text(f"{first} {second}") == "[REDACTED:FIRST] [REDACTED:SECOND]"
    may_go_on.set()
    wait_until_prepared()
    assert not use_hyperscan(one.patterns())
    assert Redactor(one).text(f"{first} {second}") == "[REDACTED:FIRST] [REDACTED:SECOND]"
    monkeypatch.undo()
    prepare(one.patterns())
    assert Redactor(one).text(f"{first} {second}") == "[REDACTED:FIRST] [REDACTED:SECOND]"


def test_it_gets_ready_when_enough_was_searched_since_the_last_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(literals, "BYTES_PER_LITERAL", 100)
    strings = Literals()
    strings.add([b"first", b"second"])
    assert not strings.are_absent(b"." * 150)
    strings.add([b"third"])
    assert not any(strings.are_absent(b"." * 100) for _ in range(3))
    assert not _is_preparing()
    assert not strings.are_absent(b".")
    wait_until_prepared()
    assert strings.are_absent(b"." * 150)
    assert not strings.are_absent(b"a third")


def test_a_short_text_is_searched_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one = registry_of("SK")
    prepare(one.patterns())
    monkeypatch.setattr(literals, "MIN_BYTES", 100)
    monkeypatch.setattr(LiteralSearch, "finds_nothing", lambda *_: pytest.fail("used"))
    assert Redactor(one).text("." * 99) == "." * 99
    with pytest.raises(pytest.fail.Exception):
        Redactor(one).text("." * 100)


def _is_preparing() -> bool:
    return any(thread.name == literals.THREAD_NAME for thread in threading.enumerate())


def test_an_error_of_hyperscan_is_no_error_of_the_redactor(monkeypatch: pytest.MonkeyPatch) -> None:
    one, value = Registry(), secrets.token_hex(16)
    one.register("TOKEN", value)
    prepare(one.patterns())

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(LiteralSearch, "finds_nothing", fail)
    assert Redactor(one).text(f"<{value}>") == "<[REDACTED:TOKEN]>"
    monkeypatch.undo()
    assert not use_hyperscan(one.patterns())
    assert Redactor(one).text(f"<{value}>") == "<[REDACTED:TOKEN]>"


@pytest.mark.parametrize("broken", ["__init__", "start"])
def test_what_cannot_be_prepared_is_tried_once_and_everything_is_found(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, value, tries = Registry(), secrets.token_hex(16), []
    one.register("TOKEN", value)
    used = [matcher for matcher in one.patterns()._matchers() if matcher.longest]

    def fail(*_: object) -> None:
        tries.append(broken)
        raise RuntimeError

    monkeypatch.setattr(threading.Thread if broken == "start" else LiteralSearch, broken, fail)
    with at_once:
        for _ in range(5):
            assert Redactor(one).text(f"<{value}>") == "<[REDACTED:TOKEN]>"
            wait_until_prepared()
    assert len(tries) == len(used)


def test_threads_search_at_the_same_time() -> None:
    one, values = Registry(), [secrets.token_hex(16) for _ in range(4)]
    for number, value in enumerate(values):
        one.register(f"N{number}", value)
    prepare(one.patterns())
    start, wrong = threading.Barrier(4), []

    def search(number: int) -> None:
        text, expected = f"{values[number]}\n" * 300, f"[REDACTED:N{number}]\n" * 300
        start.wait(WAIT_S)
        wrong.extend(number for _ in range(20) if Redactor(one).text(text) != expected)

    threads = [threading.Thread(target=search, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert wrong == []
    assert use_hyperscan(one.patterns())


def test_values_are_found_while_others_are_registered_and_hyperscan_gets_ready_again_and_again() -> None:
    one, value, found = Registry(), secrets.token_hex(16), []
    one.register("TOKEN", value)
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            found.append(Redactor(one).text(f"a line with {value} in it"))

    with at_once:
        searching = threading.Thread(target=search)
        searching.start()
        for number in range(20):
            added = secrets.token_hex(16)
            one.register(f"TOKEN_{number}", added)
            found.append(Redactor(one).text(f"a line with {added} in it").replace(f"TOKEN_{number}", "TOKEN"))
        done.set()
        searching.join(WAIT_S)
        wait_until_prepared()
    assert set(found) == {"a line with [REDACTED:TOKEN] in it"}
