"""Limits of a sandbox that a process sets on itself, and so on all that it starts.

Standard library only: PID 1 sets them, in the launcher's code or (bwrap) in the sandbox. They must be set inside
the user namespace: outside, the processes of the whole host user count.
"""

from __future__ import annotations

import resource
from typing import Final

PROCESSES: Final = 256

_LIMITS: Final = {
    resource.RLIMIT_NOFILE: 1024,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 1 << 30,
    resource.RLIMIT_DATA: 2 << 30,
    resource.RLIMIT_MEMLOCK: 1 << 20,
    resource.RLIMIT_MSGQUEUE: 1 << 16,
    resource.RLIMIT_SIGPENDING: 256,
}


def set_limits(processes: int = PROCESSES) -> None:
    """Lower every limit for good, and be the first to go when memory runs out.

    Args:
        processes: Of this user, in this user namespace.
    """
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    for limit, wanted in {**_LIMITS, resource.RLIMIT_NPROC: processes}.items():
        hard = resource.getrlimit(limit)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(limit, (value, value))
