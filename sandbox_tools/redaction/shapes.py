"""Tokens that nobody registered, by the shape of them or of what stands before them.

There is no rule for a bare random string: hashes look the same. Each rule has a word that must be there, which is
sought first and fast; only around it a regular expression is tried.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from sandbox_tools.redaction.budget import Budget
from sandbox_tools.redaction.matcher import Match

_VALUE: Final = rb"[A-Za-z0-9._~+/%=-]"
_QUOTES: Final = rb"[\"'\\]{0,3}"
_ASSIGN: Final = _QUOTES + rb"\s{0,3}(?::|=>?)\s{0,3}" + _QUOTES

_MIN_CHARS: Final = 16
_MIN_BITS_PER_CHAR: Final = 3.0
_LOOKED_AT: Final = 512

_WORDS: Final = re.compile(rb"(?:[A-Za-z]+(?:\d{0,2}|\d{2,5}[A-Z]?[a-z]{4,}[A-Za-z]*)(?:[_./~+=%-]+|$))+")
"""Names of things, alone or joined: `settings.github_token2`, `path/to/file`, `Ed25519PrivateKey`."""
_EXAMPLE: Final = re.compile(
    rb"(?i)example|placeholder|your[_-]|xxxx|changeme|redacted|os\.environ|self\.|\.\.\.|1234567"
)


class _Rule(NamedTuple):
    words: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    """Matched where a word is; group 1 is the token, without a group the whole match."""
    label: str
    is_token: Callable[[bytes], bool]


def find_shapes(data: bytes, budget: Budget) -> list[Match]:
    """Return what looks like a token, the earliest first.

    Raises:
        BudgetError: There is too much to look at.
    """
    lowered = data.lower()
    return sorted(
        match for rule in _RULES for word in rule.words for match in _matches(rule, word, data, lowered, budget)
    )


def _matches(rule: _Rule, word: bytes, data: bytes, lowered: bytes, budget: Budget) -> Iterator[Match]:
    at = lowered.find(word)
    while at >= 0:
        budget.check_time()
        match = rule.pattern.match(data, at)
        if match and rule.is_token(match[match.lastindex or 0]):
            start, end = match.span(match.lastindex or 0)
            yield start, start - end, rule.label
        at = lowered.find(word, match.end() if match else at + len(word))


def _is_random(value: bytes) -> bool:
    """Whether a value after the name of a secret is one, and not a word or an expression."""
    value = value[:_LOOKED_AT]
    return (
        len(value) >= _MIN_CHARS
        and any(char in b"0123456789" for char in value)
        and value.lower() != value.upper()
        and _bits_per_char(value) >= _MIN_BITS_PER_CHAR
        and not _WORDS.fullmatch(value)
        and not _EXAMPLE.search(value)
    )


def _bits_per_char(value: bytes) -> float:
    size = len(value)
    return -sum(count / size * math.log2(count / size) for count in Counter(value).values())


def _is_no_example(value: bytes) -> bool:
    return not _EXAMPLE.search(value) and len(set(value)) > 4


def _prefixed(*rules: bytes) -> _Rule:
    words = tuple(rule.partition(b"[")[0].lower() for rule in rules)
    pattern = re.compile(rb"(?<![A-Za-z0-9_])(?:" + b"|".join(rules) + rb")")
    return _Rule(words, pattern, "unknown-token", _is_no_example)


def _named(*words: bytes) -> _Rule:
    names = b"|".join(map(re.escape, words))
    pattern = rb"(?i)(?:" + names + rb")[\w-]{0,32}" + _ASSIGN + rb"(" + _VALUE + rb"{16,4096})"
    return _Rule(words, re.compile(pattern), "unknown-secret", _is_random)


_RULES: Final = (
    _Rule(
        (b"eyj",),
        re.compile(rb"(?<![\w-])eyJ[\w-]{8,2048}\.eyJ[\w-]{8,8192}\.[\w-]{8,2048}"),
        "unknown-jwt",
        _is_no_example,
    ),
    _Rule(
        (b"authorization",),
        re.compile(rb"(?i)authorization" + _ASSIGN + rb"(?:[a-z]{1,16}\s{1,3})?(" + _VALUE + rb"{16,4096})"),
        "unknown-credential",
        _is_random,
    ),
    _Rule(
        (b"bearer", b"basic"),
        re.compile(rb"(?i)(?:bearer|basic)\s{1,3}(" + _VALUE + rb"{16,4096})"),
        "unknown-credential",
        _is_random,
    ),
    _Rule(
        (b"cookie",),
        re.compile(rb"(?i)cookie" + _ASSIGN + rb"(?:[\w.-]{1,64}=)?(" + _VALUE + rb"{16,4096})"),
        "unknown-cookie",
        _is_random,
    ),
    _Rule(
        (b"://",),
        re.compile(rb"://(?:[^\s/:@\"'<>\\]{0,64}:)?([^\s/:@\"'<>\\{}$%*()\[\]]{8,256})@[\w.-]"),
        "unknown-password",
        lambda value: _is_no_example(value) and any(char in b"0123456789" for char in value),
    ),
    _Rule(
        (b"-----begin",),
        re.compile(
            rb"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[rn]){1,4}(?=[A-Za-z0-9+/=]{16}|Proc-Type)"
            rb"(?:(?!-----END)[\s\S]){0,16384}(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?"
        ),
        "unknown-private-key",
        _is_no_example,
    ),
    _prefixed(
        rb"ghp_[A-Za-z0-9]{30,255}",
        rb"gho_[A-Za-z0-9]{30,255}",
        rb"ghu_[A-Za-z0-9]{30,255}",
        rb"ghs_[A-Za-z0-9]{30,255}",
        rb"ghr_[A-Za-z0-9]{30,255}",
        rb"github_pat_[A-Za-z0-9_]{40,255}",
        rb"glpat-[\w-]{20,255}",
        rb"xoxb-[\w-]{20,255}",
        rb"xoxp-[\w-]{20,255}",
        rb"AKIA[A-Z0-9]{16}(?![A-Za-z0-9])",
        rb"ASIA[A-Z0-9]{16}(?![A-Za-z0-9])",
        rb"AIza[\w-]{35}",
        rb"npm_[A-Za-z0-9]{36}",
        rb"hf_[A-Za-z0-9]{30,64}",
        rb"rk_live_[A-Za-z0-9]{20,255}",
        rb"sk_live_[A-Za-z0-9]{20,255}",
    ),
    _Rule((b"sk-",), re.compile(rb"(?<![A-Za-z0-9_-])sk-[\w-]{24,255}"), "unknown-token", _is_random),
    _named(b"token", b"secret", b"passw", b"credential", b"signature"),
    _named(b"api_key", b"api-key", b"apikey", b"access_key", b"access-key", b"accesskey", b"private_key"),
    _Rule((b"sig=",), re.compile(rb"(?i)(?<![a-z])sig=(" + _VALUE + rb"{16,4096})"), "unknown-secret", _is_random),
)
