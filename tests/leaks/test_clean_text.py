"""Text that holds no secret is left alone, however many secrets there are."""

from __future__ import annotations

import os
import secrets
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from sandbox_tools.redaction import Redactor, Registry

IS_FULL = os.environ.get("LEAKS") == "full"
CORPUS_BYTES = 20_000_000
SECRETS = 100 if IS_FULL else 20


def corpus() -> Iterator[bytes]:
    """Yield sources, documents and data of the packages that are installed."""
    total = 0
    for folder in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(folder)).rglob("*")):
            if path.suffix in (".py", ".json", ".txt", ".md", ".js", ".pem", ".pyi", ".toml") and total < CORPUS_BYTES:
                data = path.read_bytes()
                total += len(data)
                yield data
    assert total >= CORPUS_BYTES


def test_no_value_is_found_where_there_is_none() -> None:
    registry = Registry()
    makers = (secrets.token_hex, secrets.token_urlsafe, lambda size: f"sk-{secrets.token_urlsafe(size)}")
    for number in range(SECRETS):
        registry.register(f"SECRET_{number}", makers[number % 3](32 if number % 5 else 8))
    redactor = Redactor(registry)
    assert sum(redactor.data(data) is not data for data in corpus()) == 0


def test_less_than_one_token_in_a_megabyte_is_guessed_where_there_is_none() -> None:
    redactor = Redactor(Registry())
    files = [data for number, data in enumerate(corpus()) if IS_FULL or number % 4 == 0]
    hits = sum(redactor.text(data.decode("utf-8", "replace")).count("[REDACTED:unknown-") for data in files)
    megabytes = sum(map(len, files)) / 1e6
    print(f"{hits} guesses in {megabytes:.0f} MB of clean text")
    assert hits / megabytes < 1
