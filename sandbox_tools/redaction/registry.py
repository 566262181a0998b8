"""Which values are secret. One registry serves a whole process: a secret of one sandbox must not show in another."""

from __future__ import annotations

import base64
import json
import re
import threading
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from sandbox_tools.errors import WeakSecretError
from sandbox_tools.redaction.marks import placeholder
from sandbox_tools.redaction.patterns import Patterns
from sandbox_tools.redaction.secret import Opaque, Secret, reveal
from sandbox_tools.redaction.tally import Tally

MIN_CHARS: Final = 8
MAX_CHARS: Final = 8192
"""Every character of a value costs some KB of patterns."""

MAX_LIVE: Final = 512
"""How many values may be in use at once; one more is refused. Each takes about 0.5 MB of memory."""

MAX_RETIRED: Final = 256
"""How many retired values are kept. A process that makes sandboxes for months must not grow with them."""

_PADDING: Final = 3
"""Characters at the end of base64 that tell nothing, or a few bits: `x==`."""

_NAME: Final = re.compile(r"[A-Z0-9_]{1,32}")

_COMMON: Final = re.compile(
    r"(admin(istrator)?|anonymous|authorization|change(it|me)|database|default|dev(elopment)?|disabled|example|localhost"
    r"|passw[o0]rd|placeholder|postgres(ql)?|prod(uction)?|qwerty(uiop?)?|secret|staging|test(test)?|undefined|username)?"
    r"(0?12345678?9?0?|\d{0,4}|0123456789abcdef)!?",
    re.IGNORECASE,
)


class Registry(Opaque):
    """The values to redact. Thread-safe: what readers search with only grows, until writers replace it.

    Attributes:
        tally: How often they were redacted.
    """

    __slots__ = ("_by_value", "_lock", "_parts", "_patterns", "_plain", "_retired", "tally")

    def __init__(self) -> None:
        self.tally: Final = Tally()
        self._lock = threading.Lock()
        self._by_value: dict[str, Secret] = {}
        self._parts: dict[Secret, Patterns] = {}
        self._retired: dict[Secret, None] = {}
        self._patterns = Patterns()
        self._plain: tuple[tuple[bytes, str], ...] = ()
        """Every value as it is and as JSON writes it, with its name; replaced, never changed."""

    def register(self, name: str, value: str) -> Secret:
        """Redact `value` as `[REDACTED:name]` from now on and return its handle.

        The same value gives the same handle, under the name it was given first. What a stream has already passed on
        is not called back.

        Raises:
            ValueError: `name` is not 1 to 32 of A-Z, 0-9 and _.
            WeakSecretError: `value` cannot be redacted without damage to ordinary text, `MAX_LIVE` others are in use,
                or the redactor does not find it, which is tried at once. The message does not show it.
        """
        if not _NAME.fullmatch(name):
            raise ValueError("The name of a secret is 1 to 32 of A-Z, 0-9 and _.")
        if problem := _problem(value):
            raise WeakSecretError(name, problem)
        with self._lock:
            return self._known(value) or self._add(name, value)

    def retire(self, secret: Secret) -> None:
        """Say that the value is no longer in use, after a rotation or the end of a sandbox.

        It is still redacted, because old output may be read later. It is forgotten when it is among the oldest half of
        more than `MAX_RETIRED` retired values. A handle of another registry is ignored.
        """
        with self._lock:
            if secret not in self._parts:
                return
            self._retired.setdefault(secret)
            if len(self._retired) > MAX_RETIRED:
                self._forget(tuple(self._retired)[: MAX_RETIRED // 2])

    def names(self) -> frozenset[str]:
        """Return the names of all values, of the retired ones too."""
        with self._lock:
            return frozenset(secret.name for secret in self._parts)

    def patterns(self) -> Patterns:
        """Return what to look for now."""
        return self._patterns

    def first_in(self, data: bytes) -> str | None:
        """Return the name of a value that is in `data` as it is, or as JSON writes it; None: there is none.

        A plain search that shares nothing with the patterns: for a last look at what the redactor made.
        """
        return next((name for form, name in self._plain if form in data), None)

    def _known(self, value: str) -> Secret | None:
        secret = self._by_value.get(value)
        if secret is not None:
            self._retired.pop(secret, None)
        return secret

    def _add(self, name: str, value: str) -> Secret:
        if len(self._parts) - len(self._retired) >= MAX_LIVE:
            raise WeakSecretError(name, f"is one too many: {MAX_LIVE} others are in use")
        part = Patterns.of(name, value)
        names = {name, *(secret.name for secret in self._parts)}
        if _any_found(part, names) or _any_found(self._patterns, {name}):
            raise WeakSecretError(name, "is part of a placeholder")
        self._patterns.include(part)
        if not _is_covered(self._patterns, value):
            self._patterns = Patterns.merged(self._parts.values())
            raise WeakSecretError(name, "is not found again by the redactor, which is a fault of it")
        secret = Secret(name, value)
        self._by_value[value] = secret
        self._parts[secret] = part
        self._plain += tuple((form, name) for form in _plain_forms(value))
        return secret

    def _forget(self, secrets: Iterable[Secret]) -> None:
        """Forget many at once, because the patterns have to be merged anew."""
        for secret in secrets:
            del self._retired[secret], self._parts[secret], self._by_value[reveal(secret)]
        self._patterns = Patterns.merged(self._parts.values())
        self._plain = tuple(
            (form, secret.name) for value, secret in self._by_value.items() for form in _plain_forms(value)
        )


@lru_cache(maxsize=1)
def default_registry() -> Registry:
    """Return the registry of this process."""
    return Registry()


def _plain_forms(value: str) -> tuple[bytes, ...]:
    """Return what a JSON document that holds `value` has in it; mostly that is only the value itself."""
    escaped = (json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
    return tuple(dict.fromkeys(form.encode() for form in (value, *escaped)))


def _problem(value: str) -> str | None:
    """Say why `value` cannot be registered, in words that do not show it; None when it can."""
    checks = {
        f"has fewer than {MIN_CHARS} characters": len(value) < MIN_CHARS,
        f"has more than {MAX_CHARS} characters": len(value) > MAX_CHARS,
        "begins or ends with white space or a control character": any(map(_is_blank, (value[:1], value[-1:]))),
        "is not valid Unicode": any(unicodedata.category(char) == "Cs" for char in value),
        "is a common word": _COMMON.fullmatch(value) is not None,
        "repeats one character": len(set(value)) == 1,
    }
    return next((problem for problem, found in checks.items() if found), None)


def _is_blank(char: str) -> bool:
    return char.isspace() or unicodedata.category(char or " ") in ("Cc", "Cf", "Zs")


def _is_covered(patterns: Patterns, value: str) -> bool:
    """Try whether the value is found: as it is, and as programs encode it most. Shares nothing with forms.py."""
    raw = value.encode()
    looks = {base64.b64encode(raw), raw.hex().encode(), quote(value, safe="").encode(), *_plain_forms(value)}
    return all(_uncovered(patterns, look) <= _PADDING for look in looks)


def _uncovered(patterns: Patterns, data: bytes) -> int:
    """Return how many bytes of `data` no match covers."""
    count = done = 0
    for start, negative_size, _ in patterns.find(data):
        count += max(0, start - done)
        done = max(done, start - negative_size)
    return count + max(0, len(data) - done)


def _any_found(patterns: Patterns, names: Iterable[str]) -> bool:
    """Tell whether anything is found in the placeholders of `names`, or where two of them stand side by side."""
    return bool(patterns.find("\n".join(map(placeholder, sorted(names))).encode()))
