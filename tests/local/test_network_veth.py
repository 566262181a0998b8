"""The egress proxy on a real network: the service in one network namespace, "the internet" in another, a wire between.

Public addresses are given to the far end of that wire, so nothing can leave this machine. Needs root and iproute2.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from sandbox_tools.local.outside import Outside
from sandbox_tools.wire.network import NetworkRules
from tests.local.service import ROOT
from tests.local.test_network import get, sandboxed, status

FAR = ("8.8.8.8/24", "10.9.9.9/24", "169.254.169.254/16", "2001:4860:4860::8888/64")
NEAR = ("8.8.8.1/24", "10.9.9.1/24", "169.254.1.1/16", "2001:4860:4860::1/64")

SERVER = """
import http.server, socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
http.server.SimpleHTTPRequestHandler.log_message = lambda *_: None
print(flush=True)
server = Server(("::", 80), http.server.SimpleHTTPRequestHandler)
print(flush=True)
server.serve_forever()
"""

needs_root = pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"), reason="needs root and iproute2"
)


@needs_root
def test_on_a_real_network_the_proxy_reaches_what_it_may_and_nothing_else() -> None:
    answers = json.loads(
        subprocess.run(
            ["unshare", "-n", sys.executable, "-m", "tests.local.test_network_veth"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    )
    assert answers == {
        "http://8.8.8.8/": 200,
        "http://134744072/": 200,
        "http://[2001:4860:4860::8888]/": 200,
        "http://[::ffff:8.8.8.8]/": 200,
        "http://8.8.8.8:81/": 502,
        "http://9.9.9.9/": 502,  # no route
        "http://8.8.8.1/": 403,  # a public address, but this machine's
        "http://[2001:4860:4860::1]/": 403,
        "http://10.9.9.9/": 403,
        "http://169.254.169.254/": 403,
        "http://[::ffff:169.254.169.254]/": 403,
        "allowed http://10.9.9.9/": 200,
        "allowed http://8.8.8.8/": 403,
        "allowed http://10.9.9.1/": 403,  # this machine's, though the rule names it
        "allowed http://169.254.169.254/": 403,
    }


@contextmanager
def internet() -> Iterator[None]:
    """Join this network namespace to a new one with a web server."""
    with subprocess.Popen(
        ["unshare", "-n", sys.executable, "-c", SERVER],
        cwd="/usr",
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            ip(f"link add near type veth peer name far netns {server.pid}")
            configure("near", NEAR)
            configure("far", FAR, "nsenter", "-t", str(server.pid), "-n")
            server.stdout.readline()
            yield
        finally:
            server.kill()


def configure(link: str, addresses: tuple[str, ...], *prefix: str) -> None:
    for name in ("lo", link):
        ip(f"link set {name} up", *prefix)
    for address in addresses:
        ip(f"address add {address} dev {link}{' nodad' if ':' in address else ''}", *prefix)


def ip(arguments: str, *prefix: str) -> None:
    subprocess.run([*prefix, "ip", *arguments.split()], check=True, capture_output=True)


async def look_around(directory: Path) -> dict[str, int]:
    internet_urls = [
        "http://8.8.8.8/",
        "http://134744072/",
        "http://[2001:4860:4860::8888]/",
        "http://[::ffff:8.8.8.8]/",
        "http://8.8.8.8:81/",
        "http://9.9.9.9/",
        "http://8.8.8.1/",
        "http://[2001:4860:4860::1]/",
        "http://10.9.9.9/",
        "http://169.254.169.254/",
        "http://[::ffff:169.254.169.254]/",
    ]
    allowed_urls = ["http://10.9.9.9/", "http://8.8.8.8/", "http://10.9.9.1/", "http://169.254.169.254/"]
    async with sandboxed(directory, Outside()) as inside:
        answers = await inside.ask(*map(get, internet_urls))
        found = {url: status(answer) for url, answer in zip(internet_urls, answers, strict=True)}
        inside.apply(NetworkRules(allow_out=("10.9.9.0/24", "169.254.0.0/16")))
        answers = await inside.ask(*map(get, allowed_urls))
        return found | {f"allowed {url}": status(answer) for url, answer in zip(allowed_urls, answers, strict=True)}


if __name__ == "__main__":
    with internet(), tempfile.TemporaryDirectory() as directory:
        print(json.dumps(anyio.run(look_around, Path(directory))))
