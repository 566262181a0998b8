"""Does a test notice when a part of redaction is missing? Run by hand: `make mutants` (some minutes).

Takes one form, rule, view or hook at a time out of a copy of the sources and runs the tests there. A mutant that
every test passes with is printed, and is a gap in the tests or a part that does nothing.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ALL = ("redaction_forms", "redaction_shapes", "redaction_walk", "redaction_logs", "redaction", "collect", "toolset")
TESTS = {
    "shapes.py": ("redaction_shapes",),
    "spellings.py": ("redaction_forms", "redaction", "-k", "rare or form"),
    "forms.py": ("redaction_forms", "redaction", "-k", "rare or form or encoded or secret"),
}
"""Those that may notice; all, for other files."""

REDACTION = "sandbox_tools/redaction"


class Mutant(NamedTuple):
    path: str
    old: str
    new: str
    at: int


BY_HAND = (
    ("forms.py", "fragments=frozenset(_dense_forms(part) if is_strong else ())", "fragments=frozenset()"),
    ("forms.py", "part = _secret_part(value)", "part = value"),
    ("forms.py", "max(0, start - _OVERLAP_CHARS)", "start"),
    ("forms.py", "rare.union(twice_in_lines(value))", "rare"),
    ("forms.py", "for line in part.splitlines()", "for line in [part]"),
    ("patterns.py", "self._long.find(data) + self._short.find(data)", "self._short.find(data)"),
    ("patterns.py", "self._long.find(data) + self._short.find(data)", "self._long.find(data)"),
    ("patterns.py", "max(self._long.pending(data), self._short.pending(data))", "self._short.pending(data)"),
    ("patterns.py", "max(self._long.pending(data), self._short.pending(data))", "self._long.pending(data)"),
    ("patterns.py", "for view in views(data):", "for view in {data}:"),
    ("patterns.py", "for view in views(data):", "for view in ():"),
    ("patterns.py", "pending = max(pending, size)", "pass"),
    ("patterns.py", "size_with_code(data, pending) if pending else 0", "pending"),
    ("patterns.py", "return max(self._long.longest, self._short.longest, spread)", "return 0"),
    ("folded.py", "_CODE.sub(_blank, data) if _ESCAPE in data else data", "data"),
    ("folded.py", "else _MAYBE.sub(_as_ascii, data)", "else data"),
    ("folded.py", ", folded(_OPEN_CODE.sub(_blank, data))", ""),
    ("matcher.py", "size += 1\n", "break\n"),
    ("redactor.py", "len(seen) - pending", "len(seen)"),
    ("redactor.py", "self._covered = max(0, done - limit)", "self._covered = 0"),
    ("redactor.py", "self._budget.check_time()", "pass"),
    ("redactor.py", "self._budget.count_hit()", "pass"),
    ("redactor.py", "covered=self.margin if after_gap else 0", "covered=0"),
    ("redactor.py", "self._without_unknown(redacted, budget) if unknown else redacted", "redacted"),
    ("redactor.py", "return WITHHELD.encode()", "return data"),
    ("walk.py", "redacted = self.value(key, depth)", "redacted = key"),
    ("logs.py", "self._redactor.text(self._inner.format(record))", "self._inner.format(record)"),
    ("../toolset.py", "self.redactor.text if output.is_error else self.redactor.output", "str"),
    ("../toolset.py", "self.redactor.walk(output.structured)", "output.structured"),
    ("../toolset.py", "is_clean(self.redactor, image.data)", "True"),
    ("../collect.py", ", self._redactor.output)", ")"),
)


def main() -> None:
    """Print the mutants that live."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("sandbox_tools", "tests", "pyproject.toml"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        if not _passes(copy, ALL):
            sys.exit("The tests fail without a mutant.")
        mutants = [*_by_hand(), *_items()]
        living = [mutant for mutant in mutants if _lives(copy, mutant)]
    print(f"{len(mutants) - len(living)} of {len(mutants)} mutants were noticed")
    sys.exit(1 if living else 0)


def _lives(copy: Path, mutant: Mutant) -> bool:
    path = copy / mutant.path
    source = path.read_text()
    path.write_text(source[: mutant.at] + mutant.new + source[mutant.at + len(mutant.old) :])
    lives = _passes(copy, TESTS.get(path.name, ALL))
    path.write_text(source)
    line = source.count("\n", 0, mutant.at) + 1
    print(f"{'LIVES' if lives else 'noticed'}: {mutant.path}:{line}: {mutant.old!r} -> {mutant.new!r}", flush=True)
    return lives


def _passes(copy: Path, tests: tuple[str, ...]) -> bool:
    paths = [f"tests/unit/test_{name}.py" if name in ALL else name for name in tests]
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", *paths]
    return subprocess.run(command, cwd=copy, stdout=subprocess.DEVNULL, check=False).returncode == 0


def _by_hand() -> Iterator[Mutant]:
    for name, old, new in BY_HAND:
        path = (ROOT / REDACTION / name).resolve().relative_to(ROOT)
        at = (ROOT / path).read_text().find(old)
        if at < 0:
            sys.exit(f"{path} has no {old!r} any more.")
        yield Mutant(str(path), old, new, at)


def _items() -> Iterator[Mutant]:
    """Yield a mutant for every `yield`, every element of a tuple and every operand of a set of forms."""
    for name in ("forms.py", "spellings.py", "shapes.py"):
        path = f"{REDACTION}/{name}"
        source = (ROOT / path).read_text()
        starts = [0]
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line.encode()))
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
