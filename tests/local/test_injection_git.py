"""git in a sandbox with a password that is not in it: Basic authentication, opened and closed again by the proxy."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from sandbox_tools import InjectedSecret
from sandbox_tools.local.child import _told
from sandbox_tools.local.inject import Injector
from sandbox_tools.redaction import Registry
from tests.local.test_injection import HOST, certificate, served_over_tls
from tests.local.test_network import Table, sandboxed

VALUE = f"ghp_{secrets.token_urlsafe(27)}"

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="this machine has no git for the sandbox to see")


def git(*arguments: str, cwd: Path | None = None) -> str:
    identity = {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", **identity}
    return subprocess.run(["git", *arguments], cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout


class GitServer(BaseHTTPRequestHandler):
    """A repository for who knows the password: git's own server, as CGI."""

    root: Path
    asked_by: list[str]

    def do_GET(self) -> None:
        scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
        self.asked_by.append(f"{scheme} {base64.b64decode(encoded).decode()}")
        if self.asked_by[-1] != f"Basic x-access-token:{VALUE}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="team"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "x-access-token",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=True)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        self.send_response(200)
        for line in head.decode().splitlines():
            self.send_header(*line.split(": ", 1))
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815 - the name that the server looks for

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The address of a server that proves to be HOST and has a repository with one commit."""
    git("init", "-q", "-b", "main", str(tmp_path / "work"))
    (tmp_path / "work" / "README").write_text("hello\n")
    git("add", "README", cwd=tmp_path / "work")
    git("commit", "-qm", "One", cwd=tmp_path / "work")
    git("clone", "-q", "--bare", str(tmp_path / "work"), str(tmp_path / "team.git"))
    GitServer.root, GitServer.asked_by = tmp_path, []
    with served_over_tls(certificate(tmp_path, HOST), GitServer) as address:
        yield address


SCRIPT = f"""
import os, subprocess, sys
url = "http://x-access-token:" + sys.argv[1] + "@{HOST}/team.git"
os.environ.update(HOME="/tmp", GIT_TERMINAL_PROMPT="0", EMAIL="a@b.example")
os.environ.update(GIT_AUTHOR_NAME="a", GIT_COMMITTER_NAME="a")
print(subprocess.run(["sh", "-ec", '''
git ls-remote $0 main
git clone -q $0 /tmp/team
cd /tmp/team
cat README .git/config
git commit -q --allow-empty -m Two
git push -q origin HEAD:mine
git ls-remote $0 mine
''', url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout)
"""


async def test_git_clones_and_pushes_with_a_password_that_is_not_in_the_sandbox(
    tmp_path: Path, server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / f"{HOST}.pem"))
    git("config", "http.receivepack", "true", cwd=tmp_path / "team.git")
    injection = InjectedSecret(VALUE, hosts=[HOST]).registered(Registry(), "GITHUB_TOKEN")
    injector = Injector.from_json(_told(injection.secret, [injection]).decode().split("\n")[1])
    table = Table(server, **{HOST.replace(".", "_"): [["8.8.8.8"]]})
    async with sandboxed(tmp_path, table, injector=injector) as box:
        said = await box.python(SCRIPT, injection.placeholder)
    first = git("rev-parse", "main", cwd=tmp_path / "team.git").strip()
    pushed = git("rev-parse", "mine", cwd=tmp_path / "team.git").strip()
    assert f"{first}\trefs/heads/main" in said
    assert f"{pushed}\trefs/heads/mine" in said
    assert "hello\n" in said
    assert f"url = http://x-access-token:{injection.placeholder}@{HOST}/team.git" in said
    assert VALUE not in said
    assert f"Basic x-access-token:{VALUE}" in GitServer.asked_by
    assert {port for _, port in table.dialled} == {443}


async def test_git_is_not_let_in_with_the_placeholder_itself(
    tmp_path: Path, server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the test above would prove nothing."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / f"{HOST}.pem"))
    other = InjectedSecret(VALUE[::-1], hosts=[HOST]).registered(Registry(), "GITHUB_TOKEN")
    injector = Injector.from_json(_told(other.secret, [other]).decode().split("\n")[1])
    table = Table(server, **{HOST.replace(".", "_"): [["8.8.8.8"]]})
    async with sandboxed(tmp_path, table, injector=injector) as box:
        said = await box.python(SCRIPT, "sandbox_tools_secret_" + "0" * 48)
    assert "Authentication failed" in said
