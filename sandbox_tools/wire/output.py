"""Output of a process on the wire, without the detour through JSON values: this is where all output passes."""

from __future__ import annotations

import base64
import re
import struct
from typing import Final, cast

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.process import OutputData, StreamName, decode_base64

_OPENING: Final = re.compile(rb'\{"event": ?\{"data": ?\{"(stdout|stderr|pty)": ?"')
_CLOSING: Final = b'"}}}'


def output_frame(event: OutputData) -> bytes:
    """Return the frame of `process.event_to_json(event)`, byte for byte, four times faster."""
    encoded = base64.b64encode(event.data)
    opening = b'{"event":{"data":{"%b":"' % event.stream.encode()
    header = struct.pack(">BI", 0, len(opening) + len(encoded) + len(_CLOSING))
    return b"".join((header, opening, encoded, _CLOSING))


def output_from_payload(payload: bytes) -> OutputData | None:
    """Return the output in a frame's payload; None: it is something else, or written in another way.

    What is between the opening and the closing is base64 alone, so it holds no end of a JSON string, and the message
    is the one that `process.events_from_json` would read.
    """
    opening = _OPENING.match(payload)
    if opening is None or not payload.endswith(_CLOSING):
        return None
    try:
        data = decode_base64(payload[opening.end() : -len(_CLOSING)])
    except WireError:
        return None
    return OutputData(cast(StreamName, opening[1].decode()), data) if data else None
