"""The first program of a sandbox that bwrap made: sets what bwrap cannot, says that it is ready, and becomes the agent.

Standard library only. Nothing that a user sent has run before. Descriptor 3 is the agent's control socket, 4 the pipe
on which the launcher waits for one byte.
"""

from __future__ import annotations

import ctypes
import os
import socket
from typing import NoReturn

from sandbox_tools.guest import agent, limits

_PR_SET_DUMPABLE = 4


def main() -> NoReturn:
    """Never returns."""
    limits.set_limits()
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # closes /proc/1 to the programs in the sandbox
    os.closerange(5, 4096)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    os.write(4, b"1")
    os.close(4)
    agent.main(socket.socket(fileno=3))
