"""Images are passed on as they are, but not when their bytes, or what is compressed in them, hold a secret."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import secrets
import struct
import zipfile
import zlib
from collections.abc import Callable

import pytest

from sandbox_tools.redaction import Redactor, Registry
from sandbox_tools.redaction.blobs import MAX_INFLATED, MAX_LEVELS, MAX_PARTS, is_clean
from sandbox_tools.runtime import CodeResult, RichResult
from sandbox_tools.testing import FakeRuntime, fake_toolset

VALUE = secrets.token_urlsafe(24)
TEXT = f"note={VALUE};".encode()


NOISE = random.Random(1).randbytes(9_000).hex().encode()
"""Takes more than one piece to inflate, and what stands beside it does not stay readable."""


def redactor() -> Redactor:
    registry = Registry()
    registry.register("CANARY", VALUE)
    return Redactor(registry)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A real picture of one pixel, with more chunks before its end."""
    all_chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0\1\2\3")),
        *chunks,
        (b"IEND", b""),
    ]
    packed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in all_chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def zipped(text: bytes, name: str = "a/name") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("first", b"nothing " * 100)
        archive.writestr(name, text)
    return file.getvalue()


def exif(text: bytes) -> bytes:
    """A JPEG with a comment in an APP1 segment."""
    body = b"Exif\0\0" + text
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(body) + 2) + body + b"\xff\xd9"


HIDDEN: dict[str, Callable[[bytes], bytes]] = {
    "tEXt": lambda text: png((b"tEXt", b"Comment\0" + text)),
    "tEXt of base64": lambda text: png((b"tEXt", b"Comment\0" + base64.b64encode(text))),
    "zTXt": lambda text: png((b"zTXt", b"Comment\0\0" + zlib.compress(text))),
    "iTXt": lambda text: png((b"iTXt", b"XML\0\0\0en\0\0" + text)),
    "compressed iTXt": lambda text: png((b"iTXt", b"XML\0\1\0en\0a word\0" + zlib.compress(text))),
    "iCCP": lambda text: png((b"iCCP", b"profile\0\0" + zlib.compress(text))),
    "after the end": lambda text: png() + text,
    "EXIF": exif,
    "EXIF in UTF-16": lambda text: exif(text.decode().encode("utf-16")),
    "gzip": gzip.compress,
    "gzip after the end": lambda text: png() + gzip.compress(text),
    "gzip that breaks off": lambda text: gzip.compress(text + NOISE)[:-4_000],
    "gzip with a wrong sum": lambda text: gzip.compress(text + NOISE)[:-8] + bytes(8),
    "zip": zipped,
    "a name in a zip": lambda text: zipped(b"", text.decode()),
    "base64 in gzip": lambda text: gzip.compress(base64.b64encode(text)),
    "gzip in zip in zTXt": lambda text: png((b"zTXt", b"C\0\0" + zlib.compress(zipped(gzip.compress(text))))),
}


@pytest.mark.parametrize("place", HIDDEN)
def test_a_secret_in_a_file_is_found(place: str) -> None:
    assert not is_clean(redactor(), HIDDEN[place](TEXT))
    assert is_clean(redactor(), HIDDEN[place](b"an ordinary note"))


def nested(levels: int) -> bytes:
    data = b"x"
    for _ in range(levels):
        data = gzip.compress(data)
    return data


BOMBS = {
    "too large": gzip.compress(bytes(MAX_INFLATED + 1)),
    "too large together": gzip.compress(bytes(MAX_INFLATED // 2)) + gzip.compress(bytes(MAX_INFLATED // 2 + 1)),
    "too deep": nested(MAX_LEVELS + 1),
    "too many": b"\x1f\x8b\x08\0" * (MAX_PARTS + 1),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_that_is_too_much_work_is_not_clean(bomb: str) -> None:
    assert not is_clean(redactor(), BOMBS[bomb])


def test_what_is_within_the_bounds_is_clean() -> None:
    assert is_clean(redactor(), gzip.compress(bytes(MAX_INFLATED)))
    assert is_clean(redactor(), nested(MAX_LEVELS))
    assert is_clean(redactor(), random.Random(2).randbytes(1_000_000))


async def test_the_model_reads_that_an_image_was_withheld_and_sees_the_others() -> None:
    clean = png((b"tEXt", b"Comment\0made by a program"))
    images = [HIDDEN["zTXt"](TEXT), clean, BOMBS["too large"]]
    results = tuple(RichResult(images={"image/png": image}) for image in images)
    toolset = fake_toolset(FakeRuntime(code_result=CodeResult(results=results)), secrets={"CANARY": VALUE})
    result = await toolset.call("run_code", {"code": "plot()"})
    assert [image.data for image in result.images] == [clean]
    assert result.text.endswith("(Withheld: 2 of 3 images, for a secret or what cannot be searched.)")
    assert VALUE not in json.dumps(result.text)
