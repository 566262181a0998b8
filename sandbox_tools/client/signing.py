"""Signed URLs: one file, read or written by whoever has the URL, until a time (wire contract 5.3)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from urllib.parse import quote, urlsplit, urlunsplit

from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.redaction.secret import reveal
from sandbox_tools.wire.files import SignedOperation, file_signature


class UrlSigner:
    """Signs URLs of files in one sandbox.

    A signed URL is a credential, so it is a `Secret`. What makes it one, the signature, is registered with the redactor
    before the URL exists, and for as long as it is valid; all of the URL would cost 1 MB of patterns and protect
    nothing more. `redaction.secret.reveal` gives the text to the code that hands the URL on.

    Args:
        access: Returns how the runtime is reached now: token and URL are renewed.
    """

    def __init__(self, access: Callable[[], RuntimeAccess], registry: Registry) -> None:
        self._access = access
        self._registry = registry
        self._valid: list[tuple[float, Secret]] = []

    def sign(self, path: str, operation: SignedOperation, *, expires_in_s: float) -> Secret:
        """Return the URL: GET reads the file, POST of bytes writes it.

        Args:
            path: As the runtime is to see it: absolute, or relative to the workspace.
            expires_in_s: Seconds from now, on the clock of the sandbox's host. It ends with the sandbox's token in
                any case.

        Raises:
            ValueError: It would be valid for no time, or for ever, or the path is empty.
        """
        if not path or not 0 < expires_in_s < math.inf:
            raise ValueError("Give a path, and a time of more than 0 seconds after which the URL expires.")
        self._retire_expired(time.time())
        expires = math.ceil(time.time() + expires_in_s)
        access = self._access()
        signature = file_signature(path, operation, "", reveal(access.access_token), expiration=str(expires))
        self._valid.append((expires, self._registry.register("SIGNED_URL", signature)))
        return Secret("SIGNED_URL", _url(access.envd_url, path, expires, signature))

    def close(self) -> None:
        """Say that no URL of this signer is used any more."""
        self._retire_expired(math.inf)

    def _retire_expired(self, now: float) -> None:
        for expires, secret in self._valid:
            if expires < now:
                self._registry.retire(secret)
        self._valid = [each for each in self._valid if each[0] >= now]


def _url(envd_url: str, path: str, expires: int, signature: str) -> str:
    query = f"path={_quoted(path)}&signature_expiration={expires}&signature={_quoted(signature)}"
    parts = urlsplit(envd_url)
    return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/files", query, ""))


def _quoted(value: str) -> str:
    return quote(value, safe="")
