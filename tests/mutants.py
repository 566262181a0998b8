"""Does a test notice when a part of what keeps secrets in is missing? Run by hand: `make mutants` (15 minutes).

Takes one form, rule, view, check or hook at a time out of a copy of the sources and runs the tests there that may
notice. A mutant that every test passes with LIVES: it is a gap in the tests, or a part that does nothing.
`python -m tests.mutants pinned guard` tries only the files with these words in their path.
"""

from __future__ import annotations

import ast
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import anyio.pytest_plugin  # noqa: F401 - only to have it imported, as the next ones
import hypothesis.stateful  # noqa: F401
import mcp.server  # noqa: F401
import pytest
import uvicorn  # noqa: F401

from tests.mutants_by_hand import BY_HAND

ROOT: Final = Path(__file__).parents[1]
WORKERS: Final = 2

TIMEOUT_S: Final = 240
"""For the tests of one mutant; one that never ends was noticed."""

OPTIONS: Final = (
    "-qx",
    "--hypothesis-seed=1",
    "-pno:cacheprovider",
    "-Wignore::pytest.PytestAssertRewriteWarning",
)
"""The warning says that pytest was not the first to import a plugin of it, which is so on purpose."""

UNIT: Final = "tests/unit/test_redaction"
HYPERSCAN: Final = f"{UNIT}_hyperscan.py"
CORE: Final = (f"{UNIT}_forms.py", f"{UNIT}_registry.py", f"{UNIT}.py")
COLLECT: Final = ("tests/unit/test_collect.py", "tests/unit/test_toolset.py")
MCP: Final = ("tests/leaks/test_tripwire.py", "tests/leaks/test_adapters.py", "tests/adapters/test_mcp_http.py")
INJECTION: Final = ("tests/unit/test_environment.py", "tests/local/test_injection.py")
CLIENT: Final = (
    "tests/contract/test_pinned.py",
    "tests/contract/test_hostile_server.py",
    "tests/contract/test_client_link.py",
    "tests/contract/test_client_retries.py",
    "tests/leaks/test_exceptions.py",
)

TESTS: Final = {
    "redaction/forms.py": (f"{UNIT}_forms.py", f"{UNIT}_registry.py", f"{UNIT}.py", "-k", "not cut"),
    "redaction/spellings.py": (f"{UNIT}_forms.py", f"{UNIT}.py", "-k", "rare or form or encoded"),
    "redaction/shapes.py": (f"{UNIT}_shapes.py",),
    "redaction/patterns.py": (*COLLECT, *CORE),
    "redaction/folded.py": CORE,
    "redaction/squeezed.py": CORE,
    "redaction/matcher.py": (*CORE, HYPERSCAN),
    "redaction/literals.py": (HYPERSCAN,),
    "redaction/redactor.py": (f"{UNIT}_shapes.py", f"{UNIT}_walk.py", "tests/leaks/test_tripwire.py", *COLLECT, *CORE),
    "redaction/budget.py": (f"{UNIT}_walk.py", f"{UNIT}.py", "-k", "withheld or budget or many or time or busy"),
    "redaction/walk.py": (f"{UNIT}_walk.py",),
    "redaction/logs.py": (f"{UNIT}_logs.py",),
    "redaction/secret.py": (f"{UNIT}_secret.py",),
    "redaction/registry.py": (f"{UNIT}_registry.py", "tests/leaks/test_tripwire.py"),
    "redaction/marks.py": ("tests/unit/test_toolset.py", "tests/unit/test_environment.py"),
    "redaction/blobs.py": ("tests/leaks/test_blobs.py",),
    "redaction/tally.py": (f"{UNIT}_registry.py", "tests/leaks/test_tripwire.py"),
    "tools/": ("tests/unit/test_toolset.py", "tests/unit/test_environment.py"),
    "collect.py": COLLECT,
    "toolset.py": (
        "tests/unit/test_toolset.py",
        "tests/unit/test_environment.py",
        "tests/leaks/test_blobs.py",
        "tests/leaks/test_adapters.py",
        "tests/leaks/test_exceptions.py",
        "tests/leaks/test_structure.py",
        "tests/leaks/test_objects.py",
    ),
    "blocking.py": ("tests/leaks/test_objects.py",),
    "environment.py": ("tests/unit/test_environment.py", "tests/leaks/test_user_secrets.py"),
    "injection.py": INJECTION,
    "local/inject.py": INJECTION,
    "adapters/mcp/server.py": ("tests/leaks/test_traces.py",),
    "adapters/mcp/": MCP,
    "cli/": ("tests/leaks/test_process.py",),
    "client/": CLIENT,
}
"""Those that may notice, by the start of the path below the package; the fast ones first."""


class Mutant(NamedTuple):
    path: str
    old: str
    new: str
    at: int


def main() -> None:
    """Try the mutants and print how it went."""
    with ExitStack() as stack:
        copies = [_copy_sources(Path(stack.enter_context(tempfile.TemporaryDirectory()))) for _ in range(WORKERS)]
        mutants = [mutant for mutant in (*_by_hand(copies[0]), *_items(copies[0])) if _is_wanted(mutant.path)]
        _check_without_mutant(copies[0], mutants)
        living = [mutant for mutant, lives in _outcomes(copies, mutants) if lives]
    _print_table(mutants, living)
    sys.exit(1 if living else 0)


def _is_wanted(path: str) -> bool:
    return not sys.argv[1:] or any(word in path for word in sys.argv[1:])


def _copy_sources(folder: Path) -> Path:
    for name in ("sandbox_tools", "tests", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder


def _check_without_mutant(copy: Path, mutants: list[Mutant]) -> None:
    for tests in dict.fromkeys(_tests_of(mutant.path) for mutant in mutants):
        _start(copy, tests)
        if os.wait()[1]:
            sys.exit(f"The tests fail without a mutant: {' '.join(tests)}")


def _outcomes(copies: list[Path], mutants: list[Mutant]) -> Iterator[tuple[Mutant, bool]]:
    """Yield whether each lives, as soon as it is known. As many run at once as there are copies."""
    waiting = mutants[::-1]
    running: dict[int, tuple[Mutant, Path, str]] = {}
    while waiting or running:
        while waiting and copies:
            mutant, copy = waiting.pop(), copies.pop()
            path = copy / "sandbox_tools" / mutant.path
            source = path.read_text()
            path.write_text(source[: mutant.at] + mutant.new + source[mutant.at + len(mutant.old) :])
            running[_start(copy, _tests_of(mutant.path))] = mutant, copy, source
        pid, status = os.wait()
        mutant, copy, source = running.pop(pid)
        (copy / "sandbox_tools" / mutant.path).write_text(source)
        copies.append(copy)
        line = source.count("\n", 0, mutant.at) + 1
        print(f"{'noticed' if status else 'LIVES'}: {mutant.path}:{line}: {mutant.old!r} -> {mutant.new!r}", flush=True)
        yield mutant, status == 0


def _tests_of(path: str) -> tuple[str, ...]:
    return next(tests for start, tests in TESTS.items() if path.startswith(start))


def _start(copy: Path, tests: tuple[str, ...]) -> int:
    """Run tests in a copy, in a process of its own; its status is 0 when all pass.

    A fork, because it has imported already what takes longer than most of the tests.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm(TIMEOUT_S)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)  # for processes that tests start
        sys.dont_write_bytecode = True
        sys.path[:] = [str(copy), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        status = int(pytest.main([*OPTIONS, *tests]))
    finally:
        os._exit(status)


def _print_table(mutants: list[Mutant], living: list[Mutant]) -> None:
    tried, lived = (Counter(mutant.path for mutant in each) for each in (mutants, living))
    for path, count in tried.items():
        print(f"{count - lived[path]:4} of {count:3} noticed  {path}")
    print(f"{len(mutants) - len(living):4} of {len(mutants):3} noticed in all")


def _by_hand(copy: Path) -> Iterator[Mutant]:
    for path, replacements in BY_HAND.items():
        source = (copy / "sandbox_tools" / path).read_text()
        for old, new in replacements:
            at = source.find(old)
            if at < 0:
                sys.exit(f"{path} has no {old!r} any more.")
            yield Mutant(path, old, new, at)


def _items(copy: Path) -> Iterator[Mutant]:
    """Yield a mutant for every `yield`, every element of a tuple and every operand of a set of forms."""
    for path in ("redaction/forms.py", "redaction/spellings.py", "redaction/shapes.py"):
        source = (copy / "sandbox_tools" / path).read_text()
        starts = [0]
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        for node in ast.walk(ast.parse(source)):
            for old, new in _replacements(node):
                text = ast.get_source_segment(source, old) or ""
                yield Mutant(path, text, new, starts[old.lineno - 1] + old.col_offset)


def _replacements(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    match node:
        case ast.Expr(value=ast.Yield() | ast.YieldFrom() as expression):
            yield expression, "yield from ()"
        case ast.AnnAssign(value=ast.Tuple(elts=elements)):
            for element in elements:
                yield element, '"never"' if isinstance(element, ast.Constant) else "_Rule((), _EXAMPLE, '', bool)"
        case ast.Call(func=ast.Name(id="_prefixed"), args=rules):
            for rule in rules:
                yield rule, 'rb"never[0]"'
        case ast.Call(func=ast.Name(id="_named"), args=words):
            for word in words:
                yield word, 'b"never"'
        case ast.Set(elts=elements):
            for element in elements:
                if isinstance(element, ast.Starred):
                    yield element, "*()"


if __name__ == "__main__":
    main()
