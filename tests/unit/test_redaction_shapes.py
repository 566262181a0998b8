"""Tokens that nobody registered are found by their shape; ordinary text is left alone."""

from __future__ import annotations

import base64
import json
import secrets
import string
import sysconfig
from pathlib import Path

import pytest

from sandbox_tools.redaction import WITHHELD, Redactor, Registry, budget
from tests.unit.redaction_cases import SECRETS

REDACTOR = Redactor(Registry())
CORPUS_BYTES = 4_000_000


def _chars(count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "A1b2" + "".join(secrets.choice(alphabet) for _ in range(count - 4))


HEX = "a1" + secrets.token_hex(20)
RANDOM = _chars(40)
PEM_BODY = base64.encodebytes(secrets.token_bytes(200)).decode()
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{PEM_BODY}-----END RSA PRIVATE KEY-----"

TOKENS = {
    "jwt": (f"session {SECRETS['JWT']}.", "session [REDACTED:unknown-jwt]."),
    "authorization": (f"> Authorization: Bearer {RANDOM}", "> Authorization: Bearer [REDACTED:unknown-credential]"),
    "authorization_token": (f"authorization: Token {RANDOM}", "authorization: Token [REDACTED:unknown-credential]"),
    "authorization_json": (
        json.dumps({"Proxy-Authorization": f"Basic {RANDOM}"}),
        '{"Proxy-Authorization": "Basic [REDACTED:unknown-credential]"}',
    ),
    "bearer": (f"sent bearer {HEX} to it", "sent bearer [REDACTED:unknown-credential] to it"),
    "cookie": (f"Set-Cookie: sid={RANDOM}; Path=/", "Set-Cookie: sid=[REDACTED:unknown-cookie]; Path=/"),
    "url": (
        f"git clone https://bot:{HEX}@host.example/r",
        "git clone https://bot:[REDACTED:unknown-password]@host.example/r",
    ),
    "url_token": (f"https://{HEX}@host.example/r", "https://[REDACTED:unknown-password]@host.example/r"),
    "query": (f"GET /f?path=x&signature=v1_{HEX}&n=1", "GET /f?path=x&signature=[REDACTED:unknown-secret]&n=1"),
    "query_amazon": (f"?X-Amz-Signature={HEX}&x", "?X-Amz-Signature=[REDACTED:unknown-secret]&x"),
    "query_azure": (f"?sv=2&sig={RANDOM}%3D&x", "?sv=2&sig=[REDACTED:unknown-secret]&x"),
    "name": (f"DB_PASSWORD={RANDOM}", "DB_PASSWORD=[REDACTED:unknown-secret]"),
    "python": (f"api_key = '{RANDOM}'", "api_key = '[REDACTED:unknown-secret]'"),
    "json": (json.dumps({"envdAccessToken": HEX}), '{"envdAccessToken": "[REDACTED:unknown-secret]"}'),
    "json_twice": (
        json.dumps(json.dumps({"token": HEX})),
        json.dumps(json.dumps({"token": "[REDACTED:unknown-secret]"})),
    ),
    "header": (f"X-Access-Token: {HEX}\r\n", "X-Access-Token: [REDACTED:unknown-secret]\r\n"),
    "pem": (f"a\n{PEM}\nb", "a\n[REDACTED:unknown-private-key]\nb"),
    "pem_escaped": (json.dumps({"k": PEM}), '{"k": "[REDACTED:unknown-private-key]"}'),
    "pem_cut": (f"a\n{PEM[:150]}", "a\n[REDACTED:unknown-private-key]"),
    "github": (f"<ghp_{_chars(36)}>", "<[REDACTED:unknown-token]>"),
    "gitlab": (f"glpat-{_chars(20)} ok", "[REDACTED:unknown-token] ok"),
    "openai": (f"sk-proj-{RANDOM}", "[REDACTED:unknown-token]"),
    "aws": (f"AKIA{_chars(16, string.ascii_uppercase + string.digits).upper()}", "[REDACTED:unknown-token]"),
    "slack": (f"xoxb-{_chars(30)}", "[REDACTED:unknown-token]"),
    "google": (f"AIza{_chars(35)}", "[REDACTED:unknown-token]"),
}


@pytest.mark.parametrize("kind", sorted(TOKENS))
def test_a_token_is_found_by_its_shape(kind: str) -> None:
    text, expected = TOKENS[kind]
    assert REDACTOR.text(text) == expected
    assert REDACTOR.text(expected) == expected
    assert REDACTOR.walk([text, {"k": text}]) == [expected, {"k": expected}]
    assert REDACTOR.data(text.encode()) == text.encode()


@pytest.mark.parametrize(
    "token",
    [
        *(
            f"{prefix}{_chars(36)}"
            for prefix in ("gho_", "ghu_", "ghs_", "ghr_", "npm_", "hf_", "rk_live_", "sk_live_")
        ),
        f"github_pat_{_chars(60)}",
        f"xoxp-{_chars(30)}",
        f"ASIA{_chars(16).upper()}",
    ],
    ids=lambda token: token[:4],  # the rest is random, and every process of a test run must name the tests alike
)
def test_a_token_is_found_by_its_prefix(token: str) -> None:
    assert REDACTOR.text(f"<{token}>") == "<[REDACTED:unknown-token]>"


@pytest.mark.parametrize(
    "name",
    [
        "client_secret",
        "AWS_CREDENTIALS",
        "x-api-key",
        "apikey",
        "access_key_id",
        "access-key",
        "accessKey",
        "private_key",
    ],
)
def test_a_token_is_found_by_its_name(name: str) -> None:
    assert REDACTOR.text(f"{name}: {RANDOM}") == f"{name}: [REDACTED:unknown-secret]"


@pytest.mark.parametrize(
    "text",
    [
        "token = os.environ['GITHUB_TOKEN']",
        "password=settings.database_password2",
        "api_key: your_api_key_1234567890",
        "Authorization: Bearer <your token here>",
        "https://user:password@example.com",
        "https://${USER}:${PASSWORD1}@example.com",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "basic understanding of the authorization: required",
        "token=xxxxxxxxxxxxxxxxxxxx1",
        "-----BEGIN PRIVATE KEY-----' in text",
        "secret: [REDACTED:GITHUB_TOKEN]",
        "sk-learn-is-a-name-of-something-else",
        "eyJ and eyJ0 are the starts of tokens",
    ],
)
def test_ordinary_text_is_returned_as_the_same_object(text: str) -> None:
    assert REDACTOR.text(text) is text


def test_a_token_in_the_output_of_a_sandbox_may_be_kept_and_in_an_error_may_not() -> None:
    text, expected = TOKENS["json"]
    lenient = Redactor(Registry(), unknown_in_output=False)
    assert REDACTOR.output(text) == expected
    assert lenient.output(text) is text
    assert lenient.walk([text]) == [text]
    assert lenient.text(text) == expected


def test_there_is_less_than_one_hit_in_a_megabyte_of_source_code() -> None:
    total = hits = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if total < CORPUS_BYTES and "test" not in path.parts:
            source = path.read_text("utf-8", "replace")
            total += len(source)
            hits += REDACTOR.text(source).count("[REDACTED:unknown-")
    assert total >= CORPUS_BYTES
    assert hits / (total / 1e6) < 1


@pytest.mark.parametrize(
    "word", ["eyJ", "token=", "-----BEGIN PRIVATE KEY-----\nAAAAAAAAAAAAAAAA", "://a:", "cookie:a="]
)
def test_what_is_made_to_be_slow_is_withheld_or_done_in_time(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(REDACTOR.text(word * (300_000 // len(word)))) > 0
    monkeypatch.setattr(budget, "BASE_S", -1.0)
    assert REDACTOR.text(f"harmless {word}") == WITHHELD


def test_too_many_hits_withhold_the_text() -> None:
    assert REDACTOR.text(f"token={HEX} " * 2001) == WITHHELD


def test_a_token_inside_another_does_not_uncover_the_end_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, -20, "unknown-jwt"), (5, -3, "unknown-secret")]
    monkeypatch.setattr("sandbox_tools.redaction.redactor.find_shapes", lambda *_: found)
    assert REDACTOR.text("a=" + "x" * 20 + " b") == "a=[REDACTED:unknown-jwt] b"
