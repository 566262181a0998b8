"""Connect envelopes (wire contract 4.1)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_tools.wire.envelope import (
    END_STREAM,
    Frame,
    FrameDecoder,
    WireError,
    encode_frame,
    parse_json_array,
    parse_json_object,
)

payloads = st.lists(st.binary(max_size=200), max_size=8)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(payloads, st.lists(st.integers(0, 50), max_size=60))
def test_any_chunking_gives_the_same_frames(messages: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(map(encode_frame, messages)) + encode_frame(b"{}", flags=END_STREAM)
    decoder = FrameDecoder()
    frames = [frame for piece in cut(stream, sizes) for frame in decoder.feed(piece)]
    decoder.close()
    assert frames == [*(Frame(0, message) for message in messages), Frame(END_STREAM, b"{}")]


@given(st.binary(max_size=400))
def test_any_bytes_give_frames_or_a_wire_error_and_nothing_else(data: bytes) -> None:
    decoder = FrameDecoder(max_frame_bytes=64)
    try:
        frames = list(decoder.feed(data))
        decoder.close()
    except WireError:
        return
    assert b"".join(encode_frame(frame.payload, flags=frame.flags) for frame in frames) == data


def test_a_length_claim_over_the_cap_is_refused_before_its_payload_arrives() -> None:
    with pytest.raises(WireError, match="announces 4294967295 bytes"):
        list(FrameDecoder().feed(struct.pack(">BI", 0, 0xFFFF_FFFF)))


def test_a_frame_of_exactly_the_cap_is_accepted() -> None:
    assert list(FrameDecoder(max_frame_bytes=3).feed(encode_frame(b"abc"))) == [Frame(0, b"abc")]


@pytest.mark.parametrize("flags", [0x01, 0x03, 0x80])
def test_an_unknown_flag_is_refused(flags: int) -> None:
    with pytest.raises(WireError, match="unknown flag"):
        list(FrameDecoder().feed(encode_frame(b"x", flags=flags)))


def test_a_frame_after_the_end_of_the_stream_is_refused() -> None:
    with pytest.raises(WireError, match="follows the end"):
        list(FrameDecoder().feed(encode_frame(b"{}", flags=END_STREAM) + encode_frame(b"{}")))


@pytest.mark.parametrize("size", range(1, 7))
def test_an_end_inside_a_frame_is_an_error(size: int) -> None:
    decoder = FrameDecoder()
    assert list(decoder.feed(encode_frame(b"ab")[:size])) == []
    with pytest.raises(WireError, match="inside a frame"):
        decoder.close()


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b"nope", b"\xff", b"[" * 100_000])
def test_what_is_not_a_json_object_is_a_wire_error_that_quotes_nothing(payload: bytes) -> None:
    with pytest.raises(WireError, match=r"^a thing is not a JSON object$"):
        parse_json_object(payload, what="a thing")


def test_a_json_array_is_read_and_an_object_is_not_one() -> None:
    assert parse_json_array(b"[1]", what="it") == [1]
    with pytest.raises(WireError, match="not a JSON array"):
        parse_json_array(b"{}", what="it")
