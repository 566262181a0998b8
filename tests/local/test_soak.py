"""Nothing grows with the number of sandboxes that were there; benchmarks/soak.py does it for longer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from benchmarks.soak import footprint, settled
from tests.local.service import LocalServer, running_service

CYCLES = 30
WARM_UP = 10
GROWTH_KIB = 4096
"""Of the heap, by chance: 30 leaked sandboxes would take more than that, and leave descriptors and directories."""


def test_many_sandboxes_leave_nothing(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        use(service, WARM_UP)
        before = asdict(settled(lambda: footprint(service.pid, service.state)))
        use(service, CYCLES)
        after = asdict(settled(lambda: footprint(service.pid, service.state)))
    assert after.pop("rss_kib") < before.pop("rss_kib") + GROWTH_KIB
    assert after == before


def use(service: LocalServer, cycles: int) -> None:
    with service.client() as control:
        for _ in range(cycles):
            record = control.post("/sandboxes", json={}).json()
            headers = {"X-Access-Token": record["envdAccessToken"]}
            body = {"cmd": "sh", "args": ["-c", "echo x > f; sleep 1000 & cat f"]}
            assert control.post(f"{record['envdUrl']}/run", json=body, headers=headers).json()["stdout"] == "x\n"
            assert control.delete(f"/sandboxes/{record['sandboxID']}").status_code == 204
