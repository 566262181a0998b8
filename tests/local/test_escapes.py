"""The threats of docs/local-sandbox.md, tried from inside with every launcher that this machine has.

Each attempt would succeed on the host, or has a control here. What the weaker level landlock does not protect is in
`OPEN_AT_LANDLOCK`, and is asserted to be so. Not here: bombs (test_bombs.py), a hostile agent (test_channel.py), the
death of any part (test_death.py), the egress rules.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from sandbox_tools.local import bwrap
from sandbox_tools.local.isolation import LauncherKind
from sandbox_tools.local.launcher import Launcher, spare_uid
from sandbox_tools.local.layout import host_layout
from tests.local.service import HOST_SECRET, ROOT, Box, LocalServer, running_service, wait_for
from tests.local.users import ORDINARY_UID, as_ordinary_user, passable_directory, processes_of, readable_python

CALLS = {
    "x86_64": {
        "unshare": (272, 0x1000_0000),
        "setns": (308, 0, 0),
        "mount": (165, 0, 0, 0, 0, 0),
        "umount2": (166, 0, 0),
        "pivot_root": (155, 0, 0),
        "chroot": (161, 0),
        "keyctl": (250, 0, -3, 0),
        "add_key": (248, 0, 0, 0, 0, 0),
        "io_uring_setup": (425, 1, 0),
        "ptrace": (101, 0, 0, 0, 0),
        "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
        "bpf": (321, 0, 0, 0),
        "userfaultfd": (323, 0),
        "fsopen": (430, 0, 0),
        "open_tree": (428, 0, 0, 0),
        "pidfd_getfd": (438, 0, 0, 0),
        "clone(CLONE_NEWUSER)": (56, 0x1000_0000 | 17, 0, 0, 0, 0),
        "clone(CLONE_NEWNET)": (56, 0x4000_0000 | 17, 0, 0, 0, 0),
        "reboot": (169, 0, 0, 0, 0),
        "sethostname": (170, 0, 0),
    }
}


OPEN_AT_LANDLOCK = {
    "the command lines of all processes",
    "the names of network interfaces and the connections of this machine",
    "what the kernel tells everybody in `/proc`",
    "whether a file exists, and its size",
}
"""In the words of docs/local-sandbox.md."""


def is_open(kind: LauncherKind, what: str) -> bool:
    """Whether a sandbox can see this of its host."""
    assert what in OPEN_AT_LANDLOCK
    return kind == "landlock"


def test_the_documentation_names_what_is_open_at_the_weaker_level() -> None:
    text = (ROOT / "docs/local-sandbox.md").read_text()
    assert [what for what in OPEN_AT_LANDLOCK if what not in text] == []


@pytest.fixture(scope="module", params=["native", "bwrap", "landlock", "landlock of an ordinary user"])
def case(request: pytest.FixtureRequest) -> str:
    """A launcher, and for the last who runs it: then the sandbox has that user's id."""
    name: str = request.param
    if name == "landlock" and os.getuid() != 0:
        pytest.skip("only root can give a sandbox a user id of its own")
    return name


@pytest.fixture(scope="module")
def shares_user(case: str) -> bool:
    return case == "landlock of an ordinary user"


@pytest.fixture(scope="module")
def kind(case: str) -> LauncherKind:
    """Each launcher. bwrap is optional, but continuous integration must have it."""
    launcher: LauncherKind = "landlock" if case.startswith("landlock") else "bwrap" if case == "bwrap" else "native"
    if launcher == "bwrap" and not Path(bwrap.PROGRAM).exists():
        assert "CI" not in os.environ, f"{bwrap.PROGRAM} must be there"
        pytest.skip(f"{bwrap.PROGRAM} is not installed")
    return launcher


@pytest.fixture(scope="module")
def directory(kind: LauncherKind, shares_user: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for state; without namespaces every user must be able to pass through."""
    if kind == "landlock":
        with passable_directory() as path:
            if shares_user and os.getuid() == 0:
                os.chown(path, ORDINARY_UID, -1)
            yield path
    else:
        yield tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def python(kind: LauncherKind) -> str:
    """The Python of the service; without namespaces every user must be able to read it."""
    return readable_python() if kind == "landlock" else sys.executable


@pytest.fixture(scope="module")
def local_server(kind: LauncherKind, shares_user: bool, directory: Path, python: str) -> Iterator[LocalServer]:
    """A service with one launcher; takes the place of the one that other tests share."""
    prefix = as_ordinary_user() if shares_user else ()
    with running_service(directory / "shared", prefix=prefix, python=python, env={"LAUNCHERS": kind}) as service:
        yield service


@pytest.fixture(scope="module")
def box(local_server: LocalServer) -> Iterator[Box]:
    """One sandbox for all attempts: what one leaves behind is there for the next."""
    with local_server.sandbox() as sandbox:
        yield sandbox


def test_the_record_names_the_launcher(box: Box, kind: LauncherKind) -> None:
    level = "landlock" if kind == "landlock" else "namespaces"
    assert (box.record["isolation"]["level"], box.record["isolation"]["launcher"]) == (level, kind)


def test_a_file_of_the_host_is_not_there(box: Box, kind: LauncherKind, directory: Path) -> None:
    secret = directory / "secret"
    secret.write_text("canary")
    secret.chmod(0o666)
    for path in (str(secret), "/etc/shadow"):
        assert box.run("cat", path).exit_code == 1
        assert box.http.get("/file", params={"path": path}).status_code in (403, 404)
    seen = box.run("stat", "-c", "%s", str(secret)).stdout
    box.http.post("/file", params={"path": str(secret)}, content=b"overwritten")
    assert seen == ("6\n" if is_open(kind, "whether a file exists, and its size") else "")
    assert secret.read_text() == "canary"


def test_a_symlink_leads_to_nothing_of_the_host(box: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    box.sh(f"ln -s {secret} link; ln -s {tmp_path} dir; ln -s /proc/1/root root")
    for path in ("link", "dir/secret", f"root{secret}"):
        assert box.http.get("/file", params={"path": path}).status_code in (403, 404)
    box.http.post("/file", params={"path": "link"}, content=b"overwritten")
    assert secret.read_text() == "canary"


def test_a_symlink_that_flips_leads_nowhere(box: Box, tmp_path: Path) -> None:
    """The race that a server loses when it resolves paths of a sandbox by itself."""
    (tmp_path / "f").write_text("canary")
    box.sh(f"mkdir inside; echo inside > inside/f; ln -s {tmp_path} outside")
    flip = """
import ctypes
libc = ctypes.CDLL(None)
while True:
    libc.renameat2(-100, b"inside", -100, b"outside", 2)
"""
    with box.start("python3", "-c", flip):
        answers = [box.http.get("/file", params={"path": "inside/f"}) for _ in range(80)]
        while not {403, 404} & {answer.status_code for answer in answers}:  # until it has flipped
            assert len(answers) < 2000
            answers.append(box.http.get("/file", params={"path": "inside/f"}))
    assert {answer.content for answer in answers if answer.status_code == 200} == {b"inside\n"}


def test_the_root_directory_holds_only_the_allowed_trees(box: Box) -> None:
    assert set(box.sh("ls -A /").stdout.split()) <= {
        *("bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin", "tmp", "usr", "var"),
        *(Path(path).parts[1] for path in (sys.base_prefix, sys.prefix)),
    }


def test_the_environment_of_the_host_is_not_there(box: Box) -> None:
    assert HOST_SECRET not in box.run("env").stdout
    assert "HOST_SECRET" not in box.sh("cat /proc/*/environ").stdout


@pytest.mark.parametrize("path", ["environ", "mem", "maps", "fd", "root", "cwd"])
def test_pid_1_is_closed_to_the_programs_in_the_sandbox(box: Box, path: str) -> None:
    program = f"import os; p = '/proc/1/{path}'; print(os.listdir(p) if os.path.isdir(p) else open(p).read(1))"
    ran = box.python(program)
    assert ran.exit_code == 1
    assert "PermissionError" in ran.stderr


@pytest.mark.parametrize("signal", ["KILL", "STOP", "INT", "TERM", "HUP", "SEGV"])
def test_pid_1_cannot_be_signalled_from_inside(box: Box, signal: str) -> None:
    box.sh(f"kill -{signal} 1")
    assert box.sh("echo alive").stdout == "alive\n"


def test_a_tcp_port_of_the_host_is_not_reachable(box: Box) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        addresses = {"127.0.0.1", "10.0.2.2", *(info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None))}
        program = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
        for address in addresses:
            ran = box.python(program, str(address), str(port))
            assert ran.exit_code == 1, f"{address} was reached"
        socket.create_connection(("127.0.0.1", port), 2).close()  # the control


def test_an_abstract_socket_of_the_host_is_not_reachable(box: Box, kind: LauncherKind) -> None:
    name = f"\0test-{secrets.token_hex(8)}"
    program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(chr(0) + sys.argv[1])"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        ran = box.python(program, name[1:])
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(name)
    assert ("PermissionError" if kind == "landlock" else "ConnectionRefusedError") in ran.stderr


def test_only_local_and_internet_sockets_can_be_made(box: Box, kind: LauncherKind) -> None:
    """AF_VSOCK, AF_PACKET, AF_ALG and the rest; of netlink only the routing protocol."""
    program = """
import socket
opened = set()
for family in range(46):
    for kind in (1, 2, 3, 5):
        for protocol in (0, 1, 16):
            try:
                socket.socket(family, kind, protocol).close()
            except OSError:
                continue
            opened.add((family, protocol if family == 16 else 0))
print(sorted(opened))
"""
    assert box.python(program).stdout == ("[]\n" if kind == "landlock" else "[(1, 0), (2, 0), (10, 0), (16, 0)]\n")


@pytest.mark.skipif(platform.machine() not in CALLS, reason="the call numbers here are those of x86_64")
def test_dangerous_system_calls_are_refused(box: Box) -> None:
    program = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
for name, call in json.loads(sys.argv[1]).items():
    result = libc.syscall(*(ctypes.c_long(argument) for argument in call))
    print(name, result, ctypes.get_errno())
"""
    answers = box.python(program, json.dumps(CALLS["x86_64"])).stdout.splitlines()
    assert answers == [f"{name} -1 1" for name in CALLS["x86_64"]]  # EPERM


def test_clone3_is_said_not_to_exist(box: Box) -> None:
    program = "import ctypes; l = ctypes.CDLL(None, use_errno=True); print(l.syscall(435, 0, 0), ctypes.get_errno())"
    assert box.python(program).stdout == "-1 38\n"


def test_the_keys_of_the_host_user_are_not_readable(box: Box) -> None:
    ctypes.CDLL(None).syscall(248, b"user", b"sandbox-tools-test", b"canary", 6, -3)
    assert "sandbox-tools-test" in Path("/proc/keys").read_text()  # the control
    assert "sandbox-tools-test" not in box.run("cat", "/proc/keys").stdout


@pytest.mark.parametrize("request_number", ["0x5412", "0x541C", "0x100005412"])
def test_nothing_can_be_typed_into_a_terminal(box: Box, shares_user: bool, request_number: str) -> None:
    """TIOCSTI and TIOCLINUX, also with high bits set that the kernel ignores."""
    program = f"""
import ctypes, os, pty
parent, child = pty.openpty()
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ioctl(child, ctypes.c_ulong({request_number}), b"x"), ctypes.get_errno())
"""
    ran = box.python(program)
    assert ran.stdout == "-1 1\n" or (shares_user and "out of pty devices" in ran.stderr)


@pytest.mark.parametrize(
    "path", ["/", "/usr", "/usr/bin", "/etc", "/dev", "/proc/sys/kernel", "/proc", sys.base_prefix]
)
def test_the_system_cannot_be_written(box: Box, path: str) -> None:
    assert box.run("touch", f"{path}/x").exit_code == 1
    assert box.http.post("/file", params={"path": f"{path}/x"}, content=b"x").status_code in (400, 403, 404)


def test_a_program_gets_no_descriptor_but_the_three(box: Box) -> None:
    with box.start("ls", "/proc/self/fd") as stream:
        assert stream.event()["data"]["stdout"] == "MAoxCjIKMwo="  # 0, 1, 2, and 3 that ls opened
    assert box.sh("ls /proc/self/fd").stdout == "0\n1\n2\n3\n"


def test_a_setuid_bit_has_no_effect(box: Box, kind: LauncherKind) -> None:
    box.sh("cp /bin/id . && chmod u+s,g+s id")
    assert box.sh("./id -u; ./id -g").stdout == box.sh("id -u; id -g").stdout
    if kind != "landlock":  # there, no_new_privs alone
        assert "nosuid" in box.sh("grep ' /root/workspace ' /proc/mounts").stdout


def test_a_program_has_no_capability_and_can_get_none(box: Box, shares_user: bool) -> None:
    status = box.run("cat", "/proc/self/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    sets = ("Inh", "Prm", "Eff", "Amb") if shares_user else ("Inh", "Prm", "Eff", "Bnd", "Amb")  # NoNewPrivs closes it
    assert {fields[f"Cap{kind}"] for kind in sets} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"], fields["Groups"].strip()) == ("1", "2", "")


def test_the_sandbox_is_not_the_root_user_of_the_host(box: Box, kind: LauncherKind) -> None:
    status = Path(f"/proc/{agent_pid(box, kind)}/status").read_text()
    uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
    assert "0" not in uids


def test_a_sandbox_does_not_reach_another(local_server: LocalServer, box: Box, kind: LauncherKind) -> None:
    reach = reach_without_namespaces if kind == "landlock" else reach_with_namespaces
    with local_server.sandbox() as other:
        reach(box, other)
        foreign = {"X-Access-Token": other.record["envdAccessToken"]}
        assert box.http.post("/run", json={"cmd": "true"}, headers=foreign).status_code == 401


def reach_without_namespaces(box: Box, other: Box) -> None:
    """Its files by their real names, its processes."""
    box.sh("chmod 777 . && echo secret > mine && chmod 666 mine")
    path = box.sh("echo $HOME/mine").stdout.strip()
    sleeper = "sleep 4321 & echo $!; wait"
    with box.start("sh", "-c", sleeper) as stream:
        pid = base64.b64decode(stream.event()["data"]["stdout"]).decode().strip()
        assert box.sh(f"kill -0 {pid}").exit_code == 0  # the control
        for attempt in (f"cat {path}", f"echo x > {path}", f"kill -0 {pid}", f"cat /proc/{pid}/environ"):
            ran = other.sh(attempt)
            assert (ran.exit_code != 0, ran.stdout) == (True, ""), attempt


def reach_with_namespaces(box: Box, other: Box) -> None:
    """Its port, its files, its processes, its shared memory."""
    box.sh("echo secret > mine; echo secret > /tmp/mine; echo secret > /dev/shm/mine")
    box.sh("python3 -m http.server 8765 >/dev/null 2>&1 &")
    box.run("bash", "-c", "until (: </dev/tcp/127.0.0.1/8765) 2>/dev/null; do :; done", timeoutMs=10_000)
    assert other.sh("cat mine /tmp/mine /dev/shm/mine").stdout == ""
    assert "http.server" not in other.run("ps", "aux").stdout
    assert other.run("bash", "-c", ": </dev/tcp/127.0.0.1/8765").exit_code == 1
    assert other.http.get("/proxy/8765/").status_code == 502
    assert box.http.get("/proxy/8765/").status_code == 200


def test_the_network_is_only_the_loopback_interface(box: Box, kind: LauncherKind) -> None:
    names = [line.split(":")[0].strip() for line in box.run("cat", "/proc/net/dev").stdout.splitlines()[2:]]
    opened = is_open(kind, "the names of network interfaces and the connections of this machine")
    assert (names == ["lo"]) is not opened
    assert box.python("import socket; socket.getaddrinfo('example.com', 80)").exit_code == 1
    local = box.python("import socket; print(socket.getaddrinfo('localhost', 80)[0][4][0])").stdout
    assert local == ("" if kind == "landlock" else "127.0.0.1\n")


def test_no_file_of_the_host_is_found_anywhere(box: Box, tmp_path: Path) -> None:
    name = f"canary-{secrets.token_hex(8)}"
    for directory in (tmp_path, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path.home()):
        (directory / name).write_text("canary")
    try:
        assert box.sh(f"find / -path /usr -prune -o -name {name} -print 2>/dev/null").stdout == ""
        (control,) = box.sh(f"touch {name}; find / $HOME -path /usr -prune -o -name {name} -print -quit").stdout.split()
        assert control == box.sh(f"echo $HOME/{name}").stdout.strip()
    finally:
        for directory in (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path.home()):
            (directory / name).unlink()


def test_a_socket_file_of_the_host_is_not_reachable(box: Box, kind: LauncherKind, directory: Path) -> None:
    path = directory / "socket"
    error = "PermissionError" if kind == "landlock" else "FileNotFoundError"
    program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen()
        assert error in box.python(program, str(path)).stderr
        box.sh(f"ln -s {path} socket")
        assert error in box.python(program, "socket").stderr
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(path))


def test_a_preview_leads_to_the_ports_of_its_own_sandbox_only(box: Box, kind: LauncherKind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answer = box.http.get(f"/proxy/{port}/")
        assert answer.status_code == 502
        assert ("level namespaces" if kind == "landlock" else "not listening") in answer.text
    for path in ("0", "65536", "-1", "+80", "80@127.0.0.1", "%2e%2e", "127.0.0.1:80"):
        assert box.http.get(f"/proxy/{path}/").status_code in (400, 404), path


def test_devices_and_links_across_mounts_cannot_be_made(box: Box) -> None:
    assert box.sh("mknod disk b 8 0").exit_code == 1
    assert box.sh("ln /usr/bin/id id").exit_code == 1
    assert box.sh("mknod pipe p && ls pipe").stdout == "pipe\n"  # the control


def test_the_kernel_tells_and_takes_nothing_through_proc(box: Box, kind: LauncherKind) -> None:
    told = [
        name
        for name in ("keys", "key-users", "kallsyms", "cmdline", "timer_list", "interrupts")
        if box.run("cat", f"/proc/{name}").stdout != ""
    ]
    assert bool(told) is is_open(kind, "what the kernel tells everybody in `/proc`"), told
    assert "canary" not in box.run("cat", "/proc/keys").stdout
    for name in ("sys/kernel/pid_max", "sys/kernel/shmall", "sys/user/max_user_namespaces", "sysrq-trigger"):
        assert box.sh(f"echo 1 > /proc/{name}").exit_code != 0, name
    assert "kcore" not in box.sh("head -c 1 /proc/kcore && echo kcore").stdout


def test_the_processes_of_the_host_are_not_visible(local_server: LocalServer, kind: LauncherKind) -> None:
    with local_server.sandbox() as box:
        seen = len(box.run("ps", "-eo", "pid=").stdout.split())
        assert (seen == 2) is not is_open(kind, "the command lines of all processes")  # the agent and ps
        assert box.sh(f"kill -0 {os.getpid()}").exit_code == 1


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
def test_a_setuid_file_is_out_of_reach_of_other_users_of_the_host(
    box: Box, shares_user: bool, local_server: LocalServer
) -> None:
    """A sandbox can make a file that would run as its own user, or in a workspace of ours as us."""
    box.sh("cp /bin/id . && chmod 6777 id")
    if shares_user:
        box.python("import os; os.umask(0); os.unlink('id'); os.close(os.open('id', os.O_CREAT | os.O_WRONLY, 0o6777))")
    (file,) = local_server.state.glob(f"**/{box.sandbox_id}/workspace/id")
    assert file.stat().st_mode & 0o6000 == 0o6000
    other = ["setpriv", "--reuid", "23456", "--regid", "23456", "--clear-groups", "sh", "-c", f"exec {file}"]
    assert subprocess.run(other, capture_output=True, check=False).returncode == 126


def test_a_file_name_cannot_write_a_header(box: Box) -> None:
    name = "a\r\nSet-Cookie: planted=1\r\n\r\n<script>"
    box.python("import sys; open(sys.argv[1], 'w').write('x')", name)
    answer = box.http.get("/file", params={"path": name})
    assert (answer.status_code, answer.text) == (200, "x")
    assert "set-cookie" not in answer.headers
    listing = box.http.post("/filesystem.Filesystem/ListDir", json={"path": "."})
    assert name in [entry["name"] for entry in listing.json()["entries"]]


def test_killing_the_service_leaves_no_process(
    kind: LauncherKind, shares_user: bool, directory: Path, python: str
) -> None:
    if shares_user:
        pytest.skip("in test_shared_user.py, beside a process of the same user that stays")
    state = directory / "killed"
    daemon = "setsid sh -c 'trap \"\" TERM HUP INT; sleep 1000' >/dev/null 2>&1 & sleep 1000"
    with running_service(state, python=python, env={"LAUNCHERS": kind}) as service, service.sandbox() as box:
        uid = box.sh("id -u").stdout.strip()

        def processes() -> list[int]:
            return processes_of(uid) if kind == "landlock" else processes_below(state)

        with box.start("sh", "-c", daemon):
            wait_for(lambda: len(processes()) >= 4, what="the daemon")
            os.kill(service.pid, signal.SIGKILL)
            wait_for(lambda: not processes(), what="the end of every process", within_s=1)


def processes_below(directory: Path) -> list[int]:
    """Return the processes that see a directory of the host in their mounts."""
    found = []
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError):
            if f"{directory}/" in mounts.read_text():
                found.append(int(mounts.parent.name))
    return found


def agent_pid(box: Box, kind: LauncherKind) -> int:
    """Return the host's process id of the agent."""
    return min(processes_of(box.sh("id -u").stdout.strip())) if kind == "landlock" else box.agent_pid()


async def test_a_planted_symlink_redirects_no_mount(
    kind: LauncherKind, directory: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2026-87766: names that a launcher uses on the way to a mount point, in a workspace that is used again."""
    if kind == "landlock":
        monkeypatch.setattr("sandbox_tools.local.launcher._interpreter", lambda: python)
        for name in ("base_prefix", "base_exec_prefix"):
            monkeypatch.setattr(sys, name, "/usr")
    uid = spare_uid()
    host = directory / "host"
    workspace = directory / "workspace"
    for directory in (host, workspace):
        directory.mkdir()
        directory.chmod(0o777)
    names = [
        "proc",
        "dev",
        "etc",
        "tmp",
        "usr",
        "run",
        "root",
        "workspace",
        "newroot",
        "oldroot",
        ".host",
        ".local",
        ".tmp",
    ]
    for index, name in enumerate(names):
        target = host if index % 2 else Path(f"/oldroot{host}")
        (workspace / name).symlink_to(target)
    if uid is not None:
        os.chown(workspace, uid, uid)
    launcher = Launcher(host_layout(), kinds=[kind])
    try:
        launched = await launcher.launch(workspace, uid)
        await anyio.wait_readable(launched.control)  # the agent is ready: everything is mounted
        pid = int(Path(f"/proc/self/fdinfo/{launched.pidfd}").read_text().split("Pid:")[1].split()[0])
        points = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
        launched.kill()
        await launched.wait_until_gone()
        launched.close()
        launched.control.close()
    finally:
        launcher.close()
    assert kind == "landlock" or points[-1] == "/root/workspace"  # the last mount: nothing can be mounted through it
    assert not [point for point in points if point.startswith("/root/workspace/")]
    assert list(host.iterdir()) == []
    assert {path.name for path in workspace.iterdir()} == set(names)
