"""Code contexts in a real sandbox: they outlive connections, clients and host processes."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest

from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.redaction import Registry
from sandbox_tools.runtime import CodeResult
from tests.contract.proxy import CuttingProxy, cutting_proxy
from tests.contract.test_client_process import Seen
from tests.local.service import Box, LocalServer

DEADLINE_S = 30.0

SECOND_CLIENT = """
import json, sys
import anyio
from sandbox_tools.client.control import RuntimeAccess
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.redaction import Registry

async def main():
    url, token, code = json.load(sys.stdin)
    access = RuntimeAccess(envd_url=url, access_token=Registry().register("TOKEN", token))
    async with anyio.create_task_group() as tasks:
        runtime = RemoteRuntime("s", access, tasks)
        names = [info.name for info in await runtime.contexts.list()]
        result = await runtime.run_code(code, language="python", timeout_s=20, on_output=lambda *_: None)
        print(names, result.results[0].text["text/plain"])
        await runtime.aclose()
        tasks.cancel_scope.cancel()

anyio.run(main)
"""


@pytest.fixture
def box(local_server: LocalServer) -> Iterator[Box]:
    with local_server.sandbox() as sandbox:
        yield sandbox


@asynccontextmanager
async def client(box: Box, url: str | None = None) -> AsyncIterator[RemoteRuntime]:
    """A client of a sandbox, on the way that `url` is."""
    secret = Registry().register("SANDBOX_TOKEN", box.record["envdAccessToken"])
    async with anyio.create_task_group() as tasks:
        access = RuntimeAccess(envd_url=url or box.record["envdUrl"], access_token=secret)
        runtime = RemoteRuntime(box.sandbox_id, access, tasks)
        try:
            yield runtime
        finally:
            await runtime.aclose()
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def proxied(box: Box) -> AsyncIterator[tuple[RemoteRuntime, CuttingProxy]]:
    async with cutting_proxy(box.record["envdUrl"]) as proxy, client(box, proxy.base_url) as runtime:
        yield runtime, proxy


async def run(runtime: RemoteRuntime, code: str, seen: Seen | None = None, timeout_s: float = DEADLINE_S) -> CodeResult:
    with anyio.fail_after(DEADLINE_S + 10):
        return await runtime.run_code(code, language="python", timeout_s=timeout_s, on_output=seen or Seen())


def shown(result: CodeResult) -> str:
    assert result.error is None, result.error
    return result.results[-1].text["text/plain"]


async def test_a_context_survives_cut_connections_and_runs_no_code_twice(box: Box) -> None:
    async with proxied(box) as (runtime, proxy):
        assert shown(await run(runtime, "runs = []\nrun = runs.append\nrun(1)\nruns")) == "[1]"
        proxy.cut()  # between calls
        assert shown(await run(runtime, "run(2)\nruns")) == "[1, 2]"
        seen, results = Seen(), []

        async def long_run() -> None:
            wait = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
            code = f"run(3)\nprint('begun')\n{wait}print('end')\nruns"
            results.append(await run(runtime, code, seen))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(long_run)
            await seen.until(b"begun")
            for _ in range(3):  # during a call
                proxy.cut()
                await anyio.sleep(0.02)
            await runtime.write_file("go", b"")
        assert shown(results[0]) == "[1, 2, 3]"
        assert (seen.out, seen.err) == (b"begun\nend\n", b"")
        before = len(proxy.requests)
        assert shown(await run(runtime, "runs")) == "[1, 2, 3]"
        assert len(proxy.requests) == before + 1, "a call is one request again"


async def test_a_request_whose_answer_was_cut_is_asked_again_and_runs_once(box: Box) -> None:
    async with proxied(box) as (runtime, proxy):
        await run(runtime, "count = 0")
        cuts = iter([True, True])
        proxy.cut_at = lambda piece: next(cuts, False)
        assert shown(await run(runtime, "count += 1\ncount")) == "1"
        assert shown(await run(runtime, "count")) == "1"


async def test_a_context_outlives_its_client_and_another_process_uses_it(box: Box) -> None:
    async with client(box) as first:
        await run(first, "x = 'kept'")
        pid = shown(await run(first, "import os\nos.getpid()"))
        async with client(box) as second:
            assert shown(await run(second, "x += ' by two'\nx")) == "'kept by two'"
            assert shown(await run(first, "x")) == "'kept by two'"
    request = anyio.run_process(
        [sys.executable, "-c", SECOND_CLIENT],
        input=(f'["{box.record["envdUrl"]}", "{box.record["envdAccessToken"]}", "x, os.getpid() == {pid}"]').encode(),
    )
    with anyio.fail_after(DEADLINE_S):
        answer = await request
    assert answer.stdout.decode() == "['default'] ('kept by two', True)\n"


async def test_code_goes_on_when_its_host_process_is_killed_and_the_next_one_sees_what_it_did(box: Box) -> None:
    code = "import os, time\nopen('begun', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)\ny = 5"
    request = json.dumps([box.record["envdUrl"], box.record["envdAccessToken"], code])
    host = await anyio.open_process([sys.executable, "-c", SECOND_CLIENT])
    async with host, client(box) as runtime:
        assert host.stdin is not None
        await host.stdin.send(request.encode())
        await host.stdin.aclose()
        with anyio.fail_after(DEADLINE_S):
            while not await runtime.filesystem.exists("begun"):
                await anyio.sleep(0.02)
        host.kill()
        await host.wait()
        busy = await run(runtime, "y", timeout_s=0.2)
        assert (busy.ran, busy.state_kept) == (False, True)
        await runtime.write_file("go", b"")
        assert shown(await run(runtime, "y")) == "5"


async def test_a_new_token_changes_nothing_for_a_context(box: Box) -> None:
    registry = Registry()
    good = RuntimeAccess(
        envd_url=box.record["envdUrl"], access_token=registry.register("NEW", box.record["envdAccessToken"])
    )
    old = RuntimeAccess(envd_url=good.envd_url, access_token=registry.register("OLD", "no-longer-good-" + "x" * 20))

    async def renew() -> RuntimeAccess:
        return good

    async with client(box) as first, anyio.create_task_group() as tasks:
        await run(first, "x = 1")
        runtime = RemoteRuntime(box.sandbox_id, old, tasks, renew=renew)
        assert shown(await run(runtime, "x")) == "1"
        runtime._transport.retarget(old.envd_url, {"X-Access-Token": old.access_token})
        runtime._transport.access = old
        assert shown(await run(runtime, "x += 1\nx")) == "2"
        await runtime.aclose()
        tasks.cancel_scope.cancel()


async def test_a_restarted_context_is_empty_and_a_second_one_has_variables_of_its_own(box: Box) -> None:
    async with client(box) as runtime:

        async def in_context(name: str | None, code: str, *, restart: bool = False) -> str:
            return shown(
                await runtime.run_code(
                    code, language="python", context=name, restart=restart, timeout_s=20, on_output=Seen()
                )
            )

        assert await in_context(None, "x = 1\nx") == "1"
        assert await in_context("other", "x = 2\nx") == "2"
        assert await in_context(None, "x") == "1"
        assert await in_context("other", "'x' in globals()", restart=True) == "False"
        assert sorted(info.name for info in await runtime.contexts.list()) == ["default", "other"]
        await runtime.contexts.remove("other")
        assert [info.name for info in await runtime.contexts.list()] == ["default"]


async def test_two_clients_that_start_contexts_together_have_one_process_for_each(box: Box) -> None:
    async def set_own(runtime: RemoteRuntime, context: str, variable: str) -> None:
        code = f"{variable} = 1\nopen({context!r}, 'a').write('x')"
        seen = Seen()
        result = await runtime.run_code(code, language="python", context=context, timeout_s=20, on_output=seen)
        assert result.error is None, result.error

    async def both(runtime: RemoteRuntime, context: str) -> str:
        code = f"a + b, len(open({context!r}).read())"
        return shown(await runtime.run_code(code, language="python", context=context, timeout_s=20, on_output=Seen()))

    async with client(box) as first, client(box) as second:
        for name in map(str, range(15)):
            with anyio.fail_after(DEADLINE_S):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(set_own, first, name, "a")
                    tasks.start_soon(set_own, second, name, "b")
            tags = [process.tag for process in await first.processes.list()]
            assert tags == [f"sandbox-tools-context:python:{name}"]
            assert (await both(first, name), await both(second, name)) == ("(2, 2)", "(2, 2)")
            await (first if int(name) % 2 else second).contexts.remove(name)


async def test_what_an_interrupt_left_is_there_for_the_next_client(box: Box) -> None:
    async with client(box) as first:
        await run(first, "x = 1")
        stuck = await run(first, "import time\nprint('begun')\ntime.sleep(60)", timeout_s=0.3)
        assert stuck.timed_out
        assert stuck.state_kept
        async with client(box) as second:
            assert shown(await run(second, "x")) == "1"
