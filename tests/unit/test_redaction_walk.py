"""Redacting nested values: the shape stays, every string is looked at."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_tools.redaction import WITHHELD, Redactor, Registry
from sandbox_tools.redaction.walk import MAX_DEPTH

REGISTRY = Registry()
VALUE = secrets.token_hex(20)
SECRET = REGISTRY.register("TOKEN", VALUE)
OTHER = secrets.token_hex(20)
REGISTRY.register("OTHER", OTHER)
WALK = Redactor(REGISTRY).walk
MARK = "[REDACTED:TOKEN]"


class Colour(str, Enum):
    RED = f"red {VALUE}"


class Pair(NamedTuple):
    left: str
    right: object


@dataclass
class Record:
    text: str


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (VALUE, MARK),
        (VALUE.encode(), MARK.encode()),
        ([VALUE, [VALUE]], [MARK, [MARK]]),
        ((VALUE, 1), (MARK, 1)),
        ({"a": {"b": VALUE}}, {"a": {"b": MARK}}),
        ({VALUE: 1, ("k", VALUE): 2, 3: 4, None: VALUE}, {MARK: 1, ("k", MARK): 2, 3: 4, None: MARK}),
        ({VALUE: 1, MARK: 2, OTHER: 3}, {MARK: 1, f"{MARK}#2": 2, "[REDACTED:OTHER]": 3}),
        ({MARK: 1, f"{MARK}#2": 2, VALUE: 3}, {MARK: 1, f"{MARK}#2": 2, f"{MARK}#3": 3}),
        ([None, True, 0, 1.5], [None, True, 0, 1.5]),
        (Colour.RED, f"red {MARK}"),
        (Pair("x", VALUE), ("x", MARK)),
        ([Record(VALUE), {VALUE}, object(), SECRET], [WITHHELD] * 4),
        ({Record: 1, frozenset([VALUE]): 2}, {WITHHELD: 1, f"{WITHHELD}#2": 2}),
    ],
    ids=lambda value: type(value).__name__,  # the values differ in every process
)
def test_every_string_is_redacted_and_the_shape_is_kept(value: object, expected: object) -> None:
    result = WALK(value)
    assert result == expected
    assert repr(result) == repr(expected)


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(trees)
def test_a_clean_value_comes_back_equal(tree: object) -> None:
    assert WALK(tree) == tree
    assert repr(WALK(tree)) == repr(tree)


@settings(max_examples=100, deadline=None)
@given(trees)
def test_a_secret_beside_anything_is_redacted(tree: object) -> None:
    assert VALUE not in repr(WALK([tree, {VALUE: tree}, (tree, VALUE), VALUE.encode()]))


def _nested(depth: int) -> list[object]:
    value: list[object] = ["leaf"]
    for _ in range(depth - 1):
        value = [value]
    return value


def test_nesting_is_followed_to_the_limit_and_withheld_below() -> None:
    assert WALK(_nested(MAX_DEPTH)) == _nested(MAX_DEPTH)
    assert WITHHELD in repr(WALK(_nested(MAX_DEPTH + 1)))
    assert "leaf" not in repr(WALK(_nested(MAX_DEPTH + 1)))


def test_a_cycle_is_withheld_where_it_closes() -> None:
    cycle: list[object] = [VALUE]
    cycle.append({"self": cycle})
    assert WALK(cycle) == [MARK, {"self": WITHHELD}]


def test_what_is_shared_is_walked_once() -> None:
    value: object = [VALUE]
    for _ in range(60):  # 2 ** 60 paths lead to the leaf
        value = [value, value]
    result = WALK(value)
    while isinstance(result, list) and len(result) == 2:
        assert result[0] is result[1]
        result = result[0]
    assert result == [MARK]


def test_the_budget_is_of_the_whole_value() -> None:
    result = WALK([VALUE] * 2500)
    assert result == [MARK] * 2000 + [WITHHELD] * 500


def test_a_value_that_breaks_the_walk_is_withheld_as_a_whole() -> None:
    class Broken(dict[str, str]):
        def items(self) -> object:  # type: ignore[override]  # a hostile subclass
            raise RuntimeError(VALUE)

    assert WALK(Broken()) == WITHHELD
