"""Preview URLs: `{envdUrl}/proxy/{port}/` (wire contract 5.1)."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from sandbox_tools.wire.envelope import WireError

MIN_PORT = 1
MAX_PORT = 65535


def parse_port(value: object) -> int:
    """Return a TCP port.

    Raises:
        WireError: `value` is not a whole number from 1 to 65535.
    """
    text = value if isinstance(value, str) else str(value) if type(value) is int else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and MIN_PORT <= int(text) <= MAX_PORT):
        raise WireError("a port is a whole number from 1 to 65535")
    return int(text)


def preview_url(envd_url: str, port: int) -> str:
    """Return the URL of `port`: with scheme, path prefix and trailing slash, without user, query or fragment."""
    parts = urlsplit(envd_url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    netloc = host if parts.port is None else f"{host}:{parts.port}"
    return urlunsplit((parts.scheme, netloc, f"{parts.path.rstrip('/')}/proxy/{parse_port(port)}/", "", ""))
