"""The choke point, with a scripted sandbox: what a model reads for good and bad calls."""

from __future__ import annotations

import secrets
from typing import Any

import anyio
import pytest

from sandbox_tools.errors import (
    ConfigurationError,
    SandboxProtocolError,
    SandboxResponseError,
    SandboxTimeoutError,
    SandboxUnreachableError,
    ToolError,
)
from sandbox_tools.redaction import Redactor, Registry
from sandbox_tools.runtime import CodeError, CodeResult, ExecResult, RichResult
from sandbox_tools.sandboxes import open_source
from sandbox_tools.testing import FakeRuntime, fake_toolset
from sandbox_tools.tools import command as command_tool
from sandbox_tools.tools.kept import MAX_KEPT
from sandbox_tools.toolset import Toolset

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


async def text_of(runtime: FakeRuntime, tool: str, arguments: dict[str, Any], *, is_error: bool = False) -> str:
    result = await fake_toolset(runtime).call(tool, arguments)
    assert result.is_error is is_error, result.text
    return result.text


@pytest.mark.parametrize(
    ("tool", "arguments", "text"),
    [
        (
            "nope",
            {},
            "The tools are: run_code, exec, process, read_file, write_file, edit_file, list_files, get_preview_url.",
        ),
        (
            "exec",
            {},
            "command is required. It takes: command, cwd, timeout_s, background, sandbox_id.",
        ),
        ("exec", {"command": "ls", "cwdd": "/"}, "unknown argument cwdd"),
        ("exec", {"command": "ls", "x y!": "/"}, "Invalid arguments for exec: unknown argument."),
        ("exec", {"command": 5}, "command: input should be a valid string"),
        ("exec", {"command": "ls", "timeout_s": "soon"}, "timeout_s: input should be a valid integer"),
        ("exec", {"command": " \n"}, "command is empty."),
        ("exec", {"command": "a\0b"}, "must not contain a NUL character"),
        ("exec", {"command": "ls", "timeout_s": 0}, "timeout_s must be from 1 to 3600."),
        ("exec", {"command": "ls", "timeout_s": 3601}, "timeout_s must be from 1 to 3600."),
        ("exec", {"command": "ls", "cwd": ""}, None),
        ("process", {"action": "look"}, "action: input should be 'list', 'output', 'wait', 'input' or 'kill'"),
        ("process", {"action": "wait"}, "pid is required for wait. See the processes with action=list."),
        ("process", {"action": "wait", "pid": 7}, "There is no process 7. See the processes with action=list."),
        ("run_code", {"code": ""}, "code is empty."),
        (
            "run_code",
            {"code": "1", "language": "cobol"},
            "language: input should be 'python', 'javascript', 'typescript', 'bash', 'r' or 'java'",
        ),
        (
            "exec",
            {"command": "x" * 131_072},
            "command is too long for one call (131,071 bytes at most). Write it to a file",
        ),
        ("exec", {"command": "echo \ud800"}, "command is not valid Unicode text"),
        ("run_code", {"code": "x" * 131_072, "language": "bash"}, "code is too long for one call (131,071 bytes"),
        (
            "run_code",
            {"code": "x" * 500_001},
            "code is too long for one call (500,000 bytes at most). Write it to a file",
        ),
        ("read_file", {"path": ""}, "path is empty."),
        ("read_file", {"path": "/a\0b"}, "must not contain a NUL character"),
        ("read_file", {"path": "/a", "offset": 0}, "count lines from 1"),
        ("read_file", {"path": "/a", "limit": -1}, "count lines from 1"),
        ("read_file", {"path": "/a", "offset": 2}, "/a has only 1 line. Read it with a smaller offset."),
        ("read_file", {"path": "/missing"}, "/missing does not exist. See what is there with list_files"),
        ("write_file", {"path": "/a", "content": "\ud800"}, "content is not valid Unicode text"),
        ("edit_file", {"path": "/a", "old_text": "", "new_text": "x"}, "old_text is empty."),
        ("edit_file", {"path": "/a", "old_text": "x", "new_text": "x"}, "nothing to change"),
        ("edit_file", {"path": "/a", "old_text": "\ud800", "new_text": "x"}, "old_text is not valid Unicode text"),
        ("edit_file", {"path": "/a", "old_text": "y", "new_text": "\ud800"}, "new_text is not valid Unicode text"),
        ("edit_file", {"path": "/missing", "old_text": "x", "new_text": "y"}, "/missing does not exist."),
        ("list_files", {"depth": 0}, "depth must be from 1 to 10."),
        ("list_files", {"path": ""}, "path is empty."),
        ("get_preview_url", {"port": 0}, "0 is not a port. Give a whole number from 1 to 65535."),
        ("get_preview_url", {"port": 70000}, "70000 is not a port."),
    ],
)
async def test_bad_input_gets_a_text_that_says_what_to_do(
    tool: str, arguments: dict[str, Any], text: str | None
) -> None:
    toolset = fake_toolset(FakeRuntime(files={"/a": b"x"}))
    result = await toolset.call(tool, arguments)
    assert result.is_error is (text is not None)
    assert (text or "") in result.text
    again = await toolset.call("exec", {"command": "true"})
    assert (again.text, again.is_error) == ("exit_code: 0\n(no output)", False)


async def test_a_value_that_a_model_sent_is_not_echoed() -> None:
    result = await fake_toolset().call("exec", {"command": {"value": "echo-me-not"}, "timeout_s": "echo-me-not"})
    assert "echo-me-not" not in result.text


async def test_null_means_default() -> None:
    arguments = {"command": "true", "cwd": None, "timeout_s": None, "background": None, "sandbox_id": None}
    assert await text_of(FakeRuntime(), "exec", arguments) == "exit_code: 0\n(no output)"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ExecResult(exit_code=0), "exit_code: 0\n--- stdout ---\nhi"),
        (ExecResult(exit_code=3), "exit_code: 3\n--- stdout ---\nhi"),
        (ExecResult(exit_code=127), "exit_code: 127 (command not found)\n--- stdout ---\nhi"),
        (ExecResult(exit_code=-1, signal="signal: killed"), "exit_code: -1 (signal: killed)\n--- stdout ---\nhi"),
    ],
)
async def test_how_a_command_ended_is_not_an_error_of_the_tool(result: ExecResult, text: str) -> None:
    assert await text_of(FakeRuntime(stdout=b"hi\n", exec_result=result), "exec", {"command": "x"}) == text


@pytest.mark.parametrize(
    ("outcome", "words"), [("killed", "it was killed"), ("kill_unconfirmed", "could not be confirmed")]
)
async def test_a_timeout_is_told_with_its_outcome_and_the_partial_output(outcome: Any, words: str) -> None:
    ended = ExecResult(exit_code=None, timed_out=True, kill_outcome=outcome)
    text = await text_of(FakeRuntime(stdout=b"part", exec_result=ended), "exec", {"command": "x", "timeout_s": 7})
    assert text.startswith("timed out after 7 s")
    assert words in text
    assert text.endswith("--- stdout ---\npart")


def shown(plain: str, **forms: str) -> CodeResult:
    text = {"text/plain": plain, **{f"text/{form}": content for form, content in forms.items()}}
    return CodeResult(results=(RichResult(text=text),))


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (CodeResult(), "(no output)"),
        (CodeResult(results=(RichResult(text={"text/plain": "42"}),)), "--- result ---\n42"),
        (CodeResult(results=(RichResult(text={"text/plain": "p", "text/markdown": "m"}),)), "--- result ---\nm"),
        (
            CodeResult(
                error=CodeError(name="ZeroDivisionError", message="division by zero", traceback="Traceback...\n")
            ),
            "--- error ---\nTraceback...",
        ),
        (CodeResult(timed_out=True), "timed out after 45 s: the code was interrupted. Variables are kept."),
        (CodeResult(timed_out=True, state_kept=False), "It had to be killed: its variables are lost."),
        (CodeResult(state_lost_before=True), "its variables were lost, files are kept"),
        (CodeResult(timed_out=True, ran=False), "The code did not run: within 45 s its context"),
        (shown("<pkg.Page object at 0x7f00>", html="<b>x</b>"), "--- result ---\n<b>x</b>"),
        (shown("<Page object>", html="<b>x</b>", latex="$x$"), "--- result ---\n$x$"),
        (shown("   a\n0  1", html="<table></table>"), "--- result ---\n   a\n0  1"),
        (shown("<Response [200]>", html="<b>x</b>"), "--- result ---\n<Response [200]>"),
    ],
)
async def test_how_code_ended_is_not_an_error_of_the_tool(result: CodeResult, text: str) -> None:
    assert text in await text_of(FakeRuntime(code_result=result), "run_code", {"code": "x"})


async def test_a_secret_that_the_kernel_halved_is_not_shown() -> None:
    token = secrets.token_urlsafe(64)
    for cut in (4, 8, 15, 40):
        halved = f"{'word ' * 500}{token[:cut]}\n[5 more characters not shown]"
        result = CodeResult(
            results=(RichResult(text={"text/plain": f"{halved}\n[text/html not shown: 9 characters]"}),),
            error=CodeError(name="E", message="", traceback=halved),
        )
        toolset = fake_toolset(FakeRuntime(code_result=result), secrets={"TOKEN": token})
        text = (await toolset.call("run_code", {"code": "x"})).text
        assert token[:cut] not in text
        assert text.count("word ") >= 900
        assert text.count("[5 more characters not shown]") == 2


async def test_figures_are_images_and_images_with_a_secret_are_withheld() -> None:
    token = secrets.token_urlsafe(32)
    results = (
        RichResult(text={"text/plain": "<Figure>"}, images={"image/jpeg": b"the same", "image/png": PNG}),
        RichResult(images={"image/png": PNG + token.encode()}),
    )
    toolset = fake_toolset(FakeRuntime(code_result=CodeResult(results=results)), secrets={"TOKEN": token})
    result = await toolset.call("run_code", {"code": "plot()"})
    assert [image.data for image in result.images] == [PNG]
    assert "(Withheld: 1 of 2 images, for a secret or what cannot be searched.)" in result.text


async def test_one_shot_languages_answer_like_commands_and_a_missing_program_names_what_works() -> None:
    runtime = FakeRuntime(stdout=b"hi", code_result=CodeResult(exit_code=0, state_kept=False))
    assert await text_of(runtime, "run_code", {"code": "x", "language": "bash"}) == "exit_code: 0\n--- stdout ---\nhi"
    runtime = FakeRuntime(code_result=CodeResult(exit_code=127, state_kept=False))
    text = await text_of(runtime, "run_code", {"code": "x", "language": "r"}, is_error=True)
    assert text.startswith("This sandbox cannot run r code: that needs Rscript. Use another language (python, bash")
    assert "python, bash" in text


async def test_files_are_written_and_read() -> None:
    runtime = FakeRuntime()
    assert await text_of(runtime, "write_file", {"path": "/a", "content": "é\n"}) == "Wrote 3 bytes to /a."
    assert await text_of(runtime, "read_file", {"path": "/a"}) == "é\n"


async def test_binary_files_are_explained_and_images_are_shown() -> None:
    runtime = FakeRuntime(files={"/b": b"\x7fELF\0\0", "/i.png": PNG})
    assert "/b is a binary file (6 bytes)" in await text_of(runtime, "read_file", {"path": "/b"}, is_error=True)
    result = await fake_toolset(runtime).call("read_file", {"path": "/i.png"})
    assert (result.text, result.images[0].data) == ("/i.png: image/png, 28 bytes.", PNG)


async def test_a_huge_image_is_refused_with_a_way_out() -> None:
    runtime = FakeRuntime(files={"/i.png": PNG + b"\1" * 5_000_000})
    assert "Make a smaller copy" in await text_of(runtime, "read_file", {"path": "/i.png"}, is_error=True)


async def test_a_huge_file_is_shown_in_part() -> None:
    runtime = FakeRuntime(files={"/log": b"0123456789abcde\n" * 3_000_000})
    result = await fake_toolset(runtime).call("read_file", {"path": "/log"})
    assert len(result.text) <= 20_000
    assert "of a file of 48,000,000 bytes are shown; read on with offset=" in result.text


async def test_a_preview_url_is_a_small_complete_record() -> None:
    runtime = FakeRuntime(ports=frozenset({8000}))
    result = await fake_toolset(runtime).call("get_preview_url", {"port": 8000})
    url = "https://sandbox-router.example/9000-fake/proxy/8000/"
    assert result.structured == {"url": url, "port": 8000, "sandbox_id": "sandbox-fake"}
    assert url in result.text


async def test_a_value_in_a_record_is_redacted_in_the_text_and_in_the_record() -> None:
    runtime = FakeRuntime(ports=frozenset({8000}))
    result = await fake_toolset(runtime, secrets={"ROUTER": "9000-fake/proxy"}).call("get_preview_url", {"port": 8000})
    assert result.structured is not None
    assert result.structured["url"] == "https://sandbox-router.example/[REDACTED:ROUTER]/8000/"
    assert "9000-fake" not in result.text


async def test_a_failure_never_shows_what_only_looks_like_a_token_though_output_may() -> None:
    token = f"npm_{secrets.token_hex(18)}"
    runtime = FakeRuntime(files={"/a": token.encode()})
    tools = Toolset(fake_toolset(runtime)._sandboxes, Redactor(Registry(), unknown_in_output=False))
    assert (await tools.call("read_file", {"path": "/a"})).text == token
    failed = await tools.call("read_file", {"path": f"/{token}"})
    assert failed.text.startswith("/[REDACTED:unknown-token] does not exist")


async def test_a_port_that_does_not_listen_names_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_tools.tools.preview._PAUSES_S", (0.0,))
    text = await text_of(FakeRuntime(ports=frozenset({5000})), "get_preview_url", {"port": 8000}, is_error=True)
    assert "Nothing listens on port 8000 (listening ports: 5000)." in text


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (SandboxUnreachableError("run a process"), "no connection, so nothing was done. Call again"),
        (SandboxTimeoutError("run a process", 5), "no answer within 5 s."),
        (SandboxTimeoutError("write a file", 5, maybe_done=True), "check before you do it again."),
        (SandboxProtocolError("run a process", "it is odd"), "the answer is not valid: it is odd."),
        (
            SandboxResponseError("run a process", kind="rate_limit", status=429, reason="usage_limit"),
            "rate_limit, HTTP 429, usage_limit",
        ),
        (ToolError("Do this instead."), "Do this instead."),
        (ConfigurationError("Set X."), "Set X."),
        (KeyError("hidden detail"), "The tool failed for a reason of its own (KeyError)."),
    ],
)
async def test_any_failure_is_a_text_and_never_an_exception(failure: Exception, text: str) -> None:
    shown = await text_of(FakeRuntime(fails_with=failure), "exec", {"command": "x"}, is_error=True)
    assert text in shown
    assert "hidden detail" not in shown


async def test_an_edit_replaces_one_text_that_is_there_once() -> None:
    runtime = FakeRuntime(files={"/a": b"one\ntwo\naaa\n", "/dos": b"one\r\ntwo\r\n", "/b": b"x\xffy"})

    async def edit(path: str, old: str, new: str, *, is_error: bool = True) -> str:
        return await text_of(runtime, "edit_file", {"path": path, "old_text": old, "new_text": new}, is_error=is_error)

    assert await edit("/a", "two\n", "2\n", is_error=False) == "Edited /a at line 2."
    assert runtime.files["/a"] == b"one\n2\naaa\n"
    assert "is in /a more than once" in await edit("/a", "aa", "b")
    assert "is not in /a" in await edit("/a", "three", "3")
    assert "Its lines end with" in await edit("/dos", "one\ntwo", "3")
    assert await edit("/b", "y", "z", is_error=False) == "Edited /b at line 1."
    assert runtime.files == {"/a": b"one\n2\naaa\n", "/dos": b"one\r\ntwo\r\n", "/b": b"x\xffz"}


@pytest.mark.parametrize("mark", ["[REDACTED:API_KEY]", "[WITHHELD: redaction failed]"])
async def test_a_placeholder_is_never_written_into_a_file(mark: str) -> None:
    content = f"key = {mark}\n"
    runtime = FakeRuntime(files={"/a": b"key = hidden\nport = 1\n"})
    for tool, arguments in {
        "write_file": {"content": content},
        "edit_file": {"old_text": "port = 1", "new_text": content},
    }.items():
        text = await text_of(runtime, tool, {"path": "/a", **arguments}, is_error=True)
        assert f"has {mark} in it. That stands for a text that is hidden from you" in text
    text = await text_of(runtime, "edit_file", {"path": "/a", "old_text": content, "new_text": ""}, is_error=True)
    assert "the file has something else there" in text
    assert runtime.files == {"/a": b"key = hidden\nport = 1\n"}
    await text_of(runtime, "write_file", {"path": "/b", "content": "[REDACTED: no name]"})


@pytest.mark.parametrize("mark", ["[REDACTED:DEPLOY_KEY]", "[REDACTED:unknown-jwt]", "[WITHHELD: redaction failed]"])
async def test_a_placeholder_of_ours_is_never_run_and_one_of_somebody_else_is_a_text(mark: str) -> None:
    tools = fake_toolset(FakeRuntime(), secrets={"DEPLOY_KEY": "kq7-v2mz-h0pd"})
    for name, argument in (("exec", "command"), ("run_code", "code")):
        refused = await tools.call(name, {argument: f"echo {mark}"})
        assert refused.is_error
        assert f"{argument} has {mark} in it, which stands for a text hidden from you. Nothing" in refused.text
        assert not (await tools.call(name, {argument: "echo [REDACTED:EMAIL] [REDACTED]"})).is_error


async def test_a_long_listing_says_what_it_leaves_out() -> None:
    runtime = FakeRuntime(files={f"/d/{number:05}": b"x" for number in range(1_002)})
    result = await fake_toolset(runtime, max_output_chars=100_000).call("list_files", {"path": "/d"})
    assert result.text.startswith("/d: 1,002 entries\n00000  1 bytes\n")
    assert result.text.endswith("(2 more entries are not shown. List a directory further down.)")
    assert await text_of(FakeRuntime(), "list_files", {"path": "/d"}) == "/d is empty."
    assert await text_of(FakeRuntime(files={"/a": b""}), "list_files", {"path": "/"}) == "/: 1 entry\na  0 bytes"


async def test_a_secret_in_a_file_name_is_redacted_before_the_name_is_spelled_with_escapes() -> None:
    runtime = FakeRuntime(files={"/d/of canary-é9f31c\u200b": b""})
    result = await fake_toolset(runtime, secrets={"CANARY": "canary-é9f31c"}).call("list_files", {"path": "/d"})
    assert "'of [REDACTED:CANARY]\\u200b'" in result.text


@pytest.mark.parametrize(
    "tool", ["exec", "run_code", "read_file", "write_file", "edit_file", "list_files", "get_preview_url"]
)
async def test_a_registered_value_is_in_no_part_of_a_result(tool: str) -> None:
    token = secrets.token_urlsafe(32)
    failing = FakeRuntime(fails_with=ToolError(f"It is {token}."))
    arguments = {"command": token, "code": token, "path": f"/{token}", "content": token, "port": 8000}
    arguments |= {"old_text": token, "new_text": "x"}
    toolset = fake_toolset(failing, secrets={"TOKEN": token})
    names = next(t for t in toolset.tools if t.name == tool).arguments.model_fields
    result = await toolset.call(tool, {name: value for name, value in arguments.items() if name in names})
    assert result.is_error
    assert "[REDACTED:TOKEN]" in result.text
    assert token not in repr(result)


async def test_output_of_any_size_stays_within_the_budget() -> None:
    result = await fake_toolset(FakeRuntime(stdout=b"x" * 30_000_000), max_output_chars=5000).call(
        "exec", {"command": "x"}
    )
    assert len(result.text) <= 5000
    assert "characters" in result.text
    assert "omitted" in result.text


async def test_cancelling_a_call_reaches_the_sandbox() -> None:
    runtime = FakeRuntime(hangs=True)
    with anyio.move_on_after(0.05) as scope:
        await fake_toolset(runtime).call("exec", {"command": "sleep 100"})
    assert scope.cancelled_caught
    assert runtime.cancelled


def test_the_key_decides_where_the_tools_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEACLOUD_API_KEY", "SEACLOUD_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert open_source(base_url=None, api_key=None, registry=Registry()).where.startswith("the local sandbox")
    key = secrets.token_urlsafe(32)
    source = open_source(base_url="https://h.example/api/v1/", api_key=key, registry=Registry())
    assert source.where == "SeaCloud at https://h.example/api/v1"
    assert key not in repr(source)
    monkeypatch.setenv("SEACLOUD_API_KEY", key)
    monkeypatch.setenv("SEACLOUD_BASE_URL", "h.example")
    assert open_source(base_url=None, api_key=None, registry=Registry()).where == "SeaCloud at https://h.example"


@pytest.mark.parametrize(
    ("base_url", "api_key", "text"),
    [
        (None, "k" * 5 + "ey-0123456789", "SEACLOUD_BASE_URL is not"),
        ("https://h", None, "there is no API key"),
        ("https://u:p@h", "k" * 5 + "ey-0123456789", "cannot be used"),
    ],
)
def test_half_a_configuration_says_what_is_missing(
    base_url: str | None, api_key: str | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SEACLOUD_API_KEY", "SEACLOUD_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match=text):
        open_source(base_url=base_url, api_key=api_key, registry=Registry())


def test_the_least_isolation_is_what_was_asked_for_else_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chosen(asked: str | None) -> str:
        return open_source(base_url=None, api_key=None, registry=Registry(), min_isolation=asked).min_isolation

    for name in ("SEACLOUD_API_KEY", "SANDBOX_TOOLS_MIN_ISOLATION"):
        monkeypatch.delenv(name, raising=False)
    assert chosen(None) == "namespaces"
    monkeypatch.setenv("SANDBOX_TOOLS_MIN_ISOLATION", "landlock")
    assert (chosen(None), chosen("namespaces")) == ("landlock", "namespaces")


@pytest.mark.parametrize(
    "setting", [{"ttl_s": 0}, {"ttl_s": 86_401}, {"max_output_chars": 999}, {"min_isolation": "none"}]
)
async def test_a_setting_out_of_range_is_refused(setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEACLOUD_API_KEY", raising=False)
    with pytest.raises(ConfigurationError):
        async with Toolset.open(**setting):
            raise AssertionError("it opened")


async def test_an_error_of_the_caller_comes_out_of_open_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEACLOUD_API_KEY", raising=False)
    with pytest.raises(LookupError, match="mine"):
        async with Toolset.open():
            raise LookupError("mine")


async def test_half_a_surrogate_pair_does_not_reach_an_adapter() -> None:
    text = await text_of(FakeRuntime(fails_with=ToolError("\ud800")), "exec", {"command": "x"}, is_error=True)
    assert text.encode().decode() == text


async def test_the_instructions_say_whether_there_is_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEACLOUD_API_KEY", raising=False)
    async with Toolset.open() as closed, Toolset.open(internet=True) as opened:
        assert closed.instructions.endswith("The sandbox has no internet access.")
        assert opened.instructions.endswith("The sandbox can reach the internet.")


async def test_a_secret_that_comes_in_two_parts_of_a_process_output_is_not_shown_in_halves() -> None:
    secret = secrets.token_urlsafe(24)
    runtime = FakeRuntime(hangs=True)
    toolset = fake_toolset(runtime, secrets={"KEY": secret})
    await toolset.call("exec", {"command": "serve", "background": True})
    (process,) = runtime.processes
    process.on_output("stdout", f"first {secret[:12]}".encode())
    first = await toolset.call("process", {"action": "output", "pid": process.pid})
    process.on_output("stdout", f"{secret[12:]} second".encode())
    second = await toolset.call("process", {"action": "output", "pid": process.pid})
    assert secret[:12] not in first.text
    assert "first" in first.text
    assert second.text == "still running\n--- stdout ---\n[REDACTED:KEY] second"


async def test_a_process_of_another_sandbox_or_of_a_forgotten_call_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command_tool, "LOOK_S", 0)
    runtime = FakeRuntime(hangs=True)
    toolset = fake_toolset(runtime)
    for _ in range(MAX_KEPT + 1):
        await toolset.call("exec", {"command": "serve", "background": True})
    listed = (await toolset.call("process", {"action": "list"})).text
    assert len(listed.splitlines()) == MAX_KEPT + 1
    runtime.sandbox_id = "another"
    runtime.processes.clear()
    result = await toolset.call("process", {"action": "output", "pid": 101})
    assert result.is_error


async def test_giving_up_a_wait_for_a_process_does_not_end_it_and_giving_up_its_command_does() -> None:
    runtime = FakeRuntime(hangs=True)
    toolset = fake_toolset(runtime)
    with anyio.move_on_after(0.01):
        await toolset.call("exec", {"command": "serve"})
    assert runtime.cancelled
    runtime.cancelled = False
    await toolset.call("exec", {"command": "serve", "background": True})
    with anyio.move_on_after(0.01):
        await toolset.call("process", {"action": "wait", "pid": runtime.processes[-1].pid})
    assert not runtime.cancelled
    assert (await toolset.call("process", {"action": "kill", "pid": 101})).text.startswith("killed: process 101")
    assert runtime.cancelled
