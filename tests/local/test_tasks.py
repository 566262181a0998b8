"""What a task says is hostile input: lines in any pieces, lines that are none, and too much of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_tools.local.channel import AgentError, ChannelError
from sandbox_tools.local.pipes import Pipe
from sandbox_tools.local.tasks import MAX_LINE_BYTES, MAX_LINES_BYTES, Answer


@pytest.fixture
async def pipe() -> AsyncIterator[Pipe]:
    with Pipe(reads_here=True) as made:
        yield made


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
async def test_any_bytes_in_any_pieces_are_the_same_lines_or_the_same_error(data: bytes, cuts: list[int]) -> None:
    outcomes = []
    ends = sorted([*cuts, len(data)])
    for pieces in ([data], [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]):
        with Pipe(reads_here=True) as pipe:
            answer, lines = Answer(pipe, endless=True), list[dict[str, object]]()
            try:
                for piece in pieces:
                    os.write(pipe.inner, piece)
                    lines += answer.lines_now(1000)
            except ChannelError:
                lines = [{"broken": True}]
            outcomes.append(lines)
    assert outcomes[0] == outcomes[1]


async def test_lines_that_wait_are_taken_and_the_end_is_seen(pipe: Pipe) -> None:
    answer = Answer(pipe, endless=True)
    assert (answer.lines_now(9), answer.ended) == ([], False)
    os.write(pipe.inner, b'{"a":1}\n{"a":2}\n{"a":')
    assert answer.lines_now(1) == [{"a": 1}]
    assert (answer.lines_now(9), answer.ended) == ([{"a": 2}], False)
    os.write(pipe.inner, b"3}\n")
    pipe.close_inner()
    assert (answer.lines_now(9), answer.ended) == ([{"a": 3}], True)
    assert await answer.line() is None


@pytest.mark.parametrize("line", [b"x" * (MAX_LINE_BYTES + 1), b"[]\n", b"\xff\n", b"\n", b"{" * 5000 + b"\n"])
async def test_what_is_no_line_is_an_error(pipe: Pipe, line: bytes) -> None:
    os.write(pipe.inner, line)
    with pytest.raises(ChannelError):
        Answer(pipe, endless=True).lines_now(9)


async def test_the_lines_of_a_list_are_bounded_and_a_list_has_an_end(pipe: Pipe) -> None:
    answer = Answer(pipe)
    line = b'{"a":"' + b"x" * 60_000 + b'"}\n'
    for _ in range(MAX_LINES_BYTES // len(line)):
        os.write(pipe.inner, line)
        await answer.line()
    os.write(pipe.inner, line)
    with pytest.raises(ChannelError, match="too many"):
        await answer.line()
    with Pipe(reads_here=True) as other:
        os.write(other.inner, b'{"a":1}\n')
        other.close_inner()
        cut = Answer(other)
        assert await cut.item() == {"a": 1}
        with pytest.raises(ChannelError, match="not whole"):
            await cut.item()


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (b'{"error":2}\n', AgentError),
        (b'{"error":-1}\n', ChannelError),
        (b'{"error":"x"}\n', ChannelError),
        (b"", ChannelError),
    ],
)
async def test_a_task_that_failed_says_why_in_numbers(pipe: Pipe, header: bytes, error: type[Exception]) -> None:
    os.write(pipe.inner, header)
    pipe.close_inner()
    with pytest.raises(error):
        await Answer(pipe).header()
