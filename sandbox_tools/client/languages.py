"""Languages without a context: the code is an argument of a shell line that runs it once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from sandbox_tools.wire.process import Command

OneShotLanguage = Literal["typescript", "bash", "r", "java"]

MAX_ONE_SHOT_CODE_BYTES: Final = 128 * 1024 - 1
"""Longest argument that Linux passes to a program (MAX_ARG_STRLEN, counting the final NUL), in bytes."""

_HAS: Final = 'has() { command -v "$1" >/dev/null 2>&1; }; '
_TO_FILE: Final = """trap 'rm -f "$file"' EXIT; printf '%s\\n' "$1" >"$file"; """
_TMP_FILE: Final = "file=${TMPDIR:-/tmp}/.sandbox-tools-$$"

_BASH: Final = 'has bash || exit 127; exec bash -c "$1"'

_TYPESCRIPT: Final = (
    "node='node --experimental-strip-types --no-warnings'; "
    "if has tsx; then run=tsx; elif has bun; then run=bun; elif has deno; then run='deno run --allow-all'; "
    "elif has node && $node -e 0 2>/dev/null; then run=$node; else exit 127; fi; "
    f'file=./.sandbox-tools-$$.mts; {_TO_FILE}$run "$file"'
)
"""The file is in the working directory, because that is where its imports are looked for."""

_R: Final = f'has Rscript || exit 127; {_TMP_FILE}.R; {_TO_FILE}Rscript "$file"'

_JAVA: Final = (
    f"has java || has jshell || exit 127; {_TMP_FILE}.java; {_TO_FILE}"
    r"""if grep -Eq "\bmain *\(" "$file"; then java "$file"; """
    'else echo /exit >>"$file"; jshell --execution local "$file"; fi'
)
"""A program with a main method, or what one would type into jshell, which always ends with 0."""

_SCRIPTS: Final[Mapping[OneShotLanguage, str]] = {"bash": _BASH, "typescript": _TYPESCRIPT, "r": _R, "java": _JAVA}


def one_shot(language: OneShotLanguage, code: str) -> Command:
    """Return the command that runs code once. It ends with 127, and prints nothing, where the program is missing."""
    return Command(cmd="/bin/sh", args=("-c", _HAS + _SCRIPTS[language], "sh", code))
