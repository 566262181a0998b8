"""A terminal in a sandbox: the pair of descriptors, and the relay between it and the pipes of the host.

Standard library only, runs inside. The host gets no descriptor of a terminal: its flags (such as O_NONBLOCK) would be
shared with the sandbox, which could then stop the host in the middle of a read.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios

_TIOCSPTLCK = 0x4004_5431
_TIOCGPTN = 0x8004_5430
"""Not in every `termios`; the same numbers on x86_64 and aarch64."""

_PIECE_BYTES = 65_536
_MAX_DRAINED_BYTES = 1 << 20
"""Carried after the end of the program. What it wrote is less; a job that it left behind may write for ever."""


def open_pair(cols: int, rows: int) -> tuple[int, int]:
    """Return the master and the program's end of a new terminal of this sandbox.

    Not os.openpty(): older C libraries want to change the owner of the terminal and fail.
    """
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, struct.pack("i", 0)))[0]
        resize(master, cols, rows)
        return master, os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except BaseException:
        os.close(master)
        raise


def resize(master: int, cols: int, rows: int) -> None:
    """Change the size; the kernel tells the program in the foreground (SIGWINCH)."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def take_control(terminal: int) -> None:
    """Make it the controlling terminal of this session, for job control and Ctrl-C."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def relay(master: int, typed: int, shown: int, ended: int) -> None:
    """Carry bytes both ways until the program has ended and what it wrote was carried.

    Args:
        typed: A pipe of what the user types.
        shown: A pipe for what the program shows.
        ended: A pipe that gets a byte when the program has ended.
    """
    for fd in (master, typed, shown):
        os.set_blocking(fd, False)
    to_host, to_program = _Flow(master, shown), _Flow(typed, master)
    over, left = False, _MAX_DRAINED_BYTES
    while to_host.open and left > 0:
        poll = select.poll()
        if not over:
            poll.register(ended, select.POLLIN)
        for fd, events in _wanted(to_host, to_program).items():
            poll.register(fd, events)
        over |= any(fd == ended for fd, _ in poll.poll(0 if over and not to_host.held else None))
        carried = to_host.step()
        to_program.step()
        if over:
            left -= carried
            if not carried and not to_host.held:
                return
    if not over:  # it has closed its terminal; a program does so on its way out, and must not be hung up for that
        os.read(ended, 1)


def _wanted(*flows: _Flow) -> dict[int, int]:
    wanted: dict[int, int] = {}
    for flow in flows:
        if flow.open:
            fd, events = (flow.sink, select.POLLOUT) if flow.held else (flow.source, select.POLLIN)
            wanted[fd] = wanted.get(fd, 0) | events
    return wanted


class _Flow:
    """One direction, which holds one piece at most: a side that does not read stops the other, as a terminal does."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        self.held = b""
        self.open = True

    def step(self) -> int:
        """Carry what can be carried now; return how many bytes."""
        if not self.open:
            return 0
        try:
            if not self.held:
                self.held = os.read(self.source, _PIECE_BYTES)
                self.open = bool(self.held)
            count = os.write(self.sink, self.held) if self.held else 0
        except BlockingIOError:
            return 0
        except OSError:  # nobody has the other end of the terminal, or of the pipe, open any more
            self.open, self.held = False, b""
            return 0
        self.held = self.held[count:]
        return count
