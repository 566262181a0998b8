"""Public exceptions: whatever a server or a network does, no token can be reached from what is raised."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from sandbox_tools import BlockingToolset, Toolset
from sandbox_tools.errors import SandboxProtocolError, SandboxToolsError
from sandbox_tools.sandboxes.source import BASE_URL_VARIABLES
from tests.contract.hostile import Answer, echo_headers, http
from tests.contract.test_hostile_server import NONSENSE, OPERATIONS, outcomes
from tests.leaks.graphs import paths_to

ANSWERS: dict[str, Answer] = {
    **{f"status {status}": echo_headers(status) for status in (401, 500)},
    "redirect": http(302, b"", "Location: http://127.0.0.2:1/steal"),
    "cookie": http(200, b"[]", "Set-Cookie: a=b; Path=/"),
    **{name: NONSENSE[name] for name in ("reset in the body", "chunk cut off", "not HTTP", "gzip", "huge error")},
}


@pytest.fixture
def token() -> str:
    return secrets.token_urlsafe(32)


@pytest.mark.parametrize("name", ANSWERS)
async def test_no_token_can_be_reached_from_an_error(token: str, name: str) -> None:
    errors = await outcomes(token, dict.fromkeys(OPERATIONS, ANSWERS[name]))
    assert {what: paths_to(token, error) for what, error in errors.items() if error and paths_to(token, error)} == {}


def raised(token: str, *, inner: BaseException | None = None) -> BaseException:
    """Return an exception that has passed a frame of ours with the token in a variable of it."""
    try:
        raise SandboxProtocolError("do it", token) from inner
    except SandboxProtocolError as exc:
        return exc


def test_the_search_finds_what_hides_in_an_exception(token: str) -> None:
    """Or the tests above would prove nothing."""
    deep = raised("x", inner=KeyError([{"a": {token: 1}}]))
    noted = raised("x")
    noted.__notes__ = [f"with {token}"]  # type: ignore[attr-defined]  # Python 3.11
    for error in (raised(token), deep, noted):
        assert paths_to(token, error) != []
    assert paths_to(token, raised("x")) == []


REFUSED: dict[str, Callable[[str], dict[str, Any]]] = {
    "a base URL that cannot be used": lambda token: {"api_key": token, "base_url": "ftp://x"},
    "no base URL": lambda token: {"api_key": token},
    "a key that is too short": lambda token: {"api_key": token[:7], "base_url": "https://x.example"},
    "the key as a secret": lambda token: {
        "api_key": token,
        "base_url": "https://x.example",
        "secrets": {"TOKEN": f"my {token}"},
    },
    "a secret that is no text for a variable": lambda token: {"secrets": {"TOKEN": f"{token}\0"}},
    "a secret in the place of a name": lambda token: {"secrets": [token]},
    "a variable with a bad name": lambda token: {"envs": {"A=B": token}},
}


@pytest.mark.parametrize("open_toolset", [Toolset.open, BlockingToolset.open])
@pytest.mark.parametrize("case", REFUSED)
async def test_no_value_can_be_reached_from_the_error_about_a_setting(
    token: str, case: str, open_toolset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SEACLOUD_API_KEY", *BASE_URL_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    opened = open_toolset(**REFUSED[case](token))
    is_async = open_toolset == Toolset.open
    enter = opened.__aenter__ if is_async else partial(anyio.to_thread.run_sync, opened.__enter__)
    with pytest.raises(SandboxToolsError) as caught:
        await enter()
    assert paths_to(token[:7], caught.value) == []
