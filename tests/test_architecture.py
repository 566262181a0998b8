"""Imports point downwards only (docs/architecture.md), and the package stays light to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sandbox_tools"

LAYERS: dict[str, set[str]] = {
    # layer: the layers that it may import, beside itself
    "errors": set(),
    "redaction": {"errors"},
    "injection": {"errors", "redaction"},
    "environment": {"errors", "injection", "redaction"},
    "output": set(),
    "wire": {"errors"},
    "runtime": set(),
    "guest": set(),
    "collect": {"output", "redaction", "runtime"},
    "tools": {"errors", "redaction.marks", "runtime"},
    "client": {"errors", "guest", "redaction", "runtime", "wire"},
    "local": {"errors", "guest", "injection", "redaction", "wire"},
    "sandboxes": {
        "client",
        "environment",
        "errors",
        "injection",
        "local.child",
        "local.isolation",
        "redaction",
        "runtime",
        "wire",
    },
    "toolset": {
        "collect",
        "environment",
        "errors",
        "injection",
        "output",
        "redaction",
        "runtime",
        "sandboxes",
        "tools",
    },
    "blocking": {"environment", "output", "redaction", "sandboxes", "tools", "toolset"},
    "testing": {"environment", "errors", "output", "redaction", "runtime", "toolset", "wire"},
    "adapters": {"blocking", "errors", "output", "redaction", "sandboxes", "tools", "toolset"},
    "cli": {
        "adapters",
        "blocking",
        "client",
        "environment",
        "errors",
        "local",
        "redaction",
        "runtime",
        "sandboxes",
        "tools",
        "toolset",
        "wire",
    },
}

ONE_PLACE = {
    "httpx": {
        "client/call.py",
        "client/lanes.py",
        "client/pinned.py",
        "client/preview_upstream.py",
        "client/response.py",
        "client/transport.py",
        "local",
    },
    "httpcore": {"local"},
    "starlette": {"local", "adapters/mcp"},
    "uvicorn": {"local", "adapters/mcp"},
    "mcp": {"adapters/mcp", "cli/demo.py", "cli/doctor_leaks.py"},
    "langchain_core": {"adapters/langchain.py"},
    "openai": {"adapters/openai.py"},
    "typer": {"cli"},
    "rich": {"cli"},
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(module: Path) -> set[str]:
    """Dotted names that a module imports, those inside functions and under TYPE_CHECKING as well."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or module.is_relative_to(PACKAGE / "local"), f"{module}: use absolute imports"
            names.add(node.module or "")
    return names


def relative(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("module", [m for m in MODULES if m.parent != PACKAGE or m.stem in LAYERS], ids=relative)
def test_imports_point_downwards(module: Path) -> None:
    layer = relative(module).split("/")[0].removesuffix(".py")
    for name in imports_of(module):
        if not name.startswith("sandbox_tools."):
            continue
        target = name.removeprefix("sandbox_tools.")
        allowed = LAYERS[layer] | {layer}
        assert any(target == a or target.startswith(f"{a}.") for a in allowed), f"{layer} must not import {target}"


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_a_library_is_imported_in_its_one_place_only(module: Path) -> None:
    for name in imports_of(module):
        places = ONE_PLACE.get(name.split(".")[0])
        if places is not None:
            assert any(relative(module) == p or relative(module).startswith(f"{p}/") for p in places), name


@pytest.mark.parametrize("module", sorted((PACKAGE / "guest").glob("*.py")), ids=relative)
def test_what_runs_in_the_sandbox_uses_the_standard_library_only(module: Path) -> None:
    foreign = {name for name in imports_of(module) if not name.startswith("sandbox_tools.guest")}
    assert {name.split(".")[0] for name in foreign} <= sys.stdlib_module_names


def test_importing_the_package_loads_no_framework_and_no_server() -> None:
    heavy = {"httpx", "pydantic", "mcp", "langchain_core", "openai", "starlette", "uvicorn", "typer", "anyio"}
    code = f"import sys, sandbox_tools; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_public_names_are_there() -> None:
    import sandbox_tools

    assert sorted(sandbox_tools.__all__) == sandbox_tools.__all__
    for name in sandbox_tools.__all__:
        assert getattr(sandbox_tools, name).__name__ == name
