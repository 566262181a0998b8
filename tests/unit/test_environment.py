"""What a user gives to the processes of a sandbox: what is registered, what is refused, and for how long."""

from __future__ import annotations

import secrets
import traceback
from contextlib import AbstractContextManager

import pytest

from sandbox_tools.environment import (
    Environment,
    PublicValue,
    looks_secret,
    register_variable,
    secrets_of,
    variables_of,
)
from sandbox_tools.errors import ConfigurationError, WeakSecretError
from sandbox_tools.redaction import Redactor, Registry


def no_notice(text: str) -> None:
    raise AssertionError(text)


@pytest.fixture
def value() -> str:
    return f"ghp_{secrets.token_urlsafe(27)}"


def test_a_secret_is_given_by_its_value_or_by_the_name_of_a_variable(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", value)
    registry = Registry()
    for given in ({"GITHUB_TOKEN": value}, ["GITHUB_TOKEN"]):
        with secrets_of(registry, given) as environment:
            assert environment.names == ("GITHUB_TOKEN",)
            assert environment.values(["GITHUB_TOKEN"]) == {"GITHUB_TOKEN": value}
            assert Redactor(registry).text(f"<{value}>") == "<[REDACTED:GITHUB_TOKEN]>"


def test_a_name_with_a_host_is_a_secret_that_stays_outside(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", value)
    registry = Registry()
    with secrets_of(registry, ["GITHUB_TOKEN@api.github.com,github.com"]) as environment:
        [injection] = environment.injections
        assert injection.hosts == {"api.github.com", "github.com"}
        assert injection.headers == {"authorization"}
        assert environment.values() == {"GITHUB_TOKEN": injection.placeholder}
        assert Redactor(registry).text(value) == "[REDACTED:GITHUB_TOKEN]"
    assert in_use(registry) == 0


@pytest.mark.parametrize("given", [None, {}, [], ()])
def test_nothing_given_is_nothing(given: dict[str, str] | list[str] | None) -> None:
    with secrets_of(Registry(), given) as environment:
        assert environment.names == ()
    with variables_of(Registry(), given, on_notice=no_notice) as environment:
        assert environment.values() == {}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("GITHUB_TOKEN", "mappings of names to values, or lists of names"),
        (["NOT_SET_ANYWHERE_TOKEN"], "NOT_SET_ANYWHERE_TOKEN is not set in the environment"),
        (["GITHUB_TOKEN=Zq7mWc2RtY9xLp4V"], "A secret is named like GITHUB_TOKEN"),
        (["HOME@*.example.com"], "The hosts of an InjectedSecret"),
        (["HOME@"], "The hosts of an InjectedSecret"),
        ({"Zq7mWc2RtY9xLp4V": "x"}, "A secret is named like GITHUB_TOKEN"),
        ({"1TOKEN": "Zq7mWc2RtY9xLp4V"}, "A secret is named like GITHUB_TOKEN"),
        ({"T" * 33: "Zq7mWc2RtY9xLp4V"}, "A secret is named like GITHUB_TOKEN"),
        ({"TOKEN": "Zq7mWc2\0RtY9xLp4V"}, "TOKEN cannot be that of a variable"),
        ({"TOKEN": "Zq7mWc2\ud800RtY9xLp4V"}, "TOKEN cannot be that of a variable"),
        ({"TOKEN": "hunter2"}, "it has fewer than 8 characters"),
        ({"TOKEN": ""}, "it has fewer than 8 characters"),
        ({"TOKEN": "changeme1234"}, "it is a common word"),
    ],
)
def test_what_cannot_be_a_secret_is_refused_with_the_reason_and_without_the_value(given: object, problem: str) -> None:
    with (
        pytest.raises((ConfigurationError, WeakSecretError), match=problem) as failure,
        secrets_of(
            Registry(),
            given,  # type: ignore[arg-type]  # also what is none
        ),
    ):
        pass
    assert "Zq7mWc2" not in str(failure.value)


def test_a_refused_secret_leaves_no_other_in_use(value: str) -> None:
    registry = Registry()
    with pytest.raises(WeakSecretError), secrets_of(registry, {"GOOD_TOKEN": value, "BAD_TOKEN": "x"}):
        pass
    assert in_use(registry) == 0


def test_a_value_is_in_use_until_the_last_block_that_was_given_it_has_ended(value: str) -> None:
    registry = Registry()
    with secrets_of(registry, {"TOKEN": value, "SAME_TOKEN": value}):
        with variables_of(registry, {"OTHER_TOKEN": value}, on_notice=no_notice):
            assert in_use(registry) == 1
        assert in_use(registry) == 1
    assert in_use(registry) == 0
    assert Redactor(registry).text(value) == "[REDACTED:TOKEN]"


@pytest.mark.parametrize(
    "name",
    [
        "GITHUB_TOKEN",
        "TOKEN",
        "npm_token",
        "CLIENT_SECRET",
        "SECRETS",
        "DB_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "GCP_CREDENTIALS",
        "TEST_DATABASE_URL",
        "SENTRY_DSN",
    ],
)
def test_a_name_says_that_its_value_is_secret(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["PATH", "TOKENIZERS_PARALLELISM", "MONKEY", "TOKEN_URL", "SECRETARY"])
def test_a_name_says_nothing(name: str) -> None:
    assert not looks_secret(name)


def test_of_variables_those_are_registered_whose_names_look_secret(value: str) -> None:
    registry = Registry()
    with variables_of(registry, {"npm_token": value, "REGION": "europe-west-3"}, on_notice=no_notice) as environment:
        assert environment.values() == {"npm_token": value, "REGION": "europe-west-3"}
        assert Redactor(registry).text(f"{value} europe-west-3") == "[REDACTED:NPM_TOKEN] europe-west-3"


def test_a_variable_that_should_be_redacted_and_cannot_is_told_and_set(value: str) -> None:
    told: list[str] = []
    with variables_of(Registry(), {"SORT_KEY": "name"}, on_notice=told.append) as environment:
        assert environment.values() == {"SORT_KEY": "name"}
    problem = "The value of SORT_KEY cannot be registered as a secret: it has fewer than 8 characters."
    assert told == [f"{problem} It is passed on all the same, and is not redacted."]
    assert register_variable(Registry(), "REGION", value, on_notice=no_notice) is None


def test_a_value_that_is_said_to_be_public_is_not_registered(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    public, secret = secrets.token_hex(16), value
    monkeypatch.setenv("A_KEY", public)
    monkeypatch.setenv("B_KEY", secret)
    for given in ({"A_KEY": PublicValue(public), "B_KEY": secret}, ["A_KEY:public", "B_KEY"]):
        registry = Registry()
        with variables_of(registry, given, on_notice=no_notice) as environment:
            assert environment.values() == {"A_KEY": public, "B_KEY": secret}
            assert Redactor(registry).text(f"{public} {secret}") == f"{public} [REDACTED:B_KEY]"


def test_a_name_that_is_given_both_ways_is_not_public(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", value)
    registry = Registry()
    with variables_of(registry, ["A_KEY", "A_KEY:public"], on_notice=no_notice):
        assert Redactor(registry).text(value) == "[REDACTED:A_KEY]"


def test_what_is_registered_stays_redacted_when_it_is_said_to_be_public(value: str) -> None:
    registry = Registry()
    registry.register("SANDBOX_TOKEN", value)
    with variables_of(registry, {"A_KEY": PublicValue(value)}, on_notice=no_notice):
        assert Redactor(registry).text(value) == "[REDACTED:SANDBOX_TOKEN]"
    with secrets_of(registry, {"A_KEY": PublicValue(value[::-1])}):
        assert Redactor(registry).text(value[::-1]) == "[REDACTED:A_KEY]"


def test_nothing_shows_the_values(value: str) -> None:
    """Not a repr, nor a traceback with the variables of every function."""
    given = {"TOKEN": value}
    opened = secrets_of(Registry(), given), variables_of(Registry(), given, on_notice=no_notice)
    shown = traceback_with_variables(*opened)
    assert "<Environment>" in shown
    assert value not in shown
    assert not hasattr(Environment(), "__dict__")


def traceback_with_variables(*opened: AbstractContextManager[Environment]) -> str:
    try:
        with opened[0] as environment, opened[1]:
            environment.values()
            raise ZeroDivisionError
    except ZeroDivisionError as exc:
        return "".join(traceback.TracebackException.from_exception(exc, capture_locals=True).format())


def in_use(registry: Registry) -> int:
    return len(registry._parts) - len(registry._retired)
