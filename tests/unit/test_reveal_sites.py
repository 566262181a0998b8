"""`reveal` turns a handle back into its value. Only a few places need to, and this is the list of them."""

from __future__ import annotations

import ast
from pathlib import Path

import sandbox_tools

ROOT = Path(sandbox_tools.__file__).parent

ALLOWED = {
    "client/builds.py": "logs a build in to a registry of images",
    "client/pinned.py": "puts the credential on the wire",
    "client/signing.py": "signs the URL of a file with it",
    "client/upload.py": "uploads to the URL that it is",
    "client/webhooks.py": "tells the service what to sign deliveries with",
    "injection.py": "registers it under the name that it gets",
    "environment.py": "gives a command, or a sandbox, the variables that its user meant for it",
    "redaction/registry.py": "forgets a retired value",
    "local/": "gives a process that it starts what it needs",
}


def test_only_the_places_that_need_a_value_can_reveal_one() -> None:
    sites = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if _mentions_reveal(path.read_text())}
    sites.discard("redaction/secret.py")
    assert [site for site in sorted(sites) if not site.startswith(tuple(ALLOWED))] == []
    assert "redaction/registry.py" in sites


def test_the_check_sees_every_way_to_get_at_it() -> None:
    assert _mentions_reveal("from sandbox_tools.redaction.secret import reveal as show")
    assert _mentions_reveal("from sandbox_tools.redaction import secret\nsecret.reveal(x)")
    assert _mentions_reveal("from sandbox_tools.redaction.secret import _VALUES")
    assert _mentions_reveal("from sandbox_tools.redaction.secret import *")
    assert _mentions_reveal("getattr(module, 'reveal')")
    assert not _mentions_reveal("from sandbox_tools.redaction.secret import Secret")


def test_the_package_does_not_export_it() -> None:
    from sandbox_tools import redaction

    assert not hasattr(redaction, "reveal")


def _mentions_reveal(source: str) -> bool:
    return any(_is_mention(node) for node in ast.walk(ast.parse(source)))


def _is_mention(node: ast.AST) -> bool:
    match node:
        case ast.ImportFrom(module="sandbox_tools.redaction.secret", names=names):
            return any(name.name in ("reveal", "_VALUES", "*") for name in names)
        case ast.Attribute(attr="reveal" | "_VALUES") | ast.Constant(value="reveal" | "_VALUES"):
            return True
        case _:
            return False
