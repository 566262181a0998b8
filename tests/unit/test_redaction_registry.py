"""Which values can be registered, and how long they are redacted."""

from __future__ import annotations

import re
import secrets
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sandbox_tools.errors import SandboxToolsError, WeakSecretError
from sandbox_tools.redaction import Counts, Redactor, Registry, default_registry, registry
from sandbox_tools.redaction.matcher import Match
from sandbox_tools.redaction.patterns import Patterns
from tests.unit.redaction_cases import SECRETS


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "fewer than 8"),
        ("kjh4f_2", "fewer than 8"),
        ("x9" * 4097, "more than 8192"),
        (" kjh4f_2q8w", "begins or ends"),
        ("kjh4f_2q8w\n", "begins or ends"),
        ("kjh4f_2q8w\x00", "begins or ends"),
        ("kjh4f_2q8w\u200b", "begins or ends"),
        ("kjh4f\ud8002q8w", "not valid Unicode"),
        ("password", "common word"),
        ("PassWord123", "common word"),
        ("postgres", "common word"),
        ("123456789", "common word"),
        ("--------", "one character"),
        ("REDACTED", "part of a placeholder"),
        ("MY_OWN_NAME", "part of a placeholder"),
    ],
)
def test_a_value_that_would_damage_ordinary_text_is_refused(value: str, problem: str) -> None:
    with pytest.raises(WeakSecretError, match=problem) as caught:
        Registry().register("MY_OWN_NAME", value)
    assert caught.value.name == "MY_OWN_NAME"
    assert isinstance(caught.value, SandboxToolsError)


@pytest.mark.parametrize("value", ["kjh4f_2", " kjh4f_2q8w", "qwertyuiop12"])
def test_the_refusal_does_not_show_the_value(value: str) -> None:
    with pytest.raises(WeakSecretError) as caught:
        Registry().register("KEY", value)
    assert value not in f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert caught.value.__context__ is None


def test_a_refused_value_leaves_the_registry_as_it_was() -> None:
    refusing = Registry()
    before = refusing.patterns()
    with pytest.raises(WeakSecretError):
        refusing.register("KEY", "REDACTED")
    assert refusing.patterns() is before


def test_a_value_that_hides_in_the_placeholder_of_another_secret_is_refused() -> None:
    one = Registry()
    one.register("DEPLOY_TOKEN", secrets.token_hex(16))
    with pytest.raises(WeakSecretError, match="part of a placeholder"):
        one.register("OTHER", "DEPLOY_TOKEN")


def test_a_name_in_whose_placeholder_another_secret_hides_is_refused() -> None:
    one = Registry()
    one.register("OTHER", "DEPLOY_TOKEN")
    with pytest.raises(WeakSecretError, match="part of a placeholder"):
        one.register("DEPLOY_TOKEN", secrets.token_hex(16))


class _MissesHex(Patterns):
    """Finds no hexadecimal."""

    __slots__ = ()

    def find(self, data: bytes) -> list[Match]:
        return super().find(b"" if re.fullmatch(rb"[0-9a-f]{40,}", data) else data)


def test_a_value_that_the_redactor_would_miss_in_some_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "Patterns", _MissesHex)
    refusing, value = Registry(), secrets.token_urlsafe(24)
    with pytest.raises(WeakSecretError, match="not found again"):
        refusing.register("KEY", value)
    assert refusing.names() == frozenset()
    assert refusing.patterns().find(value.encode()) == []


@pytest.mark.parametrize(
    "value",
    [
        *SECRETS.values(),
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIKq\nx9fT3LmQ2vZ8\n-----END PRIVATE KEY-----",
        "postgres://user:kj%34h@host.example/db",
        "\u00fc" * 7 + "x",
        "q7" * 4096,
    ],
    ids=lambda value: str(len(value)),
)
def test_every_value_that_is_strange_but_not_weak_is_found_again(value: str) -> None:
    assert Registry().register("KEY", value).name == "KEY"


@pytest.mark.parametrize("name", ["", "lower", "WITH SPACE", "A" * 33, "NEW\nLINE", "BRACKET]", "NEWLINE\n"])
def test_a_name_that_cannot_stand_in_a_placeholder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of a secret"):
        Registry().register(name, secrets.token_hex(16))


def test_the_same_value_gives_the_same_handle() -> None:
    one, value = Registry(), secrets.token_hex(16)
    handle = one.register("FIRST", value)
    assert one.register("SECOND", value) is handle
    assert Redactor(one).text(value) == "[REDACTED:FIRST]"


def test_a_retired_value_is_still_redacted() -> None:
    one, value = Registry(), secrets.token_hex(16)
    one.retire(one.register("TOKEN", value))
    assert Redactor(one).text(value) == "[REDACTED:TOKEN]"


def test_only_the_oldest_retired_values_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_RETIRED", 4)
    one, values = Registry(), [secrets.token_hex(16) for _ in range(6)]
    handles = [one.register("TOKEN", value) for value in values]
    assert one.register("TOKEN", values[1]) is handles[1]
    for handle in (*handles[:5], handles[4]):
        one.retire(handle)
    redacted = [Redactor(one).text(value) != value for value in values]
    assert redacted == [False, False, True, True, True, True]


def test_a_value_too_many_is_refused_until_one_is_retired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_LIVE", 2)
    one, values = Registry(), [secrets.token_hex(16) for _ in range(3)]
    handles = [one.register("TOKEN", value) for value in values[:2]]
    assert one.register("TOKEN", values[0]) is handles[0]
    with pytest.raises(WeakSecretError, match="one too many") as caught:
        one.register("TOKEN", values[2])
    assert values[2] not in str(caught.value)
    one.retire(handles[0])
    one.register("TOKEN", values[2])
    assert Redactor(one).text(" ".join(values)) == " ".join(["[REDACTED:TOKEN]"] * 3)


def test_what_was_redacted_is_counted_by_name() -> None:
    one, value = Registry(), secrets.token_hex(16)
    one.register("TOKEN", value)
    redactor = Redactor(one)
    redactor.walk([value, {"k": value.encode()}])
    redactor.stream().finish(value.encode() * 2)
    redactor.text(f"{value} password=a1b2c3d4e5f60718")
    assert Redactor(one).counts() == Counts(placeholders={"TOKEN": 5, "unknown-secret": 1}, withheld=0, blocked={})
    redactor.text(f"{value}\n" * 2001)
    assert redactor.counts().withheld == 1
    assert redactor.counts().placeholders["TOKEN"] == 2005


class RotationMachine(RuleBasedStateMachine):
    """Any order of registering, retiring and registering again: what is live is redacted, and memory is bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.registry, self.live, self.retired = Registry(), {}, {}

    @rule()
    def register(self) -> None:
        value = secrets.token_hex(16)
        if len(self.live) < registry.MAX_LIVE:
            self.live[value] = self.registry.register("TOKEN", value)

    @precondition(lambda self: self.live)
    @rule(number=st.integers(0, 100))
    def retire(self, number: int) -> None:
        value = list(self.live)[number % len(self.live)]
        self.retired[value] = self.live.pop(value)
        self.registry.retire(self.retired[value])
        if len(self.retired) > registry.MAX_RETIRED:
            self.retired = dict(list(self.retired.items())[registry.MAX_RETIRED // 2 :])

    @precondition(lambda self: self.retired and len(self.live) < registry.MAX_LIVE)
    @rule(number=st.integers(0, 100))
    def register_again(self, number: int) -> None:
        value = list(self.retired)[number % len(self.retired)]
        del self.retired[value]
        self.live[value] = self.registry.register("TOKEN", value)

    @invariant()
    def what_is_live_or_retired_and_not_forgotten_is_redacted(self) -> None:
        text = " ".join([*self.live, *self.retired])
        assert Redactor(self.registry).text(text).replace("[REDACTED:TOKEN]", "").strip() == ""

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.registry._parts) == len(self.live) + len(self.retired)


@pytest.mark.usefixtures("small_registry")
def test_rotation_in_any_order() -> None:
    run_state_machine_as_test(RotationMachine, settings=settings(max_examples=8, stateful_step_count=20, deadline=None))


@pytest.fixture
def small_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_LIVE", 6)
    monkeypatch.setattr(registry, "MAX_RETIRED", 4)


def test_a_retired_value_that_is_registered_again_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_RETIRED", 2)
    one, value = Registry(), secrets.token_hex(16)
    handle = one.register("TOKEN", value)
    one.retire(handle)
    assert one.register("TOKEN", value) is handle
    for _ in range(10):
        one.retire(one.register("TOKEN", secrets.token_hex(16)))
    assert Redactor(one).text(value) == "[REDACTED:TOKEN]"


def test_retiring_a_handle_of_another_registry_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_RETIRED", 2)
    one, other, value = Registry(), Registry(), secrets.token_hex(16)
    one.register("TOKEN", value)
    for number in range(3 * registry.MAX_RETIRED):
        one.retire(other.register("TOKEN", value if number == 0 else secrets.token_hex(16)))
    assert Redactor(one).text(value) == "[REDACTED:TOKEN]"


def test_what_is_registered_stays_found_while_others_are_registered() -> None:
    one, value, found = Registry(), secrets.token_hex(16), []
    one.register("TOKEN", value)
    done = threading.Event()

    def search() -> None:
        redactor = Redactor(one)
        while not done.is_set():
            found.append(redactor.text(f"a line with {value} in it"))

    searching = threading.Thread(target=search)
    searching.start()
    for number in range(40):
        one.register(f"TOKEN_{number}", secrets.token_hex(16))
    done.set()
    searching.join()
    assert set(found) == {"a line with [REDACTED:TOKEN] in it"}


def test_a_forgotten_value_is_not_looked_for_any_more() -> None:
    one, values = Registry(), [secrets.token_hex(5) for _ in range(registry.MAX_RETIRED + 1)]
    for value in values:
        one.retire(one.register("TOKEN", value))
    assert one.patterns().find(values[0].encode()) == []
    assert one.patterns().find(values[-1].encode()) != []


def test_values_with_the_same_middle_are_both_found() -> None:
    one = Registry()
    one.register("FIRST", "a7Kx9mZp2b")
    one.register("SECOND", "c7Kx9mZp2d")
    assert Redactor(one).text("a7Kx9mZp2b c7Kx9mZp2d") == "[REDACTED:FIRST] [REDACTED:SECOND]"


def test_registering_from_many_threads_loses_nothing() -> None:
    one, values = Registry(), [secrets.token_hex(16) for _ in range(40)]
    start = threading.Barrier(8)

    def register(part: list[str]) -> None:
        start.wait(10)
        for value in part:
            one.register("TOKEN", value)

    threads = [threading.Thread(target=register, args=(values[at::8] + values[:5],)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert Redactor(one).text(" ".join(values)) == " ".join(["[REDACTED:TOKEN]"] * 40)


def test_a_process_has_one_registry() -> None:
    assert default_registry() is default_registry()


def test_of_a_url_only_the_password_is_secret_in_pieces() -> None:
    one, password = Registry(), secrets.token_hex(12)
    url = f"postgres://app_user:{password}@db.internal.example.com:5432/production"
    one.register("DATABASE_URL", url)
    text = Redactor(one).text
    assert text(f"<{url}>") == "<[REDACTED:DATABASE_URL]>"
    assert text(f"password={password}") == "password=[REDACTED:DATABASE_URL]"
    assert text("up: db.internal.example.com:5432/production") == "up: db.internal.example.com:5432/production"
