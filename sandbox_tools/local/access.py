"""Who may call a runtime route: the token, or a signed URL; and as which user (wire contract 3.1, 3.3, 5.3)."""

from __future__ import annotations

import base64
import binascii
import time
from typing import Final

from starlette.requests import Request

from sandbox_tools.local.web import RequestError, same
from sandbox_tools.wire.files import SignedOperation, file_signature

USERS: Final = ("", "user", "root")
"""Names of the one user of a sandbox; `root` is what SeaCloud's templates call theirs."""


def check_access(request: Request, access_token: str, signed: SignedOperation | None) -> None:
    """Let a request pass.

    Args:
        signed: What a signature in the query can allow; None when this route needs the token.

    Raises:
        RequestError: It has neither the token nor a valid signature, or names another user (401).
    """
    given = request.headers.get("x-access-token")
    if given is None and signed is not None and "signature" in request.query_params:
        _check_signature(request, access_token, signed)
    elif not same(given or "", access_token):
        raise RequestError(401, "unauthorized: a valid X-Access-Token is required")
    _check_user(request)


def is_signed(request: Request) -> bool:
    """Whether a request that passed has only a signature: it may reach what its query names, and nothing else."""
    return "x-access-token" not in request.headers


def _check_signature(request: Request, access_token: str, operation: SignedOperation) -> None:
    """The signature first, and only then its time: who has no valid one learns nothing."""
    query = request.query_params
    if any(len(query.getlist(name)) > 1 for name in ("path", "username", "signature", "signature_expiration")):
        raise RequestError(401, "unauthorized: a signed query names each thing once")
    expiration = query.get("signature_expiration") or None
    expected = file_signature(
        query.get("path", ""), operation, query.get("username", ""), access_token, expiration=expiration
    )
    if not same(query["signature"], expected):
        raise RequestError(401, "unauthorized: the signature is not valid")
    if expiration is not None and not _is_ahead(expiration):
        raise RequestError(401, "unauthorized: the signature has expired (signature_expiration is a Unix time)")


def _is_ahead(expiration: str) -> bool:
    return expiration.isascii() and expiration.isdigit() and len(expiration) <= 15 and int(expiration) >= time.time()


def _check_user(request: Request) -> None:
    for name in (request.query_params.get("username", ""), _basic_user(request)):
        if name not in USERS:
            raise RequestError(401, "unknown user: everything in this sandbox runs as 'user'")


def _basic_user(request: Request) -> str:
    """Return the user of `Authorization: Basic`, which selects one and is no credential (wire contract 3.1)."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        pass
    raise RequestError(401, "unauthorized: the Authorization header is not a user name")
