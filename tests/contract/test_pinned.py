"""Credentials are added below the HTTP client: to the requests for one origin, and to nothing that anybody keeps."""

from __future__ import annotations

import secrets

import httpx
import pytest

from sandbox_tools.client.pinned import PinnedTransport
from sandbox_tools.redaction import Registry
from tests.contract.hostile import hostile_server, http


@pytest.fixture
def token() -> str:
    return secrets.token_urlsafe(32)


def pinned_to(base_url: str, token: str) -> PinnedTransport:
    return PinnedTransport(base_url, {"X-Access-Token": Registry().register("SANDBOX_TOKEN", token)})


async def test_a_request_to_another_origin_is_not_sent(token: str) -> None:
    async with hostile_server(http(200)) as home, hostile_server(http(200)) as other:
        pinned = pinned_to(home.base_url, token)
        port = home.base_url.rpartition(":")[2]
        for url in (
            other.base_url,
            f"http://127.0.0.2:{port}/",
            f"http://localhost:{port}/",
            f"https://127.0.0.1:{port}/",
            f"http://127.0.0.1:{port}@{other.base_url.removeprefix('http://')}/",
        ):
            with pytest.raises(httpx.UnsupportedProtocol, match="not the pinned origin") as caught:
                await pinned.handle_async_request(httpx.Request("GET", url))
            assert token not in repr(vars(caught.value))
        assert (home.requests, other.requests) == ([], [])
        await pinned.aclose()


async def test_the_credential_replaces_what_a_request_says_in_its_place_and_stays_out_of_the_request(
    token: str,
) -> None:
    async with hostile_server(http(200)) as server:
        pinned = pinned_to(server.base_url, token)
        request = httpx.Request("GET", server.base_url, headers={"x-ACCESS-token": "forged", "x-other": "kept"})
        response = await pinned.handle_async_request(request)
        await response.aread()
        await pinned.aclose()
        [sent] = server.requests
        assert sent.head.lower().count(b"x-access-token") == 1
        assert (sent.header("x-access-token"), sent.header("x-other")) == (token, "kept")
        assert token not in repr([request.headers.raw, vars(request), vars(response)])
