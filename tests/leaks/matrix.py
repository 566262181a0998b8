"""The leak matrix: who says a secret where, how it is spelled, cut and wrapped. Generated; no secret is written here.

Which cases there are depends on a fixed seed, so that they have numbers; the secrets are made anew for every run.
`LEAKS_SEED` repeats the secrets of a run.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import secrets
import shlex
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.unit import redaction_cases as spellings

SEED = int(os.environ.get("LEAKS_SEED") or secrets.randbits(32))

_ALNUM = string.ascii_letters + string.digits


class Canary(NamedTuple):
    """A secret of some kind.

    Attributes:
        parts: What a text must not show any eight characters of: without what is public, such as the armour of a key.
        is_strong: It is found in every form of docs/redaction.md, not only as a whole in the usual ones.
        is_spreadable: It is also found with other characters between its own: nearly all are letters and digits.
    """

    value: str
    parts: tuple[str, ...]
    is_strong: bool = True
    is_spreadable: bool = True


def canaries(seed: int = SEED) -> dict[str, Canary]:
    """Return a secret of every kind."""
    chance = random.Random(seed)

    def chars(count: int, alphabet: str = _ALNUM + "-_") -> str:
        return "".join(chance.choices(alphabet, k=count))

    hex64, url43, prefixed, shared = chars(64, "0123456789abcdef"), chars(43), chars(40, _ALNUM), chars(18, _ALNUM)
    jwt = [_base64url({"alg": "HS256", "typ": "JWT"}), _base64url({"sub": chars(16, _ALNUM)}), chars(43)]
    key = [chars(64, _ALNUM + "+/") for _ in range(5)]
    account = {"client_email": f"{chars(20, _ALNUM)}@x.example", "private_key": chars(60, _ALNUM)}
    overlap = [chars(14, _ALNUM) + shared, shared + chars(14, _ALNUM)]
    word, punctuated = chars(8, _ALNUM), f'x{chars(4, _ALNUM)}"/+ é%{chars(3, _ALNUM)}'
    special = f"{chars(12, _ALNUM)}\"'\\%+/=&é{chars(12, _ALNUM)}ü\n/{chars(4, _ALNUM)}"
    return {
        "HEX64": Canary(hex64, (hex64,)),
        "HEX64_PREFIX": Canary(hex64[:40], (hex64[:40],)),
        "BASE64URL43": Canary(url43, (url43,)),
        "PREFIXED": Canary(f"sk-{prefixed}", (prefixed,)),
        "DECOY": Canary(f"ghp_ghp_{shared[::-1]}{word[::-1]}", (shared[::-1] + word[::-1],)),
        "JWT": Canary(".".join(jwt), (jwt[1], jwt[2])),
        "PEM": Canary(
            "\n".join(["-----BEGIN PRIVATE KEY-----", *key, "-----END PRIVATE KEY-----"]),
            tuple(key),
            is_spreadable=False,
        ),
        "ACCOUNT": Canary(
            json.dumps(account, indent=2), (account["client_email"][:20], account["private_key"]), is_spreadable=False
        ),
        "OVERLAP_A": Canary(overlap[0], (overlap[0],)),
        "OVERLAP_B": Canary(overlap[1], (overlap[1],)),
        "SPECIAL": Canary(special, (special,), is_spreadable=False),
        "PASSWORD8": Canary(word, (word,), is_strong=False, is_spreadable=False),
        "PUNCTUATED": Canary(punctuated, (punctuated,), is_strong=False, is_spreadable=False),
    }


def _base64url(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


Encoding = Callable[[bytes, random.Random], bytes]


def _alone(encode: Callable[[str], bytes]) -> Encoding:
    return lambda data, chance: encode(data.decode())


def _among_others(encode: Callable[[bytes], bytes]) -> Encoding:
    """Encoded together with up to seven bytes at either end."""
    return lambda data, chance: encode(
        chance.randbytes(chance.randrange(8)) + data + chance.randbytes(chance.randrange(8))
    )


USUAL: dict[str, Encoding] = {
    **{name: _alone(encode) for name, encode in (spellings.ENCODINGS | spellings.ESCAPES).items()},
    "shell_quote": _alone(lambda value: shlex.quote(value).encode()),
    **{name: _among_others(encode) for name, encode in spellings.INNER_ENCODINGS.items()},
}
"""Of every secret."""

SPREAD: dict[str, Encoding] = {name: _alone(encode) for name, encode in spellings.SPREAD_ENCODINGS.items()}
"""Of a secret that is strong and made of letters and digits."""

RARE: dict[str, Encoding] = {
    **{name: _alone(encode) for name, encode in spellings.RARE_ENCODINGS.items()},
    **{name: _among_others(encode) for name, encode in spellings.RARE_INNER_ENCODINGS.items()},
    **{
        name: _alone(lambda value, look=look: look(value).encode())  # type: ignore[misc]  # mypy sees no default
        for name, look in spellings.LOOKS.items()
    },
}
"""Of a strong secret."""

ENCODINGS = USUAL | SPREAD | RARE

CLEAN = "- clean text\n"


NESTINGS: dict[str, Callable[[str], str]] = {
    "line": lambda text: f"out {text}\n",
    "bare": lambda text: text,
    "list": lambda text: f"['a', {text}, 1]",
    "log": lambda text: f"2026-01-01T00:00:00Z ERROR worker[17] failed for {text} (try 3)",
    "header": lambda text: f"> GET / HTTP/1.1\r\n> X-Access-Token: {text}\r\n>\r\n",
    "url": lambda text: f"GET https://x.example/p?a=1&q={text}&z=2",
    "exception": lambda text: f'Traceback:\n  File "/x.py", line 3\nValueError: {text}\n',
    "long": lambda text: f"{CLEAN * 950}{text}\n{CLEAN * 950}",  # at the cut: see Case.payload
    "JSON value": lambda text: json.dumps({"a": [{"v": text}]}),
    "JSON key": lambda text: json.dumps({text: None}),
    "JSON in JSON": lambda text: json.dumps({"body": json.dumps({"v": text})}),
    "JSON three deep": lambda text: json.dumps([json.dumps([json.dumps([text])])]),
    "repr": lambda text: repr(["a", text]),
    "bytes": lambda text: repr(text.encode()),
    "base64": lambda text: base64.b64encode(json.dumps({"user": text}).encode()).decode(),
}

_VERBATIM = ("line", "bare", "list", "log", "header", "url", "exception", "long")
"""Nestings that do not spell the text another way."""

_CUT = (11_600, 12_000)
"""Where the start of an output that is shown ends, in characters."""

CHUNKINGS = ("whole", "1", "random", "7", "4096", "halves", "with empty pieces")


class Source(NamedTuple):
    """Where a sandbox says something, and the call that asks for it. `N` in the arguments is the number of the case."""

    tool: str
    arguments: Mapping[str, Any]


SOURCES = {
    "stdout": Source("exec", {"command": "N"}),
    "stderr": Source("exec", {"command": "N"}),
    "stdout beside stderr": Source("exec", {"command": "N"}),
    "process output": Source("process", {"action": "output", "pid": "N"}),
    "file": Source("read_file", {"path": "/N"}),
    "code output": Source("run_code", {"code": "N"}),
    "code value": Source("run_code", {"code": "N"}),
    "code exception": Source("run_code", {"code": "N"}),
    "traceback": Source("run_code", {"code": "N"}),
    "image": Source("run_code", {"code": "N"}),
    "file name": Source("list_files", {"path": "/N"}),
    "link": Source("list_files", {"path": "/N"}),
    "our error": Source("exec", {"command": "N"}),
    "foreign error": Source("read_file", {"path": "/N"}),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One secret, said once."""

    number: int
    source: str
    exit: str
    encoding: str
    chunking: str
    nesting: str
    kind: str

    def payload(self, canary: Canary) -> bytes:
        """Return what the sandbox says."""
        encoded = ENCODINGS[self.encoding](canary.value.encode(), random.Random(self.number))
        if self.nesting in _VERBATIM:
            before, _, after = NESTINGS[self.nesting]("\0").partition("\0")
            if self.nesting == "long":
                before = before[: random.Random(self.number).randint(*_CUT)]
            return before.encode() + encoded + after.encode()
        return NESTINGS[self.nesting](encoded.decode("utf-8", "replace")).encode()

    def pieces(self, canary: Canary) -> Iterator[bytes]:
        """Yield it as it arrives."""
        data = self.payload(canary)
        chance = random.Random(self.number)
        if self.chunking == "halves":  # within the secret, somewhere
            at = chance.randrange(len(data) // 4, 3 * len(data) // 4 + 1)
            yield from (data[:at], data[at:])
            return
        at = 0
        while at < len(data):
            size = {"whole": len(data), "1": 1, "7": 7, "4096": 4096}.get(self.chunking) or chance.randint(1, 40)
            yield data[at : at + size]
            if self.chunking == "with empty pieces":
                yield b""
            at += size

    @property
    def call(self) -> tuple[str, dict[str, Any]]:
        """The tool to call, and its arguments: they name the case."""
        source = SOURCES[self.source]
        if source.tool == "process":
            return source.tool, {**source.arguments, "pid": self.number + 1}
        return source.tool, {key: value.replace("N", f"case-{self.number}") for key, value in source.arguments.items()}


def may_be(row: Mapping[str, str]) -> bool:
    """Tell whether a secret of this kind can be said so, and is found when it is."""
    kind, encoding, nesting = row["kind"], row["encoding"], row["nesting"]
    if row["source"] in ("file name", "link", "file") and encoding in ("utf16", "utf32"):
        return False  # a name has no NUL in it, and a file with one is not shown
    if row["source"] == "file name" and "/" in NESTINGS[nesting](_KINDS[kind].value):
        return False
    canary = _KINDS[kind]
    if encoding in SPREAD and not canary.is_spreadable:
        return False
    if encoding in RARE and not canary.is_strong:
        return False
    if encoding == "base64_lines_twice" and len(canary.value) > _MAX_IN_LINES:
        return False
    if nesting in _VERBATIM:
        return True
    if encoding in ("utf16", "character_list", "base64_lines"):  # escapes put letters and digits in between
        return False
    if nesting == "base64":  # what it holds is found in base64, and so is its base64, its hexadecimal form
        return canary.is_spreadable and encoding in ("raw", "base64", "hex")
    if nesting == "JSON three deep":
        return canary.is_spreadable and encoding in ("raw", "base64", "hex", "json", "json_twice")
    return encoding in ("raw", *spellings.INNER_ENCODINGS) or (canary.is_spreadable and encoding in USUAL | SPREAD)


_KINDS = canaries(0)

_MAX_IN_LINES = 200
"""Characters of a value whose base64 of base64 is known with the line breaks of the command `base64`."""


Pair = tuple[tuple[str, str], tuple[str, str]]


def cross(exits: Sequence[str], axes: Sequence[str] = ()) -> list[Case]:
    """Return cases in which any two values of two axes meet, and all combinations of the values of `axes`.

    Left out is what the redactor does not promise.
    """
    values: dict[str, Sequence[str]] = {
        "source": tuple(SOURCES),
        "exit": tuple(exits),
        "encoding": tuple(ENCODINGS),
        "chunking": CHUNKINGS,
        "nesting": tuple(NESTINGS),
        "kind": tuple(_KINDS),
    }
    chance = random.Random(len(exits))
    whole = itertools.product(*(_of(axis, values) for axis in axes)) if axes else ()
    pairs = [
        pair
        for two in itertools.combinations(values, 2)
        for pair in itertools.product(*(_of(axis, values) for axis in two))
    ]
    chance.shuffle(pairs)
    missing = dict.fromkeys(pairs)
    rows: list[dict[str, str]] = []
    for wanted in (*whole, *pairs):
        if len(wanted) > 2 or wanted in missing:
            drawn = [{axis: chance.choice(values[axis]) for axis in values} | dict(wanted) for _ in range(25)]
            possible = [row for row in drawn if may_be(row)]
            if possible:
                rows.append(max(possible, key=lambda row: sum(pair in missing for pair in _pairs(row))))
                for pair in _pairs(rows[-1]):
                    missing.pop(pair, None)
    return [Case(number=number, **row) for number, row in enumerate(rows)]


def _of(axis: str, values: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    return [(axis, value) for value in values[axis]]


def _pairs(row: Mapping[str, str]) -> Iterator[Pair]:
    return itertools.combinations(row.items(), 2)  # type: ignore[return-value]
