"""The shell lines that run code of a language once, on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sandbox_tools.client.languages import OneShotLanguage, one_shot

MAIN = 'class Main { public static void main(String[] a) { System.out.println("3\'"); System.exit(4); } }'
STEPS = 'int x = 2;\nSystem.out.println((x + 1) + "\'")'


def run(language: OneShotLanguage, code: str, cwd: Path, path: str) -> tuple[int, str]:
    command = one_shot(language, code)
    ended = subprocess.run(
        [command.cmd, *command.args],
        capture_output=True,
        cwd=cwd,
        env={"PATH": path, "TMPDIR": str(cwd), "HOME": str(cwd)},
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout.decode()


@pytest.mark.parametrize(
    ("language", "program", "code", "exit_code"),
    [("bash", "bash", 'a=(1 2); echo "${a[1]}"; exit 4', 4), ("java", "java", MAIN, 4), ("java", "jshell", STEPS, 0)],
)
def test_code_runs_once_and_leaves_no_file(
    tmp_path: Path, language: OneShotLanguage, program: str, code: str, exit_code: int
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    ended, printed = run(language, code, tmp_path, os.environ["PATH"])
    assert (ended, printed.strip("'\n")) == (exit_code, "2" if language == "bash" else "3")
    assert not list(tmp_path.glob(".sandbox-tools-*"))


@pytest.mark.parametrize("program", ["tsx", "bun", "deno", "Rscript"])
def test_a_program_is_given_the_code_in_a_file(tmp_path: Path, program: str) -> None:
    """These are not installed here: what would be given to each one is shown instead."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "cat", "rm", "env"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / program).write_text('#!/usr/bin/env sh\necho "$#"\nfor last; do :; done\ncat "$last"\nexit 5\n')
    (tools / program).chmod(0o755)
    language: OneShotLanguage = "r" if program == "Rscript" else "typescript"
    ended, printed = run(language, "one 'two' \"three\" \\\\ $four", tmp_path, str(tools))
    assert (ended, printed) == (5, f"{3 if program == 'deno' else 1}\none 'two' \"three\" \\\\ $four\n")
    assert not list(tmp_path.glob(".sandbox-tools-*"))


@pytest.mark.parametrize("language", ["bash", "typescript", "r", "java"])
def test_a_missing_program_is_127_and_prints_nothing(tmp_path: Path, language: OneShotLanguage) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    assert run(language, "1", tmp_path, str(tmp_path)) == (127, "")
