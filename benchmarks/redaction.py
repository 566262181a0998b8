"""How fast output passes through redaction and the output budget: with the standard library, and with Hyperscan.

Times depend on the machine, so every number stands beside what the same run measured for one search with
`bytes.find` and for one copy of the same bytes. Run: `python -m benchmarks.redaction`.
"""

from __future__ import annotations

import base64
import json
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final
from unittest.mock import patch

from sandbox_tools.output import OutputWindow, TextDecoder
from sandbox_tools.redaction import Redactor, Registry, literals

CORPUS_BYTES: Final = 10_000_000
CHAIN_BYTES: Final = 200_000_000
ROUNDS: Final = 5

_KINDS: Final[tuple[Callable[[], str], ...]] = (
    lambda: secrets.token_hex(32),
    lambda: secrets.token_urlsafe(32),
    lambda: f"sk-{secrets.token_urlsafe(36)}",
)


def main() -> None:
    """Measure and print."""
    clean = corpus()
    print(f"clean text: source code, logs, JSON and base64, {len(clean) / 1e6:.0f} MB; processor time")
    absent = secrets.token_urlsafe(32).encode()
    find = _print_rate("bytes.find of a value that is not there", clean, lambda: clean.find(absent))
    copy = _print_rate("copy", clean, lambda: bytearray(clean))
    with patch.object(literals, "BYTES_PER_LITERAL", sys.maxsize):
        _print_engine("standard library", clean, find, copy)
    if literals.IS_INSTALLED:
        with patch.object(literals, "BYTES_PER_LITERAL", 0):
            _print_engine("Hyperscan", clean, find, copy)


def _print_engine(engine: str, clean: bytes, find: float, copy: float) -> None:
    print(f"{engine}:")
    redactor, values = redactor_of(10)
    _prepare(redactor, clean)
    rate = _print_rate("redact, 10 secrets", clean, lambda: redactor.data(clean))
    print(f"  that is {rate / find:.1%} of one bytes.find, {rate / copy:.1%} of a copy")
    for count in (1, 100):
        other = redactor_of(count)[0]
        _prepare(other, clean)
        _print_rate(f"redact, {count} secrets", clean, partial(other.data, clean))
    _print_chunks(redactor, clean)
    _print_hits(redactor, clean, values)
    _print_chain(redactor, clean)


def _prepare(redactor: Redactor, clean: bytes) -> None:
    """Wait until Hyperscan is ready, if it is to be used."""
    start = time.perf_counter()
    redactor.data(clean[: literals.MIN_BYTES * 2])
    threads = [thread for thread in threading.enumerate() if thread.name == literals.THREAD_NAME]
    for thread in threads:
        thread.join()
    if threads:
        print(f"  {'ready after (in threads of its own)':42} {(time.perf_counter() - start) * 1e3:8.0f} ms")


def corpus() -> bytes:
    """Return clean text of the kinds that commands print, the same mix on every machine."""
    rng = random.Random(7)
    source = b"".join(path.read_bytes() for path in sorted(Path(json.__file__).parents[1].glob("*.py")))
    log = "".join(f"2026-01-01T00:00:{n % 60:02} INFO worker-{n} did {rng.randrange(10**6)}\n" for n in range(50_000))
    records = json.dumps([{"id": n, "sha": rng.randbytes(20).hex(), "ok": True} for n in range(20_000)])
    encoded = base64.encodebytes(rng.randbytes(CORPUS_BYTES // 9))
    quarter = CORPUS_BYTES // 4
    parts = (source, log.encode(), records.encode(), encoded)
    return b"".join((part * (quarter // len(part) + 1))[:quarter] for part in parts)


def redactor_of(count: int) -> tuple[Redactor, list[str]]:
    """Return a redactor of `count` secrets of three usual kinds, and the secrets."""
    values = [_KINDS[number % len(_KINDS)]() for number in range(count)]
    registry = Registry()
    for number, value in enumerate(values):
        registry.register(f"SECRET_{number}", value)
    return Redactor(registry), values


def _best_s(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


def _print_rate(what: str, data: bytes, work: Callable[[], object]) -> float:
    rate = len(data) / 1e6 / _best_s(work)
    print(f"  {what:42} {rate:8.0f} MB/s")
    return rate


def _print_chunks(redactor: Redactor, clean: bytes) -> None:
    for size in (256, 4096, 65_536):
        data = clean[: size * 2000]
        count = -(-len(data) // size)
        each_us = _best_s(partial(_stream, redactor, data, size)) / count * 1e6
        print(f"  {f'stream in pieces of {size:,} bytes':42} {each_us:8.1f} us each")


def _stream(redactor: Redactor, data: bytes, size: int) -> None:
    stream = redactor.stream()
    for at in range(0, len(data), size):
        stream.feed(data[at : at + size])
    stream.close()


def _print_hits(redactor: Redactor, clean: bytes, values: list[str]) -> None:
    every_line = "".join(f"key {value}\n" for value in values * 150).encode()
    sometimes = b"".join(clean[at : at + 10_000] + values[0].encode() for at in range(0, 5_000_000, 10_000))
    _print_rate("a secret in every line (1,500)", every_line, lambda: redactor.data(every_line))
    _print_rate("a secret in every 10 KB", sometimes, lambda: redactor.data(sometimes))


def _print_chain(redactor: Redactor, clean: bytes) -> None:
    elapsed = _best_s(lambda: _chain(redactor, clean), rounds=1)
    print(f"  {'redact, decode, window: 200 MB, 32 KB pieces':42} {CHAIN_BYTES / 1e6 / elapsed:8.0f} MB/s")


def _chain(redactor: Redactor, clean: bytes) -> str:
    stream, decoder, window, size = redactor.stream(), TextDecoder(), OutputWindow(), 32_768
    for at in range(0, CHAIN_BYTES, size):
        window.feed(decoder.feed(stream.feed(_piece(clean, at, size))))
    window.feed(decoder.feed(stream.close()) + decoder.close())
    return window.render()


def _piece(clean: bytes, at: int, size: int) -> bytes:
    start = at % (len(clean) - size)
    return clean[start : start + size]


if __name__ == "__main__":
    main()
