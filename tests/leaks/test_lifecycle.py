"""The life of tokens: several sandboxes at once, new tokens, sandboxes that ended, and hundreds of rotations."""

from __future__ import annotations

import base64
import gc
import os
import secrets
import sys
from contextlib import ExitStack
from types import FunctionType, ModuleType

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from sandbox_tools import Toolset
from sandbox_tools.redaction import Redactor, Registry, default_registry, registry, secret
from tests.leaks import oracle
from tests.local.service import Box, LocalServer
from tests.unit.test_redaction_registry import RotationMachine


def token_of(box: Box) -> str:
    """The token that the service gives to whoever connects now."""
    answer = box.control.post(f"/sandboxes/{box.sandbox_id}/connect", json={"timeout": 0})
    token: str = answer.json()["envdAccessToken"]
    return token


async def assert_none_shows(toolset: Toolset, box: Box, tokens: list[str]) -> None:
    """Let a sandbox print them, as they are and encoded."""
    spelled = [spelling for token in tokens for spelling in (token, base64.b64encode(b"x:" + token.encode()).decode())]
    result = await toolset.call("exec", {"command": f"echo {' '.join(spelled)} >&2", "sandbox_id": box.sandbox_id})
    assert result.text.count("[REDACTED:SANDBOX_TOKEN]") == len(spelled)
    assert [token for token in tokens if oracle.shows(result.text.encode(), token)] == []


async def test_no_sandbox_shows_the_token_of_another_nor_an_old_one_nor_that_of_one_that_ended(
    local_server: LocalServer,
) -> None:
    with ExitStack() as stack:
        boxes = [stack.enter_context(local_server.sandbox()) for _ in range(3)]
        tokens = [token_of(box) for box in boxes]
        async with Toolset.open(base_url=local_server.base_url, api_key=local_server.api_key) as toolset:
            for box in boxes:
                await toolset.call("exec", {"command": "true", "sandbox_id": box.sandbox_id})
            for box in boxes:
                await assert_none_shows(toolset, box, tokens)
            boxes[0].control.post(f"/sandboxes/{boxes[0].sandbox_id}/pause")
            await toolset.call("exec", {"command": "true", "sandbox_id": boxes[0].sandbox_id})
            tokens.append(token_of(boxes[0]))
            assert len(set(tokens)) == 4
            boxes[1].control.delete(f"/sandboxes/{boxes[1].sandbox_id}")
            gone = await toolset.call("exec", {"command": "true", "sandbox_id": boxes[1].sandbox_id})
            assert "has ended" in gone.text
            for box in (boxes[0], boxes[2]):
                await assert_none_shows(toolset, box, tokens)
        known = default_registry()
        assert {known._by_value[token] in known._retired for token in tokens} == {True}
        assert Redactor(known).text(" ".join(tokens)) == " ".join(["[REDACTED:SANDBOX_TOKEN]"] * 4)


def size_of(value: object) -> int:
    """Bytes of all that can be reached."""
    seen: dict[int, object] = {}
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if id(found) not in seen and not isinstance(found, (type, ModuleType, FunctionType)):
            seen[id(found)] = found
            waiting += gc.get_referents(found)
    return sum(map(sys.getsizeof, seen.values()))


def test_500_rotations_keep_the_last_values_secret_and_memory_bounded() -> None:
    """Every value is registered before the one before it is retired, as it is with a new token.

    Short ones by default, which are found in fewer forms: registering 500 tokens takes seconds.
    """
    size_bytes = 32 if os.environ.get("LEAKS") == "full" else 6
    one, values = Registry(), [secrets.token_hex(size_bytes) for _ in range(500)]
    handles = [one.register("TOKEN", values[0])]
    size = 0
    before = len(secret._VALUES)
    for value in values[1:]:
        handles = [handles[-1], one.register("TOKEN", value)]
        one.retire(handles[0])
        if value == values[registry.MAX_RETIRED]:
            size = size_of(one)
    kept = values[-registry.MAX_RETIRED // 2 :]
    assert Redactor(one).text(" ".join(kept)) == " ".join(["[REDACTED:TOKEN]"] * len(kept))
    assert len(one._parts) == len(one._by_value) == len(one._plain) <= registry.MAX_RETIRED + 1
    assert len(secret._VALUES) - before <= registry.MAX_RETIRED + 1
    assert size_of(one) < 1.2 * size


FAR = "-" * 1100
"""Nothing that comes after it can belong to what is before it, so that the stream holds nothing of that back."""


class Talk:
    """One stream, and the value that is in the middle of it."""

    def __init__(self, redactor: Redactor) -> None:
        self.stream = redactor.stream()
        self.out = b""
        self.said: set[str] = set()
        self.value = self.rest = ""

    def say(self, text: str) -> None:
        self.out += self.stream.feed(text.encode())


class StreamingMachine(RotationMachine):
    """The same with streams that go on meanwhile, and may be in the middle of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.talks: list[Talk] = []

    @property
    def known(self) -> list[str]:
        return [*self.live, *self.retired]

    @rule()
    def open_stream(self) -> None:
        self.talks.append(Talk(Redactor(self.registry)))

    @precondition(lambda self: self.talks and self.known)
    @rule(which=st.integers(0, 9), number=st.integers(0, 100), cut=st.integers(1, 31))
    def begin_value(self, which: int, number: int, cut: int) -> None:
        talk = self.talks[which % len(self.talks)]
        self._end_value(talk)
        talk.value = self.known[number % len(self.known)]
        talk.rest = talk.value[cut:]
        talk.say(f" {talk.value[:cut]}")

    @precondition(lambda self: self.talks)
    @rule(which=st.integers(0, 9))
    def end_value(self, which: int) -> None:
        self._end_value(self.talks[which % len(self.talks)])

    @precondition(lambda self: self.talks)
    @rule(which=st.integers(0, 9))
    def close_stream(self, which: int) -> None:
        self._close(self.talks.pop(which % len(self.talks)))

    def teardown(self) -> None:
        for talk in self.talks:
            self._close(talk)

    def _end_value(self, talk: Talk) -> None:
        talk.say(talk.rest + FAR)
        (talk.said.add if talk.value in self.known else talk.said.discard)(talk.value)  # else: forgotten in the middle
        talk.value = talk.rest = ""

    def _close(self, talk: Talk) -> None:
        self._end_value(talk)
        talk.out += talk.stream.close()
        assert [value for value in talk.said if value.encode() in talk.out] == []


def test_rotation_in_any_order_while_streams_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_LIVE", 6)
    monkeypatch.setattr(registry, "MAX_RETIRED", 4)
    run_state_machine_as_test(
        StreamingMachine, settings=settings(max_examples=10, stateful_step_count=30, deadline=None)
    )
