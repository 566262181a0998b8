"""Output on its way to the model: redacted before it is cut, whatever the pieces."""

from __future__ import annotations

import base64
import re
import secrets
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_tools.collect import FilePage, ProcessOutput
from sandbox_tools.redaction import Redactor, Registry, budget


def pieces_of(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


def redactor(**named: str) -> Redactor:
    registry = Registry()
    for name, value in named.items():
        registry.register(name, value)
    return Redactor(registry)


def test_no_output_is_an_empty_text() -> None:
    assert ProcessOutput(redactor(), 1000).render() == ""


def test_each_stream_has_its_heading_and_stderr_comes_last() -> None:
    output = ProcessOutput(redactor(), 1000)
    output.feed("stderr", b"e")
    output.feed("stdout", b"o\n")
    assert output.render() == "--- stdout ---\no\n--- stderr ---\ne"


@pytest.mark.parametrize(
    ("out", "err"), [(5_000_000, 0), (0, 5_000_000), (5_000_000, 5_000_000), (5_000_000, 10), (10, 5_000_000)]
)
def test_both_streams_together_stay_within_the_budget_and_a_short_one_is_whole(out: int, err: int) -> None:
    output = ProcessOutput(redactor(), 20_000)
    for _ in range(10):
        output.feed("stdout", b"o" * (out // 10))
        output.feed("stderr", b"e" * (err // 10))
    text = output.render()
    assert len(text) <= 20_000
    assert len(text) >= min(19_000, out + err)
    if 0 < out <= 10:
        assert "--- stdout ---\n" in text
    assert text.count("omitted") == (out > 20_000) + (err > 20_000)


@given(st.lists(st.integers(0, 60), max_size=12), st.sampled_from([0, 100_000]))
@settings(max_examples=60, deadline=None)
def test_what_is_taken_while_the_process_goes_on_is_the_whole_without_half_a_secret(sizes: list[int], big: int) -> None:
    secret = "k-" + secrets.token_urlsafe(24)
    data = f"one \u00e9 {secret} two\n{secret}{secret} \u2028 end".encode()
    output = ProcessOutput(redactor(KEY=secret), 1000)
    output.feed("stdout", b"x" * big)
    taken = [output.take()] if big else []
    assert all("omitted" in text for text in taken)
    shown = ""
    for piece in pieces_of(data, sizes):
        output.feed("stdout", piece)
        shown += output.take().removeprefix("--- stdout ---\n") if sizes else ""
    shown += output.render().removeprefix("--- stdout ---\n")
    assert not any(secret[at : at + 8] in shown for at in range(len(secret) - 7))
    assert re.sub(r"\[REDACTED:KEY\]|\n", "", shown).lstrip("x").startswith("one \u00e9 ")
    assert " two" in shown
    assert shown.endswith(" \u2028 end")


def test_a_prompt_of_a_process_that_waits_is_shown_whole() -> None:
    output = ProcessOutput(redactor(KEY=secrets.token_urlsafe(24)), 1000)
    output.feed("stdout", b"Continue? (yes/no) ")
    assert output.take() == "--- stdout ---\nContinue? (yes/no) "
    output.feed("stdout", b"no such answer\n")
    assert output.take() == "--- stdout ---\nno such answer"


def test_bytes_that_are_not_utf8_are_shown_and_said() -> None:
    output = ProcessOutput(redactor(), 1000)
    output.feed("stdout", b"a\xff\xfeb")
    assert output.render() == (
        "--- stdout ---\na\ufffd\ufffdb\n(Some of the output is not UTF-8; those bytes are shown as \ufffd.)"
    )


@given(st.integers(0, 120), st.lists(st.integers(0, 30), max_size=20))
def test_a_secret_in_any_pieces_near_any_cut_is_redacted(before: int, sizes: list[int]) -> None:
    secret = secrets.token_urlsafe(32)
    output = ProcessOutput(redactor(TOKEN=secret), 1000)
    for piece in pieces_of(b"x" * (300 + before) + secret.encode() + b"y" * 2000, sizes):
        output.feed("stdout", piece)
    text = output.render()
    assert not any(secret[i : i + 8] in text for i in range(len(secret) - 8))


@pytest.mark.parametrize("with_margin", [True, False])
def test_the_end_of_a_long_output_does_not_begin_with_the_rest_of_a_value(
    with_margin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is redacted becomes shorter, so all of the end that was kept can be shown, and where it was cut off."""
    monkeypatch.setattr(budget, "BASE_S", 60.0)  # all of it is hits: a slow machine would rather withhold it
    short, long = f"pw-{secrets.token_hex(5)}", secrets.token_hex(256)
    redact = redactor(PASSWORD=short, LONG=long)
    kept = 4 * 600 + (redact.margin if with_margin else 0)
    for size in range(kept - 2 * len(short), kept + 2):
        output = ProcessOutput(redact, 1000)
        output.feed("stdout", b"one two three\n" * 100)
        output.feed("stdout", b"x" * 50_000 + short.encode() + (f"\n{long}".encode() * 50)[-size:])
        shown = output.render()
        assert shown.count("[REDACTED:LONG]") >= 4
        assert not any(short[at : at + 4] in shown for at in range(len(short) - 3))


NOTICE = re.compile(r"\n?\[\.\.\. ([\d,]+) of ([\d,]+) characters \(([\d,]+) lines?\) omitted; .*\n")
FILLS = (b"line of text 0123\n", "zwölf Boxkämpfer €\n".encode(), b"\xff\x80\xf0\x9f", b"x", b"\x1b[31mred\x1b[0m ")
SPELLINGS = (
    str.encode,
    lambda value: base64.b64encode(value.encode()),
    lambda value: value.encode().hex().encode(),
    lambda value: " ".join(value).encode(),
    lambda value: "".join(f"\\u{ord(char):04x}" for char in value).encode(),
    lambda value: "\x1b[1m".join(value).encode(),
    lambda value: value.encode() * 20,
)
LONG_SECRET = secrets.token_urlsafe(48)

outputs = st.lists(
    st.one_of(
        st.builds(lambda fill, count: fill * count, st.sampled_from(FILLS), st.integers(1, 400)),
        st.sampled_from(SPELLINGS).map(lambda spell: spell(LONG_SECRET)),
        st.builds(lambda spell, size: spell(LONG_SECRET)[:size], st.sampled_from(SPELLINGS), st.integers(8, 300)),
    ),
    min_size=1,
    max_size=8,
).map(b"".join)


@settings(max_examples=100, deadline=None)
@given(outputs, st.binary(max_size=1000), st.lists(st.integers(100, 5000), min_size=1, max_size=6))
def test_what_is_shown_is_the_start_and_the_end_of_the_whole_output_redacted(
    output: bytes, end: bytes, sizes: list[int]
) -> None:
    output += end
    redact, collected = redactor(TOKEN=LONG_SECRET), ProcessOutput(redactor(TOKEN=LONG_SECRET), 1000)
    for piece in pieces_of(output, sizes * (len(output) // sum(sizes) + 1)):
        collected.feed("stdout", piece)
    whole = redact.data(output).decode("utf-8", "replace")
    shown = collected.render().removeprefix("--- stdout ---\n")
    shown = re.sub(r"\n?\(Some of the output is not UTF-8; .*\)$", "", shown)
    if not (notice := NOTICE.search(shown)):
        assert shown.rstrip("\n") == whole.rstrip("\n")
        return
    head, tail = shown[: notice.start()], shown[notice.end() :]
    assert whole.startswith(head)
    assert whole.rstrip("\n").endswith(tail)
    assert len(head) > 250
    total = int(notice[2].replace(",", ""))
    assert total == len(whole) or abs(total - len(output.decode("utf-8", "replace"))) < 20_000


@pytest.mark.parametrize("filling", [900, 100_000])
def test_a_token_that_nobody_registered_is_not_cut_in_two(filling: int) -> None:
    token = "a1" + secrets.token_hex(20)
    for at in range(0, 900, 7):
        output = ProcessOutput(redactor(), 1000)
        for part in ("x" * at, f" token={token} ", "y" * filling, f" token={token} ", "z" * at):
            output.feed("stdout", part.encode())
        text = output.render()
        assert not any(token[start : start + 6] in text for start in range(len(token) - 6))


def test_the_middle_of_a_long_output_is_counted_as_it_was_written_and_costs_no_redaction() -> None:
    redact = redactor(TOKEN=LONG_SECRET)
    output = ProcessOutput(redact, 1000)
    line = f"key {LONG_SECRET} é\n".encode()
    for _ in range(5000):  # more than a redactor would replace
        output.feed("stdout", line)
    text = output.render()
    assert text.count("key [REDACTED:TOKEN] é\n") > 10
    assert "[... " in text
    assert f" of {5000 * (len(line) - 1):,} characters" in text
    omitted_lines = int(re.search(r"\(([\d,]+) lines\)", text)[1].replace(",", ""))  # type: ignore[index]
    assert omitted_lines == 5000 - text.count("[REDACTED:TOKEN]")


def test_memory_is_bounded_whatever_is_collected() -> None:
    output = ProcessOutput(redactor(TOKEN=LONG_SECRET), 1000)
    tracemalloc.start()
    try:
        for _ in range(500):
            output.feed("stdout", b"y" * 65_536)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert "32,768,000 characters" in output.render()


def page_of(
    data: bytes, first: int = 1, limit: int | None = None, max_chars: int = 1000, sizes: list[int] | None = None
) -> str | None:
    page = FilePage(redactor(), max_chars, first=first, limit=limit)
    for piece in pieces_of(data, sizes or []):
        if page.feed(piece):
            return page.render(size=len(data), at_end=False)
    return page.render(size=len(data), at_end=True)


@pytest.mark.parametrize(
    ("data", "first", "limit", "text"),
    [
        (b"", 1, None, "(empty file)"),
        (b"a\nb\n", 1, None, "a\nb\n"),
        (b"a\nb", 1, None, "a\nb"),
        (b"a\nb\nc\n", 2, None, "b\nc\n"),
        (b"a\nb\nc\n", 1, 3, "a\nb\nc\n"),
        (b"a\nb\nc", 3, 5, "c"),
        (b"a\r\nb\x0cc\n", 1, 1, "a\r\n[... lines 1 to 1 of a file of 7 bytes are shown; read on with offset=2 ...]"),
        (b"a\nb\nc\n", 2, 1, "b\n[... lines 2 to 2 of a file of 6 bytes are shown; read on with offset=3 ...]"),
        (b"a\nb\n", 3, None, None),
        (b"", 2, None, None),
    ],
)
def test_pages_of_lines(data: bytes, first: int, limit: int | None, text: str | None) -> None:
    assert page_of(data, first, limit) == text


def test_a_file_over_the_budget_is_shown_by_whole_lines_with_the_offset_to_read_on() -> None:
    data = b"".join(b"line %04d\n" % number for number in range(1, 5001))
    text = page_of(data)
    assert text is not None
    assert len(text) <= 1000
    assert text.startswith("line 0001\nline 0002\n")
    shown = text.count("line ")
    assert text.endswith(
        f"[... lines 1 to {shown} of a file of 50,000 bytes are shown; read on with offset={shown + 1} ...]"
    )
    assert page_of(data, first=shown + 1).startswith(f"line {shown + 1:04d}\n")  # type: ignore[union-attr]


def test_a_line_over_the_budget_is_cut_and_said() -> None:
    text = page_of(b"x" * 100_000)
    assert text is not None
    assert len(text) <= 1000
    assert "line 1 of a file of 100,000 bytes is too long to show whole" in text


def test_a_page_says_how_many_lines_it_saw() -> None:
    page = FilePage(redactor(), 1000, first=9, limit=None)
    page.feed(b"a\nb\nc")
    assert page.render(size=5, at_end=True) is None
    assert page.lines == 3


@given(
    st.lists(st.sampled_from(["", "a", "bb", "ccc"]), max_size=30).map("\n".join),
    st.integers(1, 8),
    st.none() | st.integers(1, 8),
    st.lists(st.integers(0, 7), max_size=30),
)
def test_any_pieces_give_the_same_page(text: str, first: int, limit: int | None, sizes: list[int]) -> None:
    assert page_of(text.encode(), first, limit, sizes=sizes) == page_of(text.encode(), first, limit)


@given(st.lists(st.text("ab", max_size=3), max_size=20), st.integers(1, 6))
def test_reading_on_gives_every_line_once(lines: list[str], limit: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    shown: list[str] = []
    first = 1
    while (text := page_of(data, first, limit)) is not None and text != "(empty file)":
        body, _, notice = text.partition("[... ")
        shown += body.split("\n")[:-1]
        if not notice:
            break
        first = int(notice.rsplit("offset=", 1)[1].split(" ")[0])
    assert shown == lines
