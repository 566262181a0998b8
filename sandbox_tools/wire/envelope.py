"""Connect envelopes: 1 byte of flags, 4 bytes of big-endian length, payload (wire contract 4.1)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

END_STREAM: Final = 0x02
"""Flag of the last frame of a stream."""

COMPRESSED: Final = 0x01
"""Flag of a compressed payload. Nobody on this wire sends it; we refuse it."""

HEADER_BYTES: Final = 5

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
"""Payload that we accept in one frame, in bytes. The length is the peer's claim, so it is checked before buffering."""


class WireError(ValueError):
    """Bytes or JSON from a peer break the wire format. The message is ours and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded envelope."""

    flags: int
    payload: bytes

    @property
    def end_stream(self) -> bool:
        return bool(self.flags & END_STREAM)


def encode_frame(payload: bytes, *, flags: int = 0) -> bytes:
    """Return `payload` in an envelope."""
    return struct.pack(">BI", flags, len(payload)) + payload


def encode_json_frame(message: object, *, flags: int = 0) -> bytes:
    """Return a JSON message in an envelope."""
    return encode_frame(json.dumps(message, separators=(",", ":")).encode(), flags=flags)


class FrameDecoder:
    """Incremental decoder of envelopes; any chunking of the same bytes gives the same frames."""

    def __init__(self, *, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()
        self._ended = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield each frame that `data` completes.

        Raises:
            WireError: A frame announces more than `max_frame_bytes`, has an unknown flag, or follows the last frame.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER_BYTES:
            flags, length = struct.unpack_from(">BI", self._buffer)
            self._check_header(flags, length)
            end = HEADER_BYTES + length
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as view:  # a slice of the buffer itself would be one more copy
                frame = Frame(flags, bytes(view[HEADER_BYTES:end]))
            del self._buffer[:end]
            self._ended = frame.end_stream
            yield frame

    def close(self) -> None:
        """Say that the stream ended.

        Raises:
            WireError: It ended inside a frame. A clean end without an END_STREAM frame is accepted
                (SeaCloud closes the socket, wire contract 4.1).
        """
        if self._buffer:
            raise WireError("the stream ended inside a frame")

    def _check_header(self, flags: int, length: int) -> None:
        if self._ended:
            raise WireError("a frame follows the end of the stream")
        if flags & ~END_STREAM:
            raise WireError("a frame has an unknown flag")
        if length > self._max_frame_bytes:
            raise WireError(f"a frame announces {length} bytes; {self._max_frame_bytes} are allowed")


def parse_json_object(payload: bytes, *, what: str) -> dict[str, object]:
    """Return the JSON object in `payload`.

    Raises:
        WireError: It is not JSON, or not an object.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise WireError(f"{what} is not a JSON object")
    return message


def parse_stream_request(body: bytes) -> tuple[dict[str, object], bool]:
    """Read the request of a server stream; return it, and whether it was in an envelope (wire contract 4.1).

    SeaCloud's clients send bare JSON, Connect's one envelope.

    Raises:
        WireError: It is neither.
    """
    if not body.startswith(b"\0"):
        return parse_json_object(body, what="the body"), False
    frames = list(FrameDecoder().feed(body))
    if not frames:
        raise WireError("the body holds no whole envelope")
    return parse_json_object(frames[0].payload, what="the body"), True


def parse_json_array(payload: bytes, *, what: str) -> list[object]:
    """Return the JSON array in `payload`.

    Raises:
        WireError: It is not JSON, or not an array.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, list):
        raise WireError(f"{what} is not a JSON array")
    return message
