"""What a process does to itself on the way to being an agent, whatever the launcher."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from typing import Final

from sandbox_tools.local import native

CONTROL_FD: Final = 3
MAX_FDS: Final = 4096


def become(uid: int | None) -> None:
    """Take the sandbox's own user id when the server is root: kuid 0 is exempt from limits and owns host files."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        native.prctl(native.PR_SET_DUMPABLE, 1)  # changing the user cleared it, and it gates writing in /proc/self


def keep_only(agent_fd: int, outcome: socket.socket) -> socket.socket:
    """Leave /dev/null of the sandbox on 0 to 2, the control socket on 3 and the outcome's socket on 4."""
    null = os.open("/dev/null", os.O_RDWR)
    wanted = (null, null, null, agent_fd, outcome.detach())
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, CONTROL_FD + 2) for fd in wanted]
    for fd, source in enumerate(copies):
        os.dup2(source, fd, inheritable=False)
    os.closerange(CONTROL_FD + 2, MAX_FDS)
    return socket.socket(fileno=CONTROL_FD + 1)


def failure(error: OSError) -> bytes:
    """Return what the server is told: the step, and the kernel's answer."""
    what = error.strerror if error.filename is None else error.filename
    reason = os.strerror(error.errno) if error.errno else "failed"
    return json.dumps({"error": f"{what}: {reason}"[:500]}).encode()
