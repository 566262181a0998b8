"""guest/kernel.js under guest/kernel.py: JavaScript that keeps its state."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_kernel import KERNEL, KernelProcess

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None and not os.environ.get("CI"), reason="Node.js is not installed"
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    process = KernelProcess(sys.executable, tmp_path_factory.mktemp("cwd"), KERNEL.with_name("kernel.js"))
    yield process
    process.close()


def test_variables_live_on_and_can_be_declared_again(node: KernelProcess) -> None:
    assert node.run("const a = 1; let b = 2; class Q {}; function f() { return a; }\na + b").texts == ["3"]
    assert node.run("const a = 5; class Q {}; [a, b, f()]").texts == ["[ 5, 2, 5 ]"]
    assert node.run("_").texts == ["[ 5, 2, 5 ]"]
    assert node.run("undefined").results == []
    last = node.run("let c = 1")
    assert (last.results, last.error) == ([], None)


def test_await_works_at_the_top_level(node: KernelProcess) -> None:
    code = "const late = await new Promise(done => setTimeout(() => done('late'), 20)); late"
    assert node.run(code).texts == ["'late'"]
    assert node.run("late").texts == ["'late'"]


def test_both_ways_to_load_modules_work_from_the_working_directory(node: KernelProcess, tmp_path: Path) -> None:
    code = (
        "import fs, {readFileSync as read} from 'node:fs'; import * as os from \"os\"\n"
        "import 'path'\n"
        "[fs.readFileSync === read, typeof os.cpus, require('path') === (await import('path')).default]"
    )
    outcome = node.run(code)
    assert outcome.texts == ["[ true, 'function', true ]"]
    assert (outcome.stdout, outcome.stderr) == ("", "")
    node.run("fs.writeFileSync('own.mjs', 'export const x = 1; export default 2')")
    assert node.run("import two, {x as one} from './own.mjs'\n[one, two]").texts == ["[ 1, 2 ]"]
    untouched = "\"import('a')\" + `import x from 'y'` /* import('b') */"
    assert node.run(untouched).texts == ["\"import('a')import x from 'y'\""]


def test_output_comes_from_the_code_and_from_what_it_starts(node: KernelProcess) -> None:
    outcome = node.run(
        "console.log('out'); console.error('err')\n"
        "require('child_process').spawnSync('sh', ['-c', 'echo child; echo child error >&2'], {stdio: 'inherit'})\n"
        "console.log('end')"
    )
    assert outcome.stdout == "out\nchild\nend\n"
    assert outcome.stderr == "err\nchild error\n"


def test_errors_show_the_users_frames(node: KernelProcess) -> None:
    node.run("function g() { null.x }")
    number = node.run("1").done["count"]
    error = node.run("\ng()").error
    assert error is not None
    assert error["name"] == "TypeError"
    assert error["message"] == "Cannot read properties of null (reading 'x')"
    assert error["traceback"].splitlines()[1:] == [
        f"    at g (cell-{number - 1}:1:21)",
        f"    at cell-{number + 1}:2:1",
    ]
    assert (node.run("let x = = 1").error or {})["traceback"] == "SyntaxError: Unexpected token '='"
    assert (node.run("throw {odd: 1}").error or {})["message"] == "{ odd: 1 }"
    assert (node.run("await Promise.reject(new RangeError('r'))").error or {})["name"] == "RangeError"
    assert (node.run("const deep = () => deep(); deep()").error or {})["name"] == "RangeError"
    late = node.run("setTimeout(() => { throw new Error('later') }, 1); await new Promise(r => setTimeout(r, 50)); 1")
    assert late.stderr.startswith("Uncaught Error: later")
    exited = node.run("process.exit(3)").error
    assert exited is not None
    assert exited["name"] == "Exit"


@pytest.mark.parametrize(
    "code",
    [
        "console.log('started'); while (true);",
        "await null; console.log('started'); while (true);",
        "console.log('started'); await new Promise(() => {})",
        "console.log('started'); while (true) console.log('x')",
        "console.log('started'); while (true) { try { while (true); } catch {} }",
        "console.log('started'); require('child_process').execSync('sleep 60')",
    ],
)
def test_an_interrupt_ends_code_and_keeps_the_state(node: KernelProcess, code: str) -> None:
    node.run("const kept = 'kept'")
    outcome = node.run_and_interrupt(code)
    assert outcome.done["interrupted"] is True
    assert (outcome.error or {})["name"] == "Interrupted"
    assert node.run("kept").texts == ["'kept'"]


def test_a_promise_that_never_settles_may_be_forgotten(node: KernelProcess) -> None:
    for _ in range(3):
        node.run_and_interrupt("console.log('started'); await new Promise(() => {})")
    collect = "require('v8').setFlagsFromString('--expose-gc'); require('vm').runInNewContext('gc')()"
    for _ in range(3):
        assert node.run(f"{collect}; 'collected'").texts == ["'collected'"]


def test_values_are_shown_in_the_forms_that_they_have(node: KernelProcess) -> None:
    outcome = node.run(
        "const own = Symbol.for('Jupyter.display')\n"
        "display({[own]() { return {'text/html': '<b>x</b>', 'application/json': {a: 1}}; }})\n"
        "display({get [own]() { throw new Error('no') }})\n"
        "display(NaN); display(-0); display(10n); display('\\ud800'); display(new Map([[1, {x: 2}]]))\n"
        "Buffer.from('89504e47aa', 'hex')"
    )
    assert outcome.error is None
    first = outcome.results[0]["text"]
    assert (first["text/html"], first["application/json"]) == ("<b>x</b>", '{"a": 1}')
    assert outcome.texts[2:7] == ["NaN", "-0", "10n", "'\\ud800'", "Map(1) { 1 => { x: 2 } }"]
    assert list(outcome.results[-1]["images"]) == ["image/png"]
    long = node.run("'x'.repeat(5_000_000)").texts[0]
    assert long.endswith("more characters not shown]")


def test_a_process_that_ends_takes_the_kernel_with_it(tmp_path: Path) -> None:
    for code, status in (("process.reallyExit(5)", 5), ("process.kill(process.pid, 'SIGKILL')", -signal.SIGKILL)):
        process = KernelProcess(sys.executable, tmp_path, KERNEL.with_name("kernel.js"))
        process.start(code)
        assert process.wait_for_end() == status
        process.close()


def test_without_node_the_kernel_says_that_a_program_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, KERNEL, tmp_path / "lock", KERNEL.with_name("kernel.js")]
    ended = subprocess.run(command, env={"PATH": str(tmp_path)}, stdin=subprocess.PIPE, check=False, timeout=20)
    assert ended.returncode == 127
