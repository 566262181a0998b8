"""Files and the small routes, as a client: against the real local service, and against servers that break rules."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import secrets
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from sandbox_tools.client.control import ControlPlane, RuntimeAccess
from sandbox_tools.client.files import DOWNLOAD_TRIES, MAX_BATCH_BYTES
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.client.signing import UrlSigner
from sandbox_tools.errors import SandboxProtocolError, SandboxRequestError, SandboxResponseError
from sandbox_tools.redaction import Redactor, Registry
from sandbox_tools.redaction.secret import reveal
from sandbox_tools.wire.control import NewSandbox
from sandbox_tools.wire.envelope import END_STREAM, encode_frame, encode_json_frame
from sandbox_tools.wire.files import FileContent, NewFile, WatchEvent
from tests.contract.hostile import Answer, HostileServer, hostile_server, http, json_answer, raw, stream_answer
from tests.local.service import LocalServer

MIB = 1 << 20
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


@asynccontextmanager
async def sandbox(server: LocalServer) -> AsyncIterator[RemoteRuntime]:
    registry = Registry()
    control = ControlPlane(server.base_url, registry.register("KEY", server.api_key), registry)
    async with anyio.create_task_group() as tasks:
        info, access = await control.create(NewSandbox(envs={"FROM_CREATE": "a-value-to-keep"}))
        runtime = RemoteRuntime(info.sandbox_id, access, tasks)
        try:
            yield runtime
        finally:
            await runtime.aclose()
            await control.delete(info.sandbox_id)
            await control.aclose()
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def broken(*answers: Answer) -> AsyncIterator[tuple[RemoteRuntime, HostileServer]]:
    token = Registry().register("SANDBOX_TOKEN", secrets.token_urlsafe(32))
    async with hostile_server(*answers) as server, anyio.create_task_group() as tasks:
        runtime = RemoteRuntime("s", RuntimeAccess(envd_url=server.base_url, access_token=token), tasks)
        try:
            with anyio.fail_after(20):
                yield runtime, server
        finally:
            await runtime.aclose()
            tasks.cancel_scope.cancel()


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def interrupted(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece
    raise LookupError("the source is gone")


async def all_of(runtime: RemoteRuntime, path: str, **part: Any) -> tuple[int | None, bytes]:
    """Read a file, or a part of it, to the end; return the size that it told, and the bytes."""
    async with runtime.files.open(path, **part) as file:
        return file.size, b"".join([piece async for piece in file.chunks()])


async def names_in(runtime: RemoteRuntime, path: str) -> set[str]:
    return {entry.name for entry in await runtime.filesystem.list(path)}


async def test_a_file_of_64_mib_goes_both_ways_in_a_few_mib_of_memory(local_server: LocalServer) -> None:
    block = secrets.token_bytes(MIB)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield block

    async with sandbox(local_server) as runtime:
        await runtime.filesystem.exists("warm")
        tracemalloc.start()
        try:
            await runtime.files.write("dir/big", source())
            seen = hashlib.sha256()
            async with runtime.files.open("dir/big") as file:
                assert file.size == 64 * MIB
                async for piece in file.chunks():
                    seen.update(piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert seen.digest() == hashlib.sha256(block * 64).digest()
        assert peak < 8 * MIB


async def test_parts_and_compression(local_server: LocalServer) -> None:
    async with sandbox(local_server) as runtime:
        text = b"".join(b"line %d\n" % number for number in range(50_000))
        for data in (text, pieces(text[:100], b"", text[100:])):
            await runtime.files.write("log ü.txt", data, gzip=True)
            assert await runtime.files.read("log ü.txt") == text
        assert await all_of(runtime, "log ü.txt", gzip=True) == (None, text)
        assert await all_of(runtime, "log ü.txt", first_byte=5, max_bytes=9) == (len(text), text[5:14])
        assert await all_of(runtime, "log ü.txt", first_byte=len(text) - 3) == (len(text), text[-3:])
        with pytest.raises(SandboxResponseError) as after_the_end:
            await all_of(runtime, "log ü.txt", first_byte=len(text))
        assert after_the_end.value.status == 416
        with pytest.raises(SandboxProtocolError, match="more than the 100 bytes"):
            await runtime.files.read("log ü.txt", max_bytes=100)
        with pytest.raises(SandboxResponseError) as missing:
            await runtime.files.read("missing")
        assert missing.value.reason == "path_not_found"


@pytest.mark.parametrize("atomic", [False, True])
async def test_a_write_that_breaks_off_leaves_the_old_content(local_server: LocalServer, atomic: bool) -> None:
    async with sandbox(local_server) as runtime:
        await runtime.files.write("dir/a", b"old")
        with pytest.raises(LookupError, match="the source is gone"):
            await runtime.files.write("dir/a", interrupted(b"new", b"x" * MIB), atomic=atomic)
        assert await runtime.files.read("dir/a") == b"old"
        with anyio.fail_after(5):
            while await names_in(runtime, "dir") != {"a"}:
                await anyio.sleep(0.01)
        await runtime.files.write("dir/a", pieces(b"n", b"ew"), atomic=atomic)
        assert await runtime.files.read("dir/a") == b"new"
        assert await names_in(runtime, "dir") == {"a"}


@pytest.mark.parametrize("atomic", [False, True])
async def test_a_cancelled_write_leaves_the_old_content(local_server: LocalServer, atomic: bool) -> None:
    under_way = anyio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for number in itertools.count():
            if number == 5:
                under_way.set()
            yield bytes(MIB)

    async with sandbox(local_server) as runtime:
        await runtime.files.write("dir/a", b"old")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: runtime.files.write("dir/a", endless(), atomic=atomic))
            with anyio.fail_after(10):
                await under_way.wait()
            tasks.cancel_scope.cancel()
        assert await runtime.files.read("dir/a") == b"old"
        with anyio.fail_after(5):
            while await names_in(runtime, "dir") != {"a"}:
                await anyio.sleep(0.01)


async def test_an_atomic_write_that_fails_leaves_nothing_behind(local_server: LocalServer) -> None:
    async with sandbox(local_server) as runtime:
        await runtime.filesystem.make_directory("dir/sub")
        with pytest.raises(SandboxResponseError) as caught:
            await runtime.files.write("dir/sub", b"x", atomic=True)
        assert caught.value.reason == "is_directory"
        assert await names_in(runtime, "dir") == {"sub"}


async def test_files_of_this_machine(local_server: LocalServer, tmp_path: Path) -> None:
    data = secrets.token_bytes(3 * MIB)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    async with sandbox(local_server) as runtime:
        await runtime.files.upload(source, "dir/copy")
        with source.open("rb") as file:
            file.seek(len(data) - 3)
            await runtime.files.upload(file, "end")
            assert not file.closed
        assert await runtime.files.read("end") == data[-3:]
        target.write_bytes(b"before")
        with pytest.raises(SandboxProtocolError, match="more than"):
            await runtime.files.download("dir/copy", target, max_bytes=MIB)
        assert target.read_bytes() == b"before"
        assert await runtime.files.download("dir/copy", target) == len(data)
        assert target.read_bytes() == data
        assert await runtime.files.download("dir/copy", target, gzip=True) == len(data)
        assert target.read_bytes() == data
        with pytest.raises(FileNotFoundError):
            await runtime.files.upload(tmp_path / "missing", "dir/copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


async def test_many_small_files_at_once_and_joined(local_server: LocalServer) -> None:
    async with sandbox(local_server) as runtime:
        await runtime.files.write_batch([NewFile(path="a", data=b"one\xff", mode=0o755), NewFile(path="b", data=b"")])
        assert (await runtime.filesystem.stat("a")).mode & 0o777 == 0o755
        assert await runtime.files.read("a") == b"one\xff"
        await runtime.files.write("c", b"two")
        await runtime.files.compose(["a", "b", "c"], "all")
        assert await runtime.files.read("all") == b"one\xfftwo"
        assert await names_in(runtime, ".") == {"all"}
        with pytest.raises(ValueError, match="one by one"):
            await runtime.files.write_batch([NewFile(path="a", data=bytes(MAX_BATCH_BYTES + 1))])


async def test_a_file_as_a_model_would_look_at_it(local_server: LocalServer) -> None:
    async with sandbox(local_server) as runtime:
        await runtime.files.write("a.txt", b"x" * 1000)
        await runtime.files.write("a.png", PNG)
        assert await runtime.files.content("a.txt") == FileContent(text="x" * 1000)
        assert (await runtime.files.content("a.txt", max_tokens=10)).truncated
        assert await runtime.files.content("a.png") == FileContent(image=PNG, mime_type="image/png")


async def test_names_and_directories(local_server: LocalServer) -> None:
    async with sandbox(local_server) as runtime:
        tree = runtime.filesystem
        made = await tree.make_directory("one/two")
        assert (made.type, made.path) == ("directory", "/root/workspace/one/two")
        with pytest.raises(SandboxResponseError) as there:
            await tree.make_directory("one/two")
        assert there.value.reason == "already_exists"
        await runtime.files.write("one/two/file", b"alpha beta")
        assert [entry.name for entry in await tree.list("one")] == ["two"]
        assert [entry.name for entry in await tree.list("one", depth=2)] == ["two", "file"]
        assert (await tree.stat("one/two/file")).size == 10
        await tree.edit("one/two/file", "beta", "gamma")
        assert await runtime.files.read("one/two/file") == b"alpha gamma"
        assert (await tree.move("one/two/file", "three/file")).path == "/root/workspace/three/file"
        assert [await tree.exists(path) for path in ("one/two/file", "three/file")] == [False, True]
        await tree.remove("one")
        await tree.remove("one")
        assert await names_in(runtime, ".") == {"three"}
        with pytest.raises(SandboxResponseError) as missing:
            await tree.list("one")
        assert missing.value.reason == "path_not_found"


async def test_changes_are_seen(local_server: LocalServer) -> None:
    async with sandbox(local_server) as runtime:
        tree = runtime.filesystem
        await tree.make_directory("dir")
        with pytest.raises(SandboxResponseError):
            async with tree.watch("missing"):
                pass
        watcher = await tree.create_watcher("dir")
        with anyio.fail_after(10):
            async with tree.watch("dir", recursive=True) as events:
                await runtime.files.write("dir/a", b"x")
                assert (await anext(events)).name == "a"
                await tree.remove("dir/a")
                async for event in events:
                    if event == WatchEvent(name="a", type="remove"):
                        break
            collected: list[WatchEvent] = []
            while WatchEvent(name="a", type="remove") not in collected:
                collected += await tree.watcher_events(watcher, limit=1)
        await tree.remove_watcher(watcher)
        with pytest.raises(SandboxResponseError) as unknown:
            await tree.watcher_events(watcher)
        assert unknown.value.status == 404


async def test_what_a_runtime_tells_of_itself(local_server: LocalServer) -> None:
    async with sandbox(local_server) as runtime:
        machine = runtime.machine
        assert await machine.is_healthy()
        metrics = await machine.metrics()
        assert metrics.memory_total >= metrics.memory_used > 0
        assert metrics.disk_total > 0
        await machine.add_environment({"ADDED": "later"})
        assert {"FROM_CREATE", "ADDED"} <= set(await machine.environment_names())
        command = 'cat; echo "$ADDED$ONE$PWD" >&2; exit 3'
        result = await machine.run("sh", ["-c", command], cwd="/tmp", envs={"ONE": "1"}, stdin="typed", timeout_s=10)
        assert (result.stdout, result.stderr, result.exit_code) == ("typed", "later1/tmp\n", 3)
        late = await machine.run("sleep", ["1000"], timeout_s=0.2)
        assert late.exit_code != 0
    assert not await machine.is_healthy()


async def test_a_signed_url_works_for_one_file_and_one_use_until_it_expires(local_server: LocalServer) -> None:
    registry = Registry()
    path = "dir/a file+ü&x.txt"
    async with sandbox(local_server) as runtime, httpx.AsyncClient(trust_env=False) as anyone:
        signer = runtime.url_signer(registry)
        await runtime.files.write(path, b"content")
        url = signer.sign(path, "read", expires_in_s=3600)
        assert (await anyone.get(reveal(url))).content == b"content"
        assert (await anyone.post(reveal(url), content=b"new")).status_code == 401
        assert (await anyone.get(reveal(url).replace("path=dir", "path=other"))).status_code == 401
        upload = signer.sign(path, "write", expires_in_s=3600)
        sent = await anyone.post(reveal(upload), content=b"new", headers={"Content-Type": "application/octet-stream"})
        assert sent.status_code == 200
        assert (await anyone.get(reveal(url))).content == b"new"
        expired = RuntimeSignerInThePast(runtime, registry).sign(path, "read", expires_in_s=1)
        assert (await anyone.get(reveal(expired))).status_code == 401


class RuntimeSignerInThePast:
    """Signs as an hour ago."""

    def __init__(self, runtime: RemoteRuntime, registry: Registry) -> None:
        self._signer: UrlSigner = runtime.url_signer(registry)

    def sign(self, *args: object, **kwargs: object) -> object:
        with pytest.MonkeyPatch.context() as patch:
            now = time.time()
            patch.setattr(time, "time", lambda: now - 3600)
            return self._signer.sign(*args, **kwargs)  # type: ignore[arg-type]


def test_a_signed_url_shows_in_no_text_while_it_is_valid() -> None:
    registry = Registry()
    token = registry.register("SANDBOX_TOKEN", secrets.token_urlsafe(32))
    access = RuntimeAccess(envd_url="https://router.example/9000-s/", access_token=token)
    signer = UrlSigner(lambda: access, registry)
    url = signer.sign("/root/a+b.txt", "read", expires_in_s=60)
    assert repr(url) == "<secret SIGNED_URL>"
    text = reveal(url)
    assert text.startswith("https://router.example/9000-s/files?path=%2Froot%2Fa%2Bb.txt&signature_expiration=")
    signature = text.rpartition("signature=")[2]
    assert Redactor(registry).text(text) == text.replace(signature, "[REDACTED:SIGNED_URL]")
    signer.close()
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="a time of more than 0"):
            signer.sign("/a", "read", expires_in_s=wrong)


def lost(body: bytes, announced: int) -> Answer:
    """An answer whose connection is lost in the middle of the body."""
    return raw(f"HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\n\r\n".encode() + body)


async def test_a_lost_download_begins_again_and_never_joins_two_versions(tmp_path: Path) -> None:
    target = tmp_path / "target"
    async with broken(lost(b"first vers", 13), http(200, b"second one!!!")) as (runtime, server):
        assert await runtime.files.download("a", target) == 13
        assert len(server.requests) == 2
    assert target.read_bytes() == b"second one!!!"
    async with broken(lost(b"third vers", 13)) as (runtime, server):
        with pytest.raises(SandboxRequestError):
            await runtime.files.download("a", target)
        assert len(server.requests) == DOWNLOAD_TRIES
    assert target.read_bytes() == b"second one!!!"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


async def test_a_write_whose_answer_is_lost_says_that_it_may_have_happened() -> None:
    async with broken(raw()) as (runtime, server):
        for data in (b"x", pieces(b"x")):
            with pytest.raises(SandboxRequestError) as caught:
                await runtime.files.write("a", data)
            assert caught.value.maybe_done
            assert "check before you do it again" in str(caught.value)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("body", "what"),
    [
        pytest.param(b"not gzip at all", "it is not gzip", id="not gzip"),
        pytest.param(gzip.compress(b"x" * 1000)[:-4], "cut off inside its compression", id="truncated"),
        pytest.param(b"", "cut off inside its compression", id="empty"),
    ],
)
async def test_broken_compression_is_a_protocol_error(body: bytes, what: str) -> None:
    async with broken(http(200, body, "Content-Encoding: gzip")) as (runtime, _):
        with pytest.raises(SandboxProtocolError, match=what):
            await all_of(runtime, "a", gzip=True)


async def test_a_compressed_bomb_comes_in_small_pieces_and_ends_at_the_limit(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(64 * MIB), 9)
    async with broken(http(200, bomb, "Content-Encoding: gzip")) as (runtime, _):
        async with runtime.files.open("a", gzip=True) as file:
            assert max([len(piece) async for piece in file.chunks()]) <= MIB
        with pytest.raises(SandboxProtocolError, match="more than"):
            await runtime.files.download("a", tmp_path / "a", max_bytes=MIB, gzip=True)
        with pytest.raises(SandboxProtocolError, match="not asked for"):
            await runtime.files.read("a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(http(200, b"0123456789"), id="the whole file"),
        pytest.param(http(206, b"0123", "Content-Range: bytes 0-3/10"), id="another part"),
        pytest.param(http(206, b"5678", "Content-Range: bytes 5-4/10"), id="an impossible part"),
        pytest.param(http(206, b"5678", "Content-Range: bytes 5-9/10"), id="more than asked"),
        pytest.param(http(206, b"56", "Content-Range: bytes 5-8/10"), id="shorter than it says"),
        pytest.param(http(206, b"5678"), id="no range"),
    ],
)
async def test_a_wrong_part_is_a_protocol_error(answer: Answer) -> None:
    async with broken(answer) as (runtime, _):
        with pytest.raises(SandboxProtocolError):
            await all_of(runtime, "a", first_byte=5, max_bytes=4)


async def test_answers_that_break_the_wire_are_protocol_errors() -> None:
    for message in ({}, {"files": [{"bytes_written": 2}]}, {"files": ["x"]}, {"files": [{"bytes_written": "x"}]}, []):
        async with broken(json_answer(message)) as (runtime, _):
            with pytest.raises(SandboxProtocolError):
                await runtime.files.write_batch([NewFile(path="a", data=b"x")])
    for message in ({"entries": {}}, {"entries": [1]}, {"entries": [{}]}, {"entries": [{"path": "/a", "size": "x"}]}):
        async with broken(json_answer(message)) as (runtime, _):
            with pytest.raises(SandboxProtocolError):
                await runtime.filesystem.list("/")
    async with broken(json_answer({})) as (runtime, _):
        assert await runtime.filesystem.list("/") == ()
        for call in (runtime.filesystem.stat("/"), runtime.filesystem.create_watcher("/"), runtime.files.content("/")):
            with pytest.raises(SandboxProtocolError):
                await call
        with pytest.raises(SandboxProtocolError):
            await runtime.machine.run("true", timeout_s=1)
    async with broken(json_answer({"ts": 1, "cpu_used_pct": "all"})) as (runtime, _):
        with pytest.raises(SandboxProtocolError):
            await runtime.machine.metrics()


async def test_a_watch_skips_what_it_does_not_know_and_ends_with_the_error_of_the_end_frame() -> None:
    frames = [
        encode_json_frame({"start": {}}),
        encode_frame(b""),
        encode_json_frame({"keepalive": {}}),
        encode_json_frame({"filesystem": {"name": "a", "type": "EVENT_TYPE_NEW"}}),
        encode_frame(b'{"error":{"code":"internal","message":"x"}}', flags=END_STREAM),
    ]
    async with broken(stream_answer(*frames)) as (runtime, _), runtime.filesystem.watch("/") as events:
        assert await anext(events) == WatchEvent(name="a", type="other")
        with pytest.raises(SandboxResponseError) as caught:
            await anext(events)
        assert caught.value.kind == "server"
    async with broken(stream_answer(encode_frame(b"[]"))) as (runtime, _), runtime.filesystem.watch("/") as events:
        with pytest.raises(SandboxProtocolError):
            await anext(events)
