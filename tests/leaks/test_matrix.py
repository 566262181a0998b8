"""Every way to say a secret, through every way out: the oracle gets none out of what comes out."""

from __future__ import annotations

import logging
import os

import pytest

from sandbox_tools.redaction import Redactor, Registry
from tests.leaks import oracle
from tests.leaks.matrix import CLEAN, SEED, Canary, Case, canaries, cross
from tests.leaks.matrix_exits import EXITS, saying_toolset

CASES = cross(tuple(EXITS))
IS_FULL = os.environ.get("LEAKS") == "full"
SHARE = 1 if IS_FULL else 6
"""One case in so many is tried, of each way out."""

CANARIES = canaries()

AGAIN = f"LEAKS_SEED={SEED} repeats this run"


def leaks(outputs: list[bytes], canary: Canary) -> bool:
    clean = CLEAN.strip().encode()  # thousands of times, and slow to decode in every way
    return any(oracle.shows(output.replace(clean, b""), part) for output in outputs for part in canary.parts)


@pytest.mark.parametrize("name", EXITS)
async def test_nothing_of_a_secret_comes_out(
    name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cases = [case for case in CASES if case.exit == name][::SHARE]
    leaking: list[Case] = []
    async with EXITS[name](saying_toolset(CASES, CANARIES)) as way:
        for case in cases:
            outputs = await way.call(*case.call)
            assert _says_nothing(case) or _is_hidden(b"".join(outputs)), case
            if leaks(outputs, CANARIES[case.kind]):
                leaking.append(case)
    beside = [*way.beside, *(repr(vars(record)).encode() for record in caplog.records)]
    beside += [text.encode() for text in capfd.readouterr()]
    assert [kind for kind, canary in CANARIES.items() if any(part in str(beside) for part in canary.parts)] == []
    assert leaking == [], AGAIN
    print(f"{len(cases)} cases by {name}: 0 leaks")


def _says_nothing(case: Case) -> bool:
    """Of a foreign error only the type is told; of a long output what is at the cut may be left out."""
    return case.source == "foreign error" or case.nesting == "long"


def _is_hidden(output: bytes) -> bool:
    return b"REDACTED" in output or b"ithheld" in output


def test_the_oracle_gets_at_a_secret_that_is_not_redacted() -> None:
    cases = CASES[::SHARE]
    unseen = [case for case in cases if not leaks([case.payload(CANARIES[case.kind])], CANARIES[case.kind])]
    print(f"the oracle sees {len(cases) - len(unseen)} of {len(cases)} secrets when nothing is redacted")
    assert len(unseen) <= 0.01 * len(cases), (unseen, AGAIN)


def test_no_way_to_cut_a_stream_lets_a_secret_through() -> None:
    """Every encoding of every secret, cut in every way; wrapped in one way or another."""
    registry = Registry()
    for name, canary in CANARIES.items():
        registry.register(name, canary.value)
    redactor = Redactor(registry)
    cases = cross(("stream",), ("encoding", "chunking", "kind")) if IS_FULL else cross(("stream",))[::SHARE]
    leaking = [case for case in cases if leaks([_streamed(redactor, case)], CANARIES[case.kind])]
    assert leaking == [], AGAIN
    print(f"{len(cases)} cases by the stream redactor: 0 leaks")


def _streamed(redactor: Redactor, case: Case) -> bytes:
    stream = redactor.stream()
    return b"".join(map(stream.feed, case.pieces(CANARIES[case.kind]))) + stream.close()
