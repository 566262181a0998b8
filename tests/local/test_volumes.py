"""Volumes: directories that outlive sandboxes, and where they may not be mounted."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox_tools.local import volumes
from sandbox_tools.local.layout import Layout
from sandbox_tools.wire.control import VolumeMount
from sandbox_tools.wire.envelope import WireError
from tests.local.service import LocalServer, running_service
from tests.local.test_refused import ORDINARY_UID, as_ordinary_user, readable_python

LAYOUT = Layout(binds=(("/opt/python", "/opt/python"), ("/usr", "/usr")), links=(("usr/bin", "/bin"),), files={})
LAUNCHERS = ["native", *(["bwrap"] if shutil.which("bwrap", path="/usr/bin") else [])]


@pytest.fixture(scope="module", params=LAUNCHERS)
def service(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    with running_service(tmp_path_factory.mktemp("state"), env={"LAUNCHERS": request.param}) as running:
        yield running


def test_what_a_sandbox_writes_the_next_one_reads(service: LocalServer) -> None:
    mounts = [{"name": "cache", "path": "/cache"}, {"name": "data.v1", "path": "/mnt/data"}]
    with service.sandbox(volumeMounts=mounts) as box:
        assert box.record["volumeMounts"] == mounts
        assert (
            box.sh("echo one > /cache/f && echo two > /mnt/data/f && mkdir /cache/d && touch /cache/d/x").exit_code == 0
        )
        with service.sandbox(volumeMounts=[{"name": "cache", "path": "/elsewhere"}]) as other:
            assert other.sh("cat /elsewhere/f; echo both >> /elsewhere/f").stdout == "one\n"
        assert box.run("cat", "/cache/f").stdout == "one\nboth\n"
    with service.sandbox(volumeMounts=mounts[1:]) as box:
        assert box.sh("cat /mnt/data/f; ls /cache").stdout == "two\n"


@contextmanager
def removed_at_the_end(directory: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_an_ordinary_user_has_volumes_and_pauses(launcher: str) -> None:
    python, user = readable_python(), as_ordinary_user()
    state = Path(tempfile.mkdtemp())  # not pytest's: that is closed to other users
    if os.getuid() == 0:
        os.chown(state, ORDINARY_UID, ORDINARY_UID)
    running = running_service(state, prefix=user, python=python, env={"LAUNCHERS": launcher})
    with (
        removed_at_the_end(state),
        running as service,
        service.sandbox(volumeMounts=[{"name": "v", "path": "/v"}], autoResume=True) as box,
    ):
        assert box.sh("echo x > /v/f; echo y > f; cat /v/f").stdout == "x\n"
        assert box.control.post(f"/sandboxes/{box.sandbox_id}/pause").status_code == 204
        assert box.sh("cat /v/f f").stdout == "x\ny\n"


def test_volumes_are_listed_made_and_deleted(service: LocalServer) -> None:
    """2.11 of the contract."""
    with service.client() as control:
        listed = {item["name"] for item in control.get("/volumes").json()}
        item = {"volumeID": "managed", "name": "managed"}
        made = control.post("/api/v1/volumes", json={"name": "managed"})
        assert (made.status_code, made.json()) == (201, item)
        assert control.post("/volumes", json={"name": "managed"}).status_code == 409
        with service.sandbox(volumeMounts=[{"name": "managed", "path": "/v"}]) as box:
            assert box.sh("mkdir -p /v/a/b; chmod 0 /v/a/b /v/a; touch /v/f").exit_code == 0
            assert control.delete("/volumes/managed").status_code == 409
        assert control.get("/volumes/managed").json() == item
        assert {one["name"] for one in control.get("/volumes").json()} == {*listed, "managed"}
        assert control.delete("/volumes/managed").status_code == 204
        gone = [control.delete("/volumes/managed"), control.get("/volumes/managed"), control.get("/volumes/%2e%2e")]
        assert [answer.status_code for answer in gone] == [404, 404, 404]
        assert {one["name"] for one in control.get("/volumes").json()} == listed
        assert not [path for path in (service.state / "volumes").iterdir() if "managed" in path.name]
        bodies: list[object] = [{}, {"name": None}, {"name": "../x"}, {"name": ".x"}, {"name": ["a"]}, []]
        assert {control.post("/volumes", json=body).status_code for body in bodies} == {400}


def test_without_a_mount_there_is_no_volume(service: LocalServer) -> None:
    with service.sandbox() as box:
        assert box.record["volumeMounts"] == []
        assert box.sh("ls -d /cache /mnt/data").exit_code != 0


def test_a_resumed_sandbox_has_its_volumes(service: LocalServer) -> None:
    with service.sandbox(volumeMounts=[{"name": "kept", "path": "/kept"}]) as box:
        box.sh("echo volume > /kept/f; echo workspace > f")
        assert box.control.post(f"/sandboxes/{box.sandbox_id}/pause").status_code == 204
        record = box.control.post(f"/sandboxes/{box.sandbox_id}/connect", json={"timeout": 0}).json()
        headers = {"X-Access-Token": record["envdAccessToken"]}
        ran = box.http.post("/run", json={"cmd": "cat", "args": ["/kept/f", "f"]}, headers=headers).json()
        assert ran["stdout"] == "volume\nworkspace\n"


def test_nothing_in_a_volume_has_rights_or_leads_out_of_it(service: LocalServer) -> None:
    """No setuid, no devices; a planted link at its place in the next sandbox is a link of that sandbox's own root."""
    with service.sandbox(volumeMounts=[{"name": "hostile", "path": "/v"}]) as box:
        flags = box.sh("grep ' /v ' /proc/self/mountinfo").stdout
        assert "nosuid" in flags
        assert "nodev" in flags
        assert box.sh("rmdir /v; mv /v /w; ln -s /etc /v/link").exit_code == 0
        assert box.sh("ls -d /w").exit_code != 0
        owner = (service.state / "volumes" / "hostile").stat()
        assert owner.st_mode & 0o777 == 0o700
        assert (owner.st_uid == 0) is False or os.getuid() != 0
    assert (service.state / "volumes").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *((name, "/data") for name in ("", ".", "..", "a/b", ".hidden", "a b", "x" * 64, "é", "a\n")),
        *(("v", path) for path in ("", "/", "data", "/data/", "/a/../b", "/a//b", "/./a", "/a b", "/a\n", "/é")),
        *(("v", f"/{'x' * 255}"), ("v", "/opt/cache"), ("v", "/opt"), ("v", "/usr"), ("v", "/bin/x"), ("v", "/tmp/x")),
        *(("v", path) for path in ("/root", "/root/workspace", "/root/workspace/cache", "/proc/x", "/dev/shm", "/etc")),
        *(("v", path) for path in ("/var/tmp/x", "/run/x", "/sys")),
    ],
)
def test_a_name_or_a_place_that_is_not_safe_is_refused(name: str, path: str) -> None:
    with pytest.raises(WireError):
        volumes.check([VolumeMount(name=name, path=path)], LAYOUT)


@pytest.mark.parametrize(
    "pairs",
    [
        [("a", "/data"), ("b", "/data/b")],
        [("a", "/data/a/b"), ("b", "/data")],
        [("a", "/data"), ("b", "/data")],
        [("a", "/data"), ("a", "/other")],
        [(f"v{index}", f"/v{index}") for index in range(17)],
    ],
)
def test_volumes_in_one_another_or_too_many_are_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(WireError):
        volumes.check([VolumeMount(name=name, path=path) for name, path in pairs], LAYOUT)


def test_places_of_their_own_are_accepted() -> None:
    pairs = [("a", "/data/a"), ("b", "/data/b"), ("c.d_e-f", "/home/user/x"), ("x" * 63, "/database")]
    volumes.check([VolumeMount(name=name, path=path) for name, path in pairs], LAYOUT)


def test_the_service_answers_400_with_the_reason(service: LocalServer) -> None:
    with service.client() as control:
        for mounts, word in [
            ([{"name": "v", "path": "/root/workspace/v"}], "every sandbox has"),
            ([{"name": "v"}], "name and a path"),
            ([{"name": "v", "path": 5}], "name and a path"),
            ({"name": "v", "path": "/v"}, "list"),
            (["v"], "list"),
        ]:
            answer = control.post("/sandboxes", json={"volumeMounts": mounts})
            assert answer.status_code == 400
            assert word in answer.json()["message"]
    assert not Path(service.state, "volumes", "v").exists()
