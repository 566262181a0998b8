"""A long run of the local service: create, use and delete sandboxes, and see whether anything grows.

Usage: python -m benchmarks.soak [CYCLES]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.local import service
from sandbox_tools.local.pool import POOL_SIZE

CYCLES = 1000
WARM_UP = 20


@dataclass(frozen=True)
class Footprint:
    """What a service has of the machine.

    Attributes:
        rss_kib: Resident memory of the service and of the process that forks sandboxes.
        descriptors: Open, of both.
        processes: Of the service, with all that came from it.
        directories: Of sandboxes, in its state.
        groups: Control groups of its sandboxes.
    """

    rss_kib: int
    descriptors: int
    processes: int
    directories: int
    groups: int


def footprint(pid: int, state: Path) -> Footprint:
    """Measure a service by its process id and its state directory."""
    pids = [pid, *_descendants(pid)]
    long_lived = [pid, *_children(pid)]
    return Footprint(
        rss_kib=sum(_rss_kib(one) for one in long_lived),
        descriptors=sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in long_lived),
        processes=len(pids),
        directories=sum(1 for _ in (state / "sandboxes").iterdir()),
        groups=_count_groups(_groups(pids)),
    )


def settled(measure: Callable[[], Footprint], *, within_s: float = 20) -> Footprint:
    """Return a footprint when nothing is being started or cleaned up.

    That is when those that wait for the next create are all there, and two in a row are the same but for memory.
    """
    deadline = time.monotonic() + within_s
    last = measure()
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = measure()
        if now.directories == POOL_SIZE and asdict(now) | {"rss_kib": 0} == asdict(last) | {"rss_kib": 0}:
            return now
        last = now
    return last


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def _descendants(pid: int) -> list[int]:
    found = _children(pid)
    for one in found:
        try:
            found += _children(one)
        except OSError:
            continue
    return found


def _groups(pids: list[int]) -> set[str]:
    """Return the name of the service's own control group, which its sandboxes know."""
    names: set[str] = set()
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:
            continue
        names |= {part for line in lines for part in line.split("/") if part.startswith("sandbox-tools-")}
    return names


def _count_groups(names: set[str]) -> int:
    """Not by a glob: that fails when another service ends meanwhile."""
    return sum(len(below) for path, below, _ in os.walk("/sys/fs/cgroup") if Path(path).name in names)


def _rss_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    """Print the footprint before, during and after."""
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else CYCLES
    with service() as running:
        state = _state_of(running.process.pid)
        pid = running.process.pid

        def cycle() -> None:
            box = running.create()
            box.write()
            box.run("echo x > f; sleep 100 & cat f")
            box.delete()

        for _ in range(WARM_UP):
            cycle()
        before = settled(lambda: footprint(pid, state))
        print(f"{cycles} cycles of create, write, run and delete")
        print(f"  {'after ' + str(WARM_UP):<14} {before}")
        began = time.monotonic()
        for number in range(1, cycles + 1):
            cycle()
            if number % max(1, cycles // 5) == 0:
                print(f"  {'after ' + str(WARM_UP + number):<14} {settled(lambda: footprint(pid, state))}")
        print(f"  {(time.monotonic() - began) / cycles * 1000:.1f} ms a cycle")


def _state_of(pid: int) -> Path:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    value = next(variable for variable in variables if variable.startswith(b"XDG_STATE_HOME="))
    return Path(os.fsdecode(value.partition(b"=")[2])) / "sandbox-tools"


if __name__ == "__main__":
    main()
