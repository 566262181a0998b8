"""The output budget: the start and the end are shown, the bound holds, nothing depends on the pieces."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_tools.output import DEFAULT_MAX_CHARS, MIN_MAX_CHARS, OutputWindow, TextDecoder, fit

NOTICE = re.compile(
    r"^\[\.\.\. ([\d,]+) of ([\d,]+) characters \(([\d,]+) lines?\) omitted; the start and the end are shown \.\.\.\]$",
    re.MULTILINE,
)

texts = st.text(st.sampled_from("ab\né\U0001f600\ud83d\ude00"), max_size=60)
pieces = st.lists(st.tuples(texts, st.integers(1, 30)).map(lambda pair: pair[0] * pair[1]), max_size=12)
limits = st.integers(MIN_MAX_CHARS, 900)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


@settings(max_examples=300, deadline=None)
@given(pieces, limits, limits)
def test_a_text_that_fits_is_whole_and_another_has_head_notice_and_tail(
    pieces: list[str], window_chars: int, max_chars: int
) -> None:
    window, text = OutputWindow(window_chars), "".join(pieces)
    for piece in pieces:
        window.feed(piece)
    limit = min(window_chars, max_chars)
    shown = window.render(max_chars)
    assert shown == fit(text, limit)
    if len(text) <= limit:
        assert shown == text
        return
    assert len(shown) <= limit
    (notice,) = NOTICE.finditer(shown)
    omitted, total, lines = map(_number, notice.groups())
    head, tail = shown[: notice.start()], shown[notice.end() + 1 :]
    head = head if text.startswith(head) else head.removesuffix("\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert (total, omitted) == (len(text), len(text) - len(head) - len(tail))
    assert lines == text[len(head) : len(text) - len(tail)].count("\n")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), limits)
def test_where_a_text_is_cut_into_pieces_does_not_matter(sizes: list[int], max_chars: int) -> None:
    text = "".join(f"line {number}\n" for number in range(400))
    window, at = OutputWindow(max_chars), 0
    for size in sizes:
        window.feed(text[at : at + size])
        at += size
    window.feed(text[at:])
    assert window.render() == fit(text, max_chars)


def test_the_head_gets_the_larger_part_and_both_end_at_a_line() -> None:
    text = "".join(f"{number:09}\n" for number in range(10_000))
    shown = fit(text, 2000)
    (notice,) = NOTICE.finditer(shown)
    head, tail = shown[: notice.start()], shown[notice.end() + 1 :]
    assert (len(head), len(tail)) == (1140, 760)
    assert head.endswith("\n")
    assert text[-len(tail) - 1] == "\n"
    assert notice[0].startswith("[... 98,100 of 100,000 characters (9,810 lines) omitted; ")


def test_the_notice_is_on_a_line_of_its_own_when_no_line_ends_near() -> None:
    shown = fit("x" * 5000, 1000)
    assert [line[:1] for line in shown.split("\n")] == ["x", "[", "x"]
    assert len(shown) >= 990


@pytest.mark.parametrize("before", range(4))
def test_a_surrogate_pair_is_not_split(before: int) -> None:
    shown = fit("x" * before + "\ud83d\ude00" * 2000, 999)
    parts = shown.replace("x", "").split("\n")
    assert [part.replace("\ud83d\ude00", "") for part in (parts[0], parts[2])] == ["", ""]


def test_the_default_is_what_a_model_should_read() -> None:
    assert len(fit("line\n" * 100_000)) in range(DEFAULT_MAX_CHARS - 200, DEFAULT_MAX_CHARS + 1)


def test_the_smallest_limit_still_shows_both_ends_of_an_endless_text() -> None:
    window = OutputWindow(MIN_MAX_CHARS)
    window.feed("start " + "\n" * 1000 + " end")
    window.total_chars = window.total_lines = 10**15
    shown = window.render()
    assert len(shown) <= MIN_MAX_CHARS
    assert shown.startswith("start ")
    assert shown.endswith(" end")


@pytest.mark.parametrize("max_chars", [MIN_MAX_CHARS - 1, 0, -1])
def test_a_limit_without_room_for_the_notice_is_refused(max_chars: int) -> None:
    with pytest.raises(ValueError, match="at least 256"):
        OutputWindow(max_chars)
    with pytest.raises(ValueError, match="at least 256"):
        OutputWindow().render(max_chars)


@pytest.mark.parametrize("piece", ["x" * 1_000_000, "line\n" * 10, "x"])
def test_memory_is_bounded_whatever_is_fed(piece: str) -> None:
    window = OutputWindow(1000)
    for _ in range(20_000 // len(piece) + 20):
        window.feed(piece)
    assert sum(sys.getsizeof(value) for value in vars(window).values()) < 5000


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(max_size=6) | st.sampled_from(["é", "\ufffd", "\U0001f600"]).map(str.encode), max_size=20),
    st.integers(1, 5),
)
def test_a_decoder_gives_what_decoding_at_once_gives(parts: list[bytes], size: int) -> None:
    data, decoder = b"".join(parts), TextDecoder()
    text = "".join(decoder.feed(data[at : at + size]) for at in range(0, len(data), size)) + decoder.close()
    assert text == data.decode("utf-8", "replace")
    assert decoder.replaced == text.count("\ufffd") - data.count("\ufffd".encode())


def test_a_decoder_counts_what_it_replaced_and_not_what_was_there() -> None:
    decoder = TextDecoder()
    text = decoder.feed(b"\xef\xbf") + decoder.feed(b"\xbd \xff \xc3") + decoder.close()
    assert text == "\ufffd \ufffd \ufffd"
    assert decoder.replaced == 2


def test_the_bound_holds_when_no_line_of_one_is_omitted() -> None:
    """Found by Hypothesis: "0 lines" is longer than "1 line"."""
    assert len(fit("a" * 350 + "\n", 256)) <= 256


def test_a_line_end_at_the_cut_is_shown_and_not_counted_as_left_out() -> None:
    """Found by Hypothesis: the notice counted one character too many."""
    text = "aa\naaaaaaaaaaa" * 8 + "a" * 900
    shown = fit(text, 256)
    head, notice, tail = shown.partition("[... ")
    omitted = int(notice and tail.split(" ")[0].replace(",", ""))
    assert text.startswith(head)
    assert omitted == len(text) - len(head) - len(tail.rsplit("...]\n", 1)[1])
