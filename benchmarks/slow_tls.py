"""A slow road to a local service: TLS, and delay on the wire below it. Runs in a process of its own.

    python -m benchmarks.slow_tls CERTIFICATE KEY SERVICE_PORT DELAY_MS...

For each delay it prints the port that stands for the service. A round trip takes that much longer: half of it each
way, and one whole round trip for opening a connection, as TCP takes on a real network.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine
from typing import Any

Carry = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]

TASKS: set[asyncio.Task[None]] = set()

_PIECE = 1 << 16


async def delayed(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, not_before: float, delay_s: float
) -> None:
    """Pass bytes on, each piece `delay_s` after it came."""
    loop = asyncio.get_running_loop()
    due = not_before
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            due = max(due, loop.time() + delay_s)
            loop.call_at(due, writer.write, piece)
    loop.call_at(max(due, loop.time() + delay_s), writer.close)


async def renamed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, old: bytes, new: bytes) -> None:
    """Pass bytes on, with one address in them replaced."""
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece.replace(old, new))
            await writer.drain()
    writer.close()


def kept(carry: Carry) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
    """Return what starts `carry` and holds on to it: asyncio itself keeps only weak references to tasks."""

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(carry(reader, writer))
        TASKS.add(task)
        task.add_done_callback(TASKS.discard)

    return start


async def listen(context: ssl.SSLContext, service_port: int, delay_ms: float) -> int:
    """Listen for one delay and return the port."""
    port = free_port_of_four_digits()
    theirs, ours = f"http://127.0.0.1:{service_port}".encode(), f"https://127.0.0.1:{port}".encode()

    async def to_service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service = await asyncio.open_connection("127.0.0.1", service_port)
        # Both addresses have the same length, so that no Content-Length changes.
        await asyncio.gather(
            renamed(reader, service[1], ours[8:], theirs[7:]), renamed(service[0], writer, theirs, ours)
        )

    inner = await asyncio.start_server(kept(to_service), "127.0.0.1", 0, ssl=context)
    inner_port = inner.sockets[0].getsockname()[1]

    async def to_inner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = asyncio.get_running_loop().time() + delay_ms / 1000
        there = await asyncio.open_connection("127.0.0.1", inner_port)
        half_s = delay_ms / 2000
        await asyncio.gather(
            delayed(reader, there[1], opened + half_s, half_s), delayed(there[0], writer, opened + half_s, half_s)
        )

    await asyncio.start_server(kept(to_inner), "127.0.0.1", port)
    return port


def free_port_of_four_digits() -> int:
    """Return one: "https://127.0.0.1:8443" is as long as "http://127.0.0.1:40000"."""
    for port in range(7100, 9999):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("there is no free port of four digits")


async def main(certificate: str, key: str, service_port: str, *delays_ms: str) -> None:
    """Serve until the process is ended."""
    assert len(service_port) == 5
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    for delay_ms in delays_ms:
        print(await listen(context, int(service_port), float(delay_ms)), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
