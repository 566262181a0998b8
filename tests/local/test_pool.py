"""Sandboxes that are kept ready."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import anyio
import pytest

from sandbox_tools.local import pool
from sandbox_tools.local.background import Background
from sandbox_tools.local.launcher import LaunchError
from sandbox_tools.local.pool import Pool, Ready


def ready(sandbox_id: str) -> Ready:
    sandbox = SimpleNamespace(stopped=anyio.Event())
    return cast(Ready, SimpleNamespace(sandbox_id=sandbox_id, sandbox=sandbox, discard=anyio.sleep_forever))


async def test_a_launch_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FIRST_RETRY_S", 0.01)
    outcomes: list[Ready | None] = [None, ready("first"), None, None, ready("second")]
    done = anyio.Event()

    async def launch() -> Ready:
        outcome = outcomes.pop(0)
        if not outcomes:
            done.set()
        if outcome is None:
            raise LaunchError("this machine is full")
        return outcome

    async with anyio.create_task_group() as tasks:
        filled = Pool(launch, background=Background(tasks), size=2)
        filled.fill()
        with anyio.fail_after(10):
            await done.wait()
            await anyio.wait_all_tasks_blocked()
        taken = [filled.take(), filled.take()]
        assert [one and one.sandbox_id for one in taken] == ["first", "second"]
        tasks.cancel_scope.cancel()
