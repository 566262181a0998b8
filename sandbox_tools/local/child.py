"""Starts the local sandbox service as a child process, and stops it. Imports no server code."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.abc

from sandbox_tools.errors import ConfigurationError
from sandbox_tools.injection import Injection
from sandbox_tools.local.isolation import MinIsolation
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.redaction.secret import reveal

START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 2.0

_PASSED: Final = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ", "USER")
_PASSED_PREFIXES: Final = ("LC_", "PYTHON", "SANDBOX_TOOLS_", "XDG_")


@asynccontextmanager
async def local_service(
    registry: Registry, minimum: MinIsolation, injections: Sequence[Injection] = ()
) -> AsyncIterator[tuple[str, Secret]]:
    """Run the service; give its base URL and API key. It creates no sandbox below the least isolation.

    The key, and the secrets that its proxy puts into requests, go through the child's standard input, not through argv
    or the environment, where others could read them. The pipe stays open: when this process ends, however it ends, the
    child reads end-of-file and stops.

    Raises:
        ConfigurationError: It did not start.
    """
    if sys.platform != "linux":
        raise ConfigurationError(
            "The local sandbox needs Linux. Set SEACLOUD_API_KEY and SEACLOUD_BASE_URL to use the cloud, or run this "
            "in WSL 2 or a virtual machine."
        )
    api_key = registry.register("LOCAL_API_KEY", secrets.token_urlsafe(32))
    process = await anyio.open_process(
        [sys.executable, "-m", "sandbox_tools", "local", "--port", "0", "--min-isolation", minimum, "--child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        env=child_environment(),
        start_new_session=True,
    )
    try:
        yield await _base_url(process, api_key, injections), api_key
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)
            registry.retire(api_key)


def child_environment() -> dict[str, str]:
    """Return what the child needs of the environment. The rest may be credentials, so it stays here."""
    return {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}


def _told(api_key: Secret, injections: Sequence[Injection]) -> bytes:
    items = [
        {
            "name": injection.name,
            "placeholder": injection.placeholder,
            "value": reveal(injection.secret),
            "hosts": sorted(injection.hosts),
            "headers": sorted(injection.headers),
        }
        for injection in injections
    ]
    return f"{reveal(api_key)}\n{json.dumps(items) if items else ''}\n".encode()


async def _base_url(process: anyio.abc.Process, api_key: Secret, injections: Sequence[Injection]) -> str:
    line = bytearray()
    with anyio.move_on_after(START_TIMEOUT_S):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            await process.stdin.send(_told(api_key, injections))
            while not line.endswith(b"\n"):
                line += await process.stdout.receive(1024)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            line.clear()
    if line.startswith(b"http://127.0.0.1:"):
        return line.decode("ascii").strip()
    raise ConfigurationError("The local sandbox service did not start. Run `sandbox-tools doctor` to see why.")


async def _stop(process: anyio.abc.Process) -> None:
    """End of input asks the service to delete its sandboxes and stop; what does not stop is killed."""
    if process.stdin is not None:
        await process.stdin.aclose()
    with anyio.move_on_after(STOP_TIMEOUT_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()
