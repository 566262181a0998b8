"""Reads multipart/form-data as it comes: nothing of a file is kept here."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sandbox_tools.local.web import RequestError

MAX_PARTS: Final = 1000
MAX_PART_HEADER_BYTES: Final = 16_384

_END: Final = b""
"""Of a part; its content has no empty piece."""


@dataclass(frozen=True, slots=True)
class Part:
    """The head of one part: its field name, and the name of its file if it is one."""

    name: str
    filename: str | None


class FormReader:
    """Splits a body into its parts.

    Args:
        content_type: The header of the request.

    Raises:
        RequestError: The header names no usable boundary (400). So does the iteration for what is no form (400), or
            has too many or too long parts' heads (413).
    """

    def __init__(self, chunks: AsyncIterator[bytes], content_type: str) -> None:
        self._chunks = chunks
        self._events: deque[Part | bytes] = deque()
        self._headers: list[tuple[bytearray, bytearray]] = []
        self._header_bytes = 0
        self._parts = 0
        self._ended = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        parser = _parser(self, boundary) if boundary else None
        if parser is None:
            raise RequestError(400, "the content type names no usable boundary")
        self._parser: Final = parser

    async def parts(self) -> AsyncIterator[Part]:
        """Yield the head of each part. Content that was not read with `content` is skipped."""
        while (event := await self._next()) is not None:
            if isinstance(event, Part):
                yield event

    async def content(self) -> AsyncIterator[bytes]:
        """Yield the content of the part whose head came last."""
        while isinstance(event := await self._next(), bytes) and event != _END:
            yield event

    async def _next(self) -> Part | bytes | None:
        while not self._events:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                if not self._ended:
                    raise RequestError(400, "the form is not whole")
                return None
            self._feed(chunk)
        return self._events.popleft()

    def _feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError:
            pass
        else:
            return
        raise RequestError(400, "the body is not a multipart form")

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise RequestError(413, f"the form has more than {MAX_PARTS} parts")
        self._headers.clear()
        self._header_bytes = 0

    def on_header_begin(self) -> None:
        self._headers.append((bytearray(), bytearray()))

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._headers[-1][0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._headers[-1][1].extend(data[start:end])

    def on_headers_finished(self) -> None:
        headers = {bytes(name).lower(): bytes(value) for name, value in self._headers}
        options = parse_options_header(headers.get(b"content-disposition"))[1]
        filename = options.get(b"filename")
        self._events.append(Part(_text(options.get(b"name", b"")), None if filename is None else _text(filename)))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if end > start:
            self._events.append(data[start:end])

    def on_part_end(self) -> None:
        self._events.append(_END)

    def on_end(self) -> None:
        self._ended = True

    def _count(self, size: int) -> None:
        self._header_bytes += size + 2
        if self._header_bytes > MAX_PART_HEADER_BYTES:
            raise RequestError(413, f"the head of a part is larger than {MAX_PART_HEADER_BYTES} bytes")


def _parser(reader: FormReader, boundary: bytes) -> MultipartParser | None:
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": reader.on_part_begin,
                "on_header_begin": reader.on_header_begin,
                "on_header_field": reader.on_header_field,
                "on_header_value": reader.on_header_value,
                "on_headers_finished": reader.on_headers_finished,
                "on_part_data": reader.on_part_data,
                "on_part_end": reader.on_part_end,
                "on_end": reader.on_end,
            },
        )
    except FormParserError:  # too long
        return None


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        pass
    raise RequestError(400, "a name in the form is not UTF-8")
