"""What the redactor promises, as properties and tables (docs/redaction.md)."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_tools.redaction import WITHHELD, Redactor, Registry, budget
from sandbox_tools.redaction.folded import folded
from sandbox_tools.redaction.forms import forms_of
from sandbox_tools.redaction.patterns import SPREAD_BYTES, Patterns
from tests.unit.redaction_cases import (
    ENCODINGS,
    ESCAPES,
    INNER_ENCODINGS,
    LOOKS,
    RARE_ENCODINGS,
    RARE_INNER_ENCODINGS,
    SECRETS,
    SPREAD_ENCODINGS,
    SPREADABLE,
    longest_leak,
    pieces,
    protected_part,
    redact_in_pieces,
    registry_of,
    shows_rarely_encoded,
    squeezed,
)

REDACTOR = Redactor(registry_of())
TOLERATED_CHARS = 7

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=30)
names = st.sampled_from(sorted(SECRETS))
noise = st.binary(max_size=30) | st.text(max_size=20).map(lambda text: text.encode())
decoys = st.builds(lambda name, size: SECRETS[name][:size].encode(), names, st.integers(1, 40))
repeats = st.builds(lambda name, count: SECRETS[name].encode() * count, names, st.integers(2, 4))
outer = st.builds(lambda name, encode: encode(SECRETS[name]), names, st.sampled_from([*ENCODINGS.values()]))
inner = st.builds(
    lambda before, name, encode, after: encode(before + SECRETS[name].encode() + after),
    st.binary(max_size=7),
    names,
    st.sampled_from([*INNER_ENCODINGS.values()]),
    st.binary(max_size=7),
)
spread = st.builds(
    lambda name, encode: encode(SECRETS[name]),
    st.sampled_from(SPREADABLE),
    st.sampled_from([*SPREAD_ENCODINGS.values()]),
)
rare = st.builds(
    lambda name, encode: encode(SECRETS[name]),
    st.sampled_from(SPREADABLE),
    st.sampled_from([*RARE_ENCODINGS.values(), *ESCAPES.values()]),
)
looks = st.builds(
    lambda name, look, size: look(SECRETS[name]).encode()[:size],
    st.sampled_from(SPREADABLE),
    st.sampled_from([*LOOKS.values()]),
    st.integers(20, 600),
)
codes = st.sampled_from(
    [b"\x1b", b"\x1b[", b"\x1b[31", b"1m", b"\x1b[0m", b"\x1b(", b"B", "\uff21".encode(), b"\xef\xbc"]
)
outputs = st.lists(noise | codes | decoys | repeats | outer | inner | spread | rare | looks, max_size=6).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(outputs, sizes)
def test_the_result_does_not_depend_on_where_a_stream_is_cut(output: bytes, sizes: list[int]) -> None:
    assert redact_in_pieces(REDACTOR, output, sizes) == REDACTOR.data(output)


@settings(max_examples=150, deadline=None)
@given(st.lists(codes | st.sampled_from([b"ab", b"3", b"0m"]) | looks, max_size=8).map(b"".join), sizes)
def test_terminal_codes_that_are_cut_change_nothing(output: bytes, sizes: list[int]) -> None:
    assert redact_in_pieces(REDACTOR, output, sizes) == REDACTOR.data(output)


def test_a_terminal_code_is_not_cut_though_a_secret_begins_like_the_end_of_it() -> None:
    one, rest = Registry(), secrets.token_hex(20)
    one.register("TOKEN", f"31m{rest}")
    text = f"\x1b[31m{rest[:9]}\x1b[0m{rest[9:]}\n".encode()
    assert redact_in_pieces(Redactor(one), text, [1]) == Redactor(one).data(text) == b"\x1b[31m[REDACTED:TOKEN]\n"


def test_characters_that_are_spread_too_far_are_not_joined_wherever_the_stream_is_cut() -> None:
    far = (b" " * (SPREAD_BYTES // 15)).join(SECRETS["STRONG20"][at : at + 1].encode() for at in range(20))
    near = far.replace(b"  ", b" ")
    assert REDACTOR.data(near) == b"[REDACTED:STRONG20]"
    for size in (1, 100, len(far)):
        assert redact_in_pieces(REDACTOR, far, [size]) == far
    assert len(REDACTOR.stream().feed(far[:-1])) >= len(far) - 1 - SPREAD_BYTES


@pytest.mark.parametrize(
    ("char", "plain"),
    [
        ("\u00b2", "2"),
        ("\u2075", "5"),
        ("\u2102", "C"),
        ("\u2162", "III"),
        ("\u24d0", "a"),
        ("\uff21", "A"),
        ("\U0001d7ce", "0"),
        ("\U0001f130", "A"),
    ],
    ids=ascii,
)
def test_a_character_that_only_looks_different_counts_as_what_it_looks_like(char: str, plain: str) -> None:
    assert folded(f"<{char}>".encode()).replace(b"\0", b"") == f"<{plain}>".encode()


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_cut_in_two_at_any_offset_is_redacted_as_a_whole(name: str) -> None:
    for encode in ENCODINGS.values():
        output = b"before " + encode(SECRETS[name]) + b" after"
        whole = REDACTOR.data(output)
        for at in range(len(output)):
            assert redact_in_pieces(REDACTOR, output, [at or len(output), len(output)]) == whole


@pytest.mark.parametrize("at", [65_536 - 40, 65_536 - 1, 65_536, 131_072 - 20])
def test_a_secret_on_a_seam_of_the_scanner_is_found(at: int) -> None:
    output = b"-" * at + SECRETS["HEX64"].encode() + b"-" * 70_000
    assert REDACTOR.data(output) == b"-" * at + b"[REDACTED:HEX64]" + b"-" * 70_000


SLOW_NAMES = ("SK", "QUOTES", "SHORT", "SHORT_PLAIN", "STRONG20")
SLOW_REGISTRY = registry_of(*SLOW_NAMES)
SLOW_SECRETS = [SECRETS[name] for name in SLOW_NAMES]
FRAGMENTS = {form for value in SLOW_SECRETS for form in forms_of(value).fragments}
SLOW_PATTERNS = {piece for form in FRAGMENTS for piece in pieces(form, 16)}
SPREAD = {form for value in SLOW_SECRETS for form in forms_of(value).spread}
SLOW_PATTERNS |= {form for value in SLOW_SECRETS for form in forms_of(value).whole}
SLOW_PATTERNS |= {form for form in SPREAD if len(form) >= 16 and (form != squeezed(form) or len(form) < 24)}
SLOW_SQUEEZED = {piece for form in FRAGMENTS for piece in pieces(squeezed(form), 24)}
SLOW_SQUEEZED |= {squeezed(form) for form in FRAGMENTS if 16 <= len(squeezed(form)) < 24}
SLOW_SQUEEZED |= {squeezed(form) for form in SPREAD if len(squeezed(form)) >= 24}


@settings(max_examples=60, deadline=None)
@given(outputs)
def test_the_fast_search_finds_what_a_slow_one_finds(output: bytes) -> None:
    found = {(start, start - size) for start, size, _ in SLOW_REGISTRY.patterns().find(output)}
    assert found == _slow_search(output)


def _slow_search(output: bytes) -> set[tuple[int, int]]:
    return _slow_squeezed(output) | _slow_squeezed(folded(output)) | set(_places(SLOW_PATTERNS, output))


def _slow_squeezed(output: bytes) -> set[tuple[int, int]]:
    kept = [at for at in range(len(output)) if squeezed(output[at : at + 1])]
    joined = ((kept[start], kept[end - 1] + 1) for start, end in _places(SLOW_SQUEEZED, squeezed(output)))
    return {(start, end) for start, end in joined if end - start <= SPREAD_BYTES}


def _places(patterns: set[bytes], output: bytes) -> Iterator[tuple[int, int]]:
    for pattern in patterns:
        at = output.find(pattern)
        while at >= 0:
            yield at, at + len(pattern)
            at = output.find(pattern, at + 1)


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
@pytest.mark.parametrize("name", sorted(SECRETS))
def test_nothing_of_an_encoded_secret_is_left(name: str, encoding: str) -> None:
    output = b"say " + ENCODINGS[encoding](SECRETS[name]) + b" now"
    assert longest_leak(REDACTOR.data(output), protected_part(name)) <= TOLERATED_CHARS


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=7), names, st.sampled_from(sorted(INNER_ENCODINGS)), st.binary(max_size=7), sizes)
def test_nothing_is_left_of_a_secret_that_was_encoded_together_with_other_bytes(
    before: bytes, name: str, encoding: str, after: bytes, sizes: list[int]
) -> None:
    output = b"x=" + INNER_ENCODINGS[encoding](before + SECRETS[name].encode() + after) + b" end"
    assert longest_leak(redact_in_pieces(REDACTOR, output, sizes), protected_part(name)) <= TOLERATED_CHARS


@pytest.mark.parametrize("encoding", sorted(SPREAD_ENCODINGS))
@pytest.mark.parametrize("name", SPREADABLE)
def test_nothing_is_left_of_a_secret_with_separators_in_it(name: str, encoding: str) -> None:
    output = b"- " + SPREAD_ENCODINGS[encoding](SECRETS[name]) + b" -"
    assert longest_leak(REDACTOR.data(output), protected_part(name)) <= TOLERATED_CHARS


@pytest.mark.parametrize("name", ["QUOTES", "SHORT", "SINGLE_QUOTES"])
@pytest.mark.parametrize("escape", sorted(ESCAPES))
def test_an_escaped_secret_is_redacted_as_a_whole(name: str, escape: str) -> None:
    form = ESCAPES[escape](SECRETS[name])
    assert REDACTOR.data(b"- " + form + b" -") == f"- [REDACTED:{name}] -".encode()
    assert redact_in_pieces(REDACTOR, b"- " + form + b" -", [1]) == f"- [REDACTED:{name}] -".encode()


RARE_FORMS = {
    **RARE_ENCODINGS,
    **{name: lambda value, look=look: look(value).encode() for name, look in LOOKS.items()},
    **{
        f"{name} after {before} bytes": lambda value, encode=encode, before=before: encode(
            b"?" * before + value.encode() + b"!"
        )
        for name, encode in RARE_INNER_ENCODINGS.items()
        for before in range(5)
    },
}


@pytest.mark.parametrize("encoding", sorted(RARE_FORMS))
def test_nothing_is_left_of_a_strong_secret_in_a_rare_encoding(encoding: str) -> None:
    for name in ("HEX64", "JWT", "STRONG20"):
        form = RARE_FORMS[encoding](SECRETS[name])
        clean = REDACTOR.data(b"- " + form + b" -\n")
        assert not shows_rarely_encoded(clean, protected_part(name), TOLERATED_CHARS + 1), name
        for sizes in ([1], [7], [40, 3], [len(form) // 2]):
            assert redact_in_pieces(REDACTOR, b"- " + form + b" -\n", sizes) == clean


@pytest.mark.parametrize(
    "encoding", ["html_decimal", "html_hex", "html_hex_upper", "decimal_list", "backslash_x", "backslash_x_upper"]
)
def test_characters_and_bytes_as_numbers_differ_and_both_are_found(encoding: str) -> None:
    clean = REDACTOR.data(b"- " + RARE_FORMS[encoding](SECRETS["QUOTES"]) + b" -\n")
    assert not shows_rarely_encoded(clean, SECRETS["QUOTES"], TOLERATED_CHARS + 1)


@pytest.mark.parametrize("encoding", sorted(RARE_FORMS))
def test_the_oracle_decodes_every_rare_encoding(encoding: str) -> None:
    output = b"- " + RARE_FORMS[encoding](SECRETS["STRONG20"]) + b" -\n"
    assert shows_rarely_encoded(output, SECRETS["STRONG20"], TOLERATED_CHARS + 1)


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_the_oracle_finds_every_secret_when_nothing_is_redacted(name: str) -> None:
    part = protected_part(name)
    forms = [encode(SECRETS[name]) for encode in ENCODINGS.values()]
    forms += [encode(b"??" + SECRETS[name].encode() + b"!") for encode in INNER_ENCODINGS.values()]
    forms += [encode(SECRETS[name]) for encode in SPREAD_ENCODINGS.values() if name in SPREADABLE]
    assert [form for form in forms if longest_leak(b"= " + form + b" =", part) <= TOLERATED_CHARS] == []


@pytest.mark.parametrize("name", ["HEX64", "BASE64URL43", "SK", "DECOY"])
def test_a_piece_of_16_characters_is_redacted_and_one_of_15_is_not(name: str) -> None:
    value, redactor = SECRETS[name], Redactor(registry_of(name))
    for at in range(len(value) - 16):
        assert redactor.text(f"<{value[at : at + 16]}>") == f"<[REDACTED:{name}]>"
        assert redactor.text(f"<{value[at : at + 15]}>") == f"<{value[at : at + 15]}>"


def test_a_short_secret_is_redacted_as_a_whole_only() -> None:
    value = SECRETS["SHORT_PLAIN"]
    assert REDACTOR.text(f"{value} {value[:-1]}") == f"[REDACTED:SHORT_PLAIN] {value[:-1]}"


def test_overlapping_secrets_share_a_placeholder_and_adjacent_ones_do_not() -> None:
    first, second = SECRETS["OVERLAP_A"], SECRETS["OVERLAP_B"]
    merged = first + second.removeprefix(first[14:])
    assert REDACTOR.text(f"<{merged}>") == "<[REDACTED:OVERLAP_A]>"
    assert REDACTOR.text(second + first) == "[REDACTED:OVERLAP_B][REDACTED:OVERLAP_A]"


def test_the_longest_secret_that_begins_at_a_place_gives_the_name() -> None:
    assert REDACTOR.text(SECRETS["HEX64"]) == "[REDACTED:HEX64]"
    assert REDACTOR.text(SECRETS["HEX64_PREFIX"]) == "[REDACTED:HEX64_PREFIX]"


def test_the_public_header_of_a_token_alone_is_ordinary_text() -> None:
    header = SECRETS["JWT"].partition(".")[0]
    assert REDACTOR.text(f"{header}.other") == f"{header}.other"
    assert REDACTOR.text(SECRETS["JWT"]) == "[REDACTED:JWT]"


@settings(max_examples=200, deadline=None)
@given(outputs)
def test_redacting_twice_changes_nothing(output: bytes) -> None:
    once = REDACTOR.data(output)
    assert REDACTOR.data(once) == once


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=300), sizes)
def test_clean_text_is_returned_as_the_same_object(text: str, sizes: list[int]) -> None:
    assert REDACTOR.text(text) is text
    data = text.encode("utf-8", "surrogatepass")
    assert REDACTOR.data(data) is data
    assert redact_in_pieces(REDACTOR, data, sizes) == data


def test_lone_surrogates_beside_a_secret_are_kept() -> None:
    assert REDACTOR.text(f"\udc80{SECRETS['SK']}\ud800") == "\udc80[REDACTED:SK]\ud800"


def test_a_piece_of_a_secret_that_ends_within_a_character_is_redacted() -> None:
    registry = Registry()
    registry.register("ACCENTS", "é" * 5 + secrets.token_hex(8) + "ü" * 5)
    text = Redactor(registry).text(SECRETS["HEX64"] + "é" + "ü" * 8)
    assert text == SECRETS["HEX64"] + "é" + "ü" * 8


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=5000), sizes)
def test_a_stream_holds_back_a_bounded_part(data: bytes, sizes: list[int]) -> None:
    redactor, longest = Redactor(registry_of("SK", "QUOTES")), 1024
    stream, passed_on = redactor.stream(), 0
    for at in range(0, len(data), sizes[0]):
        piece = data[at : at + sizes[0]]
        passed_on += len(stream.feed(piece))
        assert at + len(piece) - passed_on <= longest


def test_an_endless_repetition_of_a_secret_is_one_placeholder_and_is_not_collected() -> None:
    stream = REDACTOR.stream()
    pieces = [stream.feed(SECRETS["SELF_OVERLAP"].encode() * 50) for _ in range(20)]
    assert pieces[0] == b"[REDACTED:SELF_OVERLAP]"
    assert b"".join([*pieces[1:], stream.close()]) == b""


def test_a_value_registered_while_a_stream_runs_is_redacted_from_then_on() -> None:
    registry = registry_of("SK")
    stream = Redactor(registry).stream()
    assert b"clean" in stream.feed(b"clean text " * 10)
    value = secrets.token_hex(32)
    registry.register("LATER", value)
    assert (stream.feed(f"key {value}".encode()) + stream.close()).endswith(b"key [REDACTED:LATER]")


@pytest.mark.parametrize("size", [1, 7, 100, 1_000_000])
def test_after_2000_hits_the_rest_is_withheld_wherever_the_stream_is_cut(size: int) -> None:
    line = SECRETS["SHORT_PLAIN"].encode() + b"\n"
    stream = REDACTOR.stream()
    output = line * 2100 + b"tail"
    out = b"".join(stream.feed(output[at : at + size]) for at in range(0, len(output), size))
    assert out + stream.close() == b"[REDACTED:SHORT_PLAIN]\n" * 2000 + WITHHELD.encode()
    assert stream.withheld
    assert stream.feed(b"more") + stream.close() == b""


def test_2000_hits_are_not_too_many() -> None:
    output = (SECRETS["SHORT_PLAIN"] + "\n") * 2000
    assert REDACTOR.text(output) == "[REDACTED:SHORT_PLAIN]\n" * 2000


def test_output_that_takes_too_long_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "BASE_S", -1.0)
    assert REDACTOR.text("harmless") == WITHHELD
    stream = REDACTOR.stream()
    assert stream.feed(b"harmless") == WITHHELD.encode()
    assert stream.feed(b"more") + stream.close() == b""


def test_time_adds_up_from_piece_to_piece_and_more_bytes_may_take_more(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_clocks(monkeypatch, wall_s=0.004, processor_s=0.004)
    few, many = REDACTOR.stream(), REDACTOR.stream()
    assert b"".join(many.feed(b"." * 2**20) for _ in range(6)) + many.close() == b"." * 6 * 2**20
    assert b"".join(few.feed(b".") for _ in range(100)).endswith(WITHHELD.encode())


def test_a_large_piece_is_withheld_as_soon_as_it_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_clocks(monkeypatch, wall_s=1.0, processor_s=1.0)
    assert REDACTOR.stream().feed(b"." * 10_000) == WITHHELD.encode()


@pytest.mark.parametrize("piece", [b".", b"." * 10_000, b"no token, no secret, no cookie "])
def test_a_machine_that_is_busy_with_something_else_withholds_nothing(
    piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_clocks(monkeypatch, wall_s=1.0, processor_s=1e-5)
    stream = REDACTOR.stream()
    assert b"".join(stream.feed(piece) for _ in range(100)) + stream.close() == piece * 100
    several = budget.Budget()
    several.start(len(piece))
    for _ in range(100):
        several.check_time()


def _set_clocks(monkeypatch: pytest.MonkeyPatch, *, wall_s: float, processor_s: float) -> None:
    """Let so much time pass from each look at a clock to the next."""
    ticks = itertools.count()
    monkeypatch.setattr("sandbox_tools.redaction.budget.time.thread_time", lambda: 1e6 + next(ticks) * processor_s)
    monkeypatch.setattr("sandbox_tools.redaction.budget.time.perf_counter", lambda: next(ticks) * wall_s)


class _BrokenRegistry(Registry):
    def patterns(self) -> Patterns:
        raise RuntimeError("a bug")


def test_an_error_in_the_redactor_withholds_the_value() -> None:
    redactor = Redactor(_BrokenRegistry())
    assert redactor.text("harmless") == WITHHELD
    assert redactor.data(b"harmless") == WITHHELD.encode()
    assert redactor.walk({"harmless": ["harmless"]}) == {WITHHELD: [WITHHELD]}
    stream = redactor.stream()
    assert stream.feed(b"one") + stream.feed(b"two") + stream.close() == WITHHELD.encode()


def test_a_redactor_without_secrets_changes_nothing() -> None:
    redactor = Redactor(Registry())
    assert redactor.data(b"") == b""
    assert redactor.text("text") == "text"
    assert redact_in_pieces(redactor, b"text in pieces", [3]) == b"text in pieces"


def test_a_pause_shows_no_eight_characters_of_a_value_however_far_apart_they_stand() -> None:
    value = secrets.token_hex(32)
    registry = Registry()
    registry.register("TOKEN", value)
    for glue in ("", " ", ": "):
        start = glue.join(value[:8]).encode()
        stream = Redactor(registry).stream()
        shown = stream.feed(b"password? " + start) + stream.peek()
        assert value[:8].encode() not in shown.translate(None, b" :")
        few = Redactor(registry).stream()
        prompt = b"go on " + glue.join(value[:4]).encode()
        assert few.feed(prompt) + few.peek() == prompt
