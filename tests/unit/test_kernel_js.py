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

from tests.unit.test_contexts import wait_until_gone
from tests.unit.test_kernel import KERNEL, KernelProcess

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None and not os.environ.get("CI"), reason="Node.js is not installed"
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    process = KernelProcess(sys.executable, tmp_path_factory.mktemp("cwd"), KERNEL.with_name("kernel.js"))
    yield process
    process.close()


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[KernelProcess]:
    """One that a test may break."""
    process = KernelProcess(sys.executable, tmp_path, KERNEL.with_name("kernel.js"))
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


@pytest.mark.parametrize(
    "code",
    [
        "setTimeout(() => { console.log('started'); for (;;) try { f() } catch {} }, 1); await new Promise(() => {})",
        "setImmediate(() => { console.log('started'); while (true); }); await new Promise(() => {})",
        "process.nextTick(() => { console.log('started'); while (true); }); await new Promise(() => {})",
        "fs.readFile('/dev/null', () => { console.log('started'); while (true); }); await new Promise(() => {})",
        "console.log('started'); while (true) { try { console.log('x') } catch {} }",
        "console.log('started'); const again = () => Promise.resolve().then(again); await again()",
        "({[Symbol.for('nodejs.util.inspect.custom')]() { console.log('started'); while (true); }})",
    ],
)
def test_wherever_code_is_terminated_the_next_run_has_all_that_it_needs(own_node: KernelProcess, code: str) -> None:
    own_node.run("const fs = require('fs')")
    for _ in range(2):
        outcome = own_node.run_and_interrupt(code)
        assert (outcome.error or {})["name"] == "Interrupted"
        following = own_node.run("console.log(await new Promise(done => setTimeout(() => done('late'), 1)))")
        assert (following.stdout, following.stderr, following.error) == ("late\n", "", None)


@pytest.mark.parametrize(
    "code",
    [
        "process.stdout.end(); process.stderr.destroy()",
        "process.stdout = process.stderr = null",
        "process.stdout.write = () => { throw new Error('no') }",
        "JSON.stringify = JSON.parse = undefined; fs.writeSync = null; require('util').inspect = null",
        "for (const name of ['JSON', 'Buffer', 'Promise', 'Object', 'String', 'Set', 'Error']) globalThis[name] = null",
        "Object.freeze(globalThis)",
        "Object.defineProperty(globalThis, '_', {set() { throw 1 }}); 5",
        "Error.prepareStackTrace = () => { throw 1 }; Promise.prototype.then = null",
    ],
)
def test_code_that_breaks_its_surroundings_does_not_break_the_next_run(own_node: KernelProcess, code: str) -> None:
    own_node.run("const kept = 'kept', fs = require('fs')")
    own_node.run(code)
    following = own_node.run("console.log('printed'); kept")
    assert (following.stdout, following.texts, following.error) == ("printed\n", ["'kept'"], None)


@pytest.mark.parametrize(
    "code",
    [
        "process.exitCode = 5; process.emit('exit')",
        "Promise.reject(new Error('nobody looks'))",
        "const {Worker} = require('worker_threads'); new Worker('throw 1', {eval: true}); 1",
        "require('child_process').spawn('sleep', ['0.2'], {stdio: 'inherit'}); 1",
        "const deep = () => deep(); deep()",
        "'x'.repeat(2 ** 30)",
        "throw new Proxy(new Error('x'), {get() { throw 1 }})",
        "({[Symbol.for('nodejs.util.inspect.custom')]() { throw Symbol('s') }})",
    ],
)
def test_code_that_fails_outside_of_its_own_run_does_not_break_the_next_one(node: KernelProcess, code: str) -> None:
    node.run("const kept = 'kept'")
    node.run(code)
    following = node.run("console.log('printed'); kept")
    assert following.stdout.endswith("printed\n")
    assert (following.texts, following.error) == (["'kept'"], None)


def test_timers_go_on_and_what_they_print_comes_with_the_next_run(node: KernelProcess) -> None:
    node.run("let ticks = 0; const timer = setInterval(() => console.log('tick', ++ticks), 1)")
    node.run("await new Promise(done => setTimeout(done, 10))")
    last = node.run("clearInterval(timer); console.log('over', ticks)").stdout.splitlines()[-1]
    assert last.startswith("over ")
    assert int(last.split()[1]) > 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("const circular = {}; circular.own = circular; circular", "<ref *1> { own: [Circular *1] }"),
        ("Symbol('s')", "Symbol(s)"),
        ("(() => 1)", "[Function (anonymous)]"),
        ("({get a() { throw new Error('no') }})", "{ a: [Getter] }"),
        ("new Proxy({}, {get() { throw 1 }, ownKeys() { throw 2 }, getPrototypeOf() { throw 3 }})", "{}"),
        ("const gone = Proxy.revocable({}, {}); gone.revoke(); gone.proxy", "<Revoked Proxy>"),
        (
            "({[Symbol.for('nodejs.util.inspect.custom')]() { throw Object.create(null) }})",
            "<object: it cannot be shown>",
        ),
        ("({toString: null, valueOf: null, [Symbol.toPrimitive]: 1, x: 1n}).x", "1n"),
        ("new Array(1_000_000)", "[ <1000000 empty items> ]"),
    ],
)
def test_values_that_are_hard_to_show_are_shown(node: KernelProcess, value: str, text: str) -> None:
    outcome = node.run(value)
    assert (outcome.texts, outcome.error) == ([text], None)


def test_forms_that_cannot_be_sent_are_left_out(node: KernelProcess) -> None:
    forms = "{'text/html': '<b>', 'application/json': {a: 1n}, 'text/markdown': 5, 'text/plain': null}"
    [shown] = node.run(f"({{[Symbol.for('Jupyter.display')]() {{ return {forms} }}}})").results
    assert sorted(shown["text"]) == ["text/html", "text/plain"]
    assert "Jupyter.display" in shown["text"]["text/plain"]


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("throw undefined", "Uncaught", "undefined"),
        ("throw Symbol('s')", "Uncaught", "Symbol(s)"),
        ("throw Object.defineProperty(new Error('m'), 'stack', {get() { throw 1 }})", "Error", "m"),
        ("throw Object.assign(new Error('m'), {name: {toString() { throw 1 }}})", "Error", "m"),
        ("new Array(1e10)", "RangeError", "Invalid array length"),
    ],
)
def test_whatever_is_thrown_is_told(node: KernelProcess, code: str, name: str, message: str) -> None:
    error = node.run(code).error
    assert error is not None
    assert (error["name"], error["message"]) == (name, message)


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


async def test_node_ends_when_the_kernel_does_whatever_it_is_doing(tmp_path: Path) -> None:
    process = KernelProcess(sys.executable, tmp_path, KERNEL.with_name("kernel.js"))
    node = int(process.run("process.pid").texts[0])
    process.start("console.log('started'); while (true);")
    process.events_until("started")
    process.process.kill()
    process.close()
    await wait_until_gone(node)


def test_without_node_the_kernel_says_that_a_program_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, KERNEL, tmp_path / "lock", KERNEL.with_name("kernel.js")]
    ended = subprocess.run(command, env={"PATH": str(tmp_path)}, stdin=subprocess.PIPE, check=False, timeout=20)
    assert ended.returncode == 127
