"""The forms of a value: each is exactly what the encoding makes of it, no more and no less."""

from __future__ import annotations

import base64
import secrets
from itertools import product

import pytest

from sandbox_tools.redaction import Redactor, Registry
from sandbox_tools.redaction.forms import forms_of


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("size", [16, 17, 18])
@pytest.mark.parametrize("before", [0, 1, 2, 3, 4])
def test_the_base64_form_is_all_that_does_not_depend_on_the_neighbours(encode: object, size: int, before: int) -> None:
    value = secrets.token_urlsafe(32)[:size]
    neighbours = [bytes([byte]) for byte in (0, 85, 170, 255)]
    texts = [encode(left * before + value.encode() + right * 3) for left, right in product(neighbours, neighbours)]  # type: ignore[operator]
    constant = bytes(chars[0] if len(set(chars)) == 1 else ord("!") for chars in zip(*texts, strict=True))
    parts = [part for part in constant.split(b"!") if part]
    longest = max(parts, key=len)
    assert longest in forms_of(value).whole


def test_a_short_or_simple_value_has_no_fragments() -> None:
    assert forms_of(secrets.token_hex(7)).fragments == frozenset()
    assert forms_of("ab" * 20).fragments == frozenset()


def test_a_long_random_value_has_fragments_in_every_dense_form() -> None:
    value = secrets.token_urlsafe(32)
    assert {value.encode(), value.encode().hex().encode()} < forms_of(value).fragments
    assert forms_of(value).fragments <= forms_of(value).whole


@pytest.mark.parametrize(
    ("template", "is_part"),
    [
        ("eyJhbGciOiJIUzI1NiJ9.{}", True),
        ("https://user:{}@example.com/path", True),
        ("https://{}@example.com", True),
        ("redis://:{}@example.com:6379/0", True),
        ("https://hooks.example.com/{}", True),
        ("https://example.com?key={}", False),
        ("prefix.{}", False),
    ],
)
def test_the_public_start_of_a_value_has_no_fragments(template: str, is_part: bool) -> None:
    part = secrets.token_hex(16)
    value = template.format(part)
    raw = [form for form in forms_of(value).fragments if part.encode() in form]
    assert raw == [part.encode() if is_part else value.encode()]
    assert value.encode() in forms_of(value).whole


def test_the_forms_do_not_show_in_a_repr() -> None:
    assert "'" not in repr(forms_of(secrets.token_hex(16)))


def test_a_value_is_reversed_by_its_characters_and_not_by_its_bytes() -> None:
    value = "ü4Kx9é2Qm7Rt0Vb5Wz8ß"
    assert value[::-1].encode().hex().encode() in forms_of(value).spread


OF_BYTES = ("{} ", "{:o} ", "{:03o} ", "{:08b} ", "\\x{:02x}", "\\x{:02X}", "0x{:02x}, ", "0x{:02X}, ")
OF_CHARACTERS = (
    *("&#{};", "&#x{:x};", "&#x{:X};", "\\u{:04x}", "\\u{:04X}", "\\u{{{:x}}}", "\\u{{{:X}}}"),
    *("\\U{:08x}", "\\U{:08X}"),
)


@pytest.mark.parametrize("spelling", [*OF_BYTES, *OF_CHARACTERS])
def test_bytes_and_characters_of_a_value_that_is_not_ascii_are_found_in_every_notation(spelling: str) -> None:
    value = f"žluťoučký-kůň-{secrets.token_hex(8)}-ďábel"
    registry = Registry()
    registry.register("ACCENTED", value)
    numbers = value.encode() if spelling in OF_BYTES else map(ord, value)
    spelled = "".join(spelling.format(number) for number in numbers)
    redacted = Redactor(registry).text(f"see: {spelled} end")
    assert "[REDACTED:ACCENTED]" in redacted
    assert len(redacted) < 60


def test_each_line_of_a_value_of_several_lines_is_found_in_rare_encodings() -> None:
    lines = [secrets.token_urlsafe(24) for _ in range(3)]
    registry = Registry()
    registry.register("LINES", "\n".join(lines))
    for line in lines:
        assert line[::-1] not in Redactor(registry).text(f"rev: {line[::-1]} end")


def test_both_alphabets_of_base64_are_forms_of_a_value_in_which_they_differ() -> None:
    value = "ab>?cd>?ef~?"
    standard, urlsafe = base64.b64encode(value.encode()), base64.urlsafe_b64encode(value.encode())
    assert standard != urlsafe
    assert {standard, urlsafe} <= forms_of(value).whole


SPREAD_OUT = {
    "reversed": lambda value: value[::-1],
    "upper case": str.upper,
    "escapes": lambda value: "".join(f"\\x{byte:02x}" for byte in value.encode())[1:],
    "octal": lambda value: " ".join(f"{byte:03o}" for byte in value.encode()),
    "base64 of the reversed": lambda value: base64.b64encode(value[::-1].encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPREAD_OUT)
def test_a_long_value_in_a_rare_encoding_becomes_one_placeholder(spelling: str) -> None:
    """Of its slices none shows where it begins, and no character between two of them is left."""
    value = secrets.token_urlsafe(150)[:198]
    registry = Registry()
    registry.register("LONG", value)
    assert Redactor(registry).text(f"<{SPREAD_OUT[spelling](value)}>") == "<[REDACTED:LONG]>"
