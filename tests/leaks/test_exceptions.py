"""Public exceptions: whatever a server or a network does, no token can be reached from what is raised."""

from __future__ import annotations

import secrets

import pytest

from sandbox_tools.errors import SandboxProtocolError
from tests.contract.hostile import Answer, echo_headers, http
from tests.contract.test_hostile_server import NONSENSE, OPERATIONS, outcomes
from tests.leaks.graphs import paths_to

ANSWERS: dict[str, Answer] = {
    **{f"status {status}": echo_headers(status) for status in (302, 401, 404, 500)},
    "redirect": http(302, b"", "Location: http://127.0.0.2:1/steal"),
    "cookie": http(200, b"[]", "Set-Cookie: a=b; Path=/"),
    **{
        name: NONSENSE[name]
        for name in ("closed", "reset in the body", "chunk cut off", "not HTTP", "gzip", "huge error")
    },
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
