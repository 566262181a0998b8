"""The host's end of a pipe into a sandbox, when the other end or another task does what it likes."""

from __future__ import annotations

import os
from contextlib import suppress

import anyio
import pytest

from sandbox_tools.local.pipes import Pipe


async def test_what_is_written_is_read_and_the_end_is_seen() -> None:
    with Pipe(reads_here=True) as pipe:
        os.write(pipe.inner, b"x" * 5)
        assert pipe.unread_bytes() == 5
        assert await pipe.read() == b"x" * 5
        pipe.close_inner()
        assert await pipe.read() == b""


async def test_a_pipe_that_another_task_closed_says_so() -> None:
    for pipe in (Pipe(reads_here=True), Pipe(reads_here=False)):
        pipe.close()
        with pytest.raises(anyio.ClosedResourceError):
            await pipe.read()
        with pytest.raises(anyio.ClosedResourceError):
            await pipe.write(b"x")
        pipe.close()


async def test_closing_wakes_who_waits() -> None:
    with Pipe(reads_here=True) as pipe, pytest.RaisesGroup(anyio.ClosedResourceError):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipe.read)
            await anyio.wait_all_tasks_blocked()
            pipe.close()


async def test_who_waits_for_a_new_pipe_is_not_forgotten_when_an_old_one_is_closed() -> None:
    """The number of the old one must not be given out while its reader has still to leave."""

    async def read(pipe: Pipe) -> None:
        with suppress(anyio.ClosedResourceError):
            await pipe.read()

    async with anyio.create_task_group() as tasks:
        old = Pipe(reads_here=True)
        tasks.start_soon(read, old)
        await anyio.wait_all_tasks_blocked()
        old.close()
        with Pipe(reads_here=True) as new:
            with anyio.fail_after(5):
                async with anyio.create_task_group() as writing:
                    writing.start_soon(write_later, new)
                    await anyio.wait_readable(new.fd)


async def write_later(pipe: Pipe) -> None:
    await anyio.wait_all_tasks_blocked()
    os.write(pipe.inner, b"x")


async def test_a_reader_that_left_breaks_the_pipe() -> None:
    with Pipe(reads_here=False) as pipe:
        pipe.close_inner()
        with pytest.raises(BrokenPipeError):
            await pipe.write(b"x")


async def test_nothing_that_is_done_to_the_inner_end_blocks_ours() -> None:
    with Pipe(reads_here=True) as pipe:
        os.set_blocking(pipe.inner, True)
        with anyio.move_on_after(0.05) as waiting:
            await pipe.read()
        assert waiting.cancelled_caught
