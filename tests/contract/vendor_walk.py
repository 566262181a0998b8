"""The vendor's SDK through all that it documents; tests/contract/test_vendor_walk.py runs it in a process of its own.

Prints one JSON object of what it saw. Not a test module: it needs the vendor's settings in its environment.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from typing import Any

from sandbox import Sandbox
from sandbox.cmd.models import CmdRequestOptions, DownloadRequest, FilesContentRequest, ProxyRequest

seen: dict[str, Any] = {}


def shell(sandbox: Any, line: str, cmd: str = "sh", **options: Any) -> Any:
    return sandbox.commands.run(cmd, args=["-c", line], **options)


def lifecycle() -> Any:
    sandbox = Sandbox.create(
        "code-interpreter", timeout=120, waitReady=True, metadata={"app": "walk"}, envs={"GIVEN": "at-create"}
    )
    info = sandbox.get_info()
    seen["info"] = [info["state"], info["metadata"], sandbox.is_running()]
    before = sandbox.raw["endAt"]
    sandbox.set_timeout(3600)
    seen["extended"] = sandbox.reload().raw["endAt"] > before
    sandbox.refresh({"duration": 600})
    sandbox.refresh()
    seen["listed"] = [
        [
            item["sandboxID"] == sandbox.sandbox_id
            for item in Sandbox.list(metadata={"app": "walk"}, state=["running"]).next_items()
        ],
        [item["sandboxID"] for item in Sandbox.list(metadata={"app": "none"}).next_items()],
    ]
    shell(sandbox, "echo kept > /root/workspace/kept.txt")
    seen["paused"] = [sandbox.pause(), sandbox.get_info()["state"], sandbox.pause()]
    again = Sandbox.connect(sandbox.sandbox_id, timeout=600)
    seen["resumed"] = [again.get_info()["state"], again.files.read("/root/workspace/kept.txt")]
    return again


def files(sandbox: Any) -> None:
    written = sandbox.files.write(
        [{"path": "/root/workspace/d/a.txt", "data": "one"}, {"path": "/root/workspace/d/b.bin", "data": b"\0\xff"}]
    )
    seen["batch"] = [entry["path"] for entry in written]
    seen["bytes"] = list(sandbox.files.read("/root/workspace/d/b.bin", format="bytes"))
    seen["renamed"] = sandbox.files.rename("/root/workspace/d/a.txt", "/root/workspace/d/c.txt")["path"]
    seen["names"] = sorted(entry["name"] for entry in sandbox.files.list("/root/workspace/d"))
    info = sandbox.files.get_info("/root/workspace/d/c.txt")
    seen["stat"] = [info["type"], info["size"]]
    sandbox.files.remove("/root/workspace/d/c.txt")
    seen["removed"] = sandbox.files.exists("/root/workspace/d/c.txt")
    seen["made"] = [sandbox.files.make_dir("/root/workspace/m"), sandbox.files.make_dir("/root/workspace/m")]
    runtime = sandbox._runtime()
    sandbox.files.write("/root/workspace/r.txt", "hello world")
    with runtime.download(DownloadRequest(path="/root/workspace/r.txt"), CmdRequestOptions(range="bytes=0-4")) as part:
        seen["range"] = [part.status, part.read().decode()]
    seen["content"] = runtime.files_content(FilesContentRequest(path="/root/workspace/r.txt", max_tokens=32))["content"]
    expires = int(time.time()) + 60
    with urllib.request.urlopen(
        sandbox.download_url("/root/workspace/r.txt", use_signature_expiration=expires)
    ) as page:
        seen["downloaded"] = page.read().decode()
    upload = urllib.request.Request(
        sandbox.upload_url("/root/workspace/up.txt", use_signature_expiration=expires),
        data=b"signed",
        headers={"Content-Type": "application/octet-stream"},
        method="POST",
    )
    urllib.request.urlopen(upload).close()
    seen["uploaded"] = sandbox.files.read("/root/workspace/up.txt")


def watch(sandbox: Any) -> None:
    changed = threading.Event()
    events: list[Any] = []

    def on_event(event: Any) -> None:
        events.append(event)
        if event.get("name") == "watched.txt":
            changed.set()

    handle = sandbox.files.watch_dir("/root/workspace", on_event)
    deadline = time.monotonic() + 10
    while not changed.wait(0.2) and time.monotonic() < deadline:
        sandbox.files.write("/root/workspace/watched.txt", "x")  # again: the watch may start after the first
    handle.stop()
    seen["watched"] = changed.is_set()


def commands(sandbox: Any) -> None:
    seen["ran"] = shell(sandbox, "echo out; echo err >&2; exit 3")
    seen["given"] = shell(sandbox, 'echo "$GIVEN $EXTRA"', envs={"EXTRA": "now"}, cwd="/tmp")["stdout"]
    seen["stdin"] = sandbox.commands.run("cat", stdin="typed")["stdout"]
    seen["users"] = [shell(sandbox, 'echo "it\'s" $(id -u)', user=user)["stdout"] for user in ("user", "root")]
    live: list[str] = []
    seen["callback"] = [shell(sandbox, "echo live; echo more", on_stdout=live.append)["exit_code"], "".join(live)]
    handle = sandbox.commands.run("sleep", args=["1000"], background=True)
    seen["listed processes"] = handle.pid in [process["pid"] for process in sandbox.commands.list()]
    other = sandbox.commands.connect(handle.pid)
    seen["connected"] = other.pid == handle.pid
    seen["killed"] = [sandbox.commands.kill(handle.pid), handle.wait()["exit_code"] != 0, handle.kill()]
    reader = sandbox.commands.run("sh", args=["-c", 'read line; echo "got $line"'], background=True)
    reader.send_stdin("a line\n")
    seen["answered"] = reader.wait()["stdout"]


def pty(sandbox: Any) -> None:
    terminal = sandbox.pty.create("sh", size={"cols": 100, "rows": 30})
    sandbox.pty.resize(terminal.pid, {"cols": 120, "rows": 40})
    terminal.send_stdin("stty size; tty; exit\n")
    seen["pty"] = terminal.wait()["pty"]


def git(sandbox: Any) -> None:
    make = (
        "git init -q -b main repo && cd repo && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first"
    )
    shell(sandbox, make, cwd="/root/workspace")
    seen["cloned"] = sandbox.git.clone("/root/workspace/repo", "/root/workspace/clone")["exit_code"]
    seen["status"] = sandbox.git.status("/root/workspace/clone")["stdout"]


def code(sandbox: Any) -> None:
    sandbox.run_code("x = 20\nprint('printed')")
    seen["code"] = sandbox.run_code("x + 1").text
    context = sandbox.create_code_context(cwd="/tmp")
    sandbox.run_code("y = 1", context=context)
    seen["contexts"] = [
        sandbox.run_code("y", context=context).text,
        sandbox.run_code("'x' in globals()", context=context).text,
        len(sandbox.list_code_contexts()),
    ]
    sandbox.restart_code_context(context)
    seen["restarted"] = sandbox.run_code("y", context=context).error.name
    sandbox.remove_code_context(context)
    seen["bash"] = sandbox.run_code("echo from bash", language="bash").text
    seen["error"] = sandbox.run_code("1/0").error.name


def preview(sandbox: Any) -> None:
    shell(sandbox, "python3 -m http.server 8123 --directory /root/workspace >/dev/null 2>&1 &")
    shell(sandbox, "until (: </dev/tcp/127.0.0.1/8123) 2>/dev/null; do sleep 0.05; done", cmd="bash")
    with urllib.request.urlopen(sandbox.get_host(8123) + "kept.txt") as page:
        seen["host"] = page.read().decode()
    with sandbox.proxy(ProxyRequest(port=8123, path="/kept.txt")) as page:
        seen["proxied"] = [page.status, page.read().decode()]


def observe(sandbox: Any) -> None:
    seen["metrics"] = sorted(set(sandbox.get_metrics()) & {"cpu_count", "mem_total", "mem_used", "disk_total"})
    logs = sandbox.logs({"limit": 100})["logs"]
    seen["logs"] = bool(logs) and {"timestamp", "level", "message"} <= set(logs[0])


def main() -> None:
    sandbox = lifecycle()
    try:
        for part in (files, watch, commands, pty, git, code, preview, observe):
            part(sandbox)
            print(f"{part.__name__} done", file=sys.stderr)
    finally:
        seen["deleted"] = [sandbox.kill(), sandbox.kill()]
        print(json.dumps(seen))


if __name__ == "__main__":
    main()
