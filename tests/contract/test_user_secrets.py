"""Secrets that commands may use, in a real local sandbox: they get there, and their echo does not come back."""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox_tools import BlockingToolset, PublicValue
from sandbox_tools.errors import ConfigurationError, WeakSecretError
from tests.contract.test_cli import COMMAND, cloud, environment
from tests.contract.test_tools_local import wait_until
from tests.local.service import LocalServer

TOKEN = f"ghp_{secrets.token_urlsafe(27)}"
SHORT = f"pw-{secrets.token_hex(5)}"
FOR_ALL = secrets.token_hex(20)
PLAIN = "europe-west-3"
EVERY_VALUE = (TOKEN, SHORT, FOR_ALL)


@pytest.fixture(scope="module")
def tools(local_server: LocalServer) -> Iterator[BlockingToolset]:
    """At the end: no file of the service, where its logs are too, has a value."""
    with BlockingToolset.open(
        base_url=local_server.base_url,
        api_key=local_server.api_key,
        secrets={"GITHUB_TOKEN": TOKEN, "DB_PASSWORD": SHORT},
        envs={"NPM_TOKEN": FOR_ALL, "REGION": PLAIN},
    ) as toolset:
        yield toolset
    kept = subprocess.run(
        ["grep", "-rlE", "|".join(EVERY_VALUE), str(local_server.state)], capture_output=True, text=True, check=False
    )
    assert (kept.returncode, kept.stdout) == (1, "")


def run(tools: BlockingToolset, command: str, *names: str, is_error: bool = False, **more: Any) -> str:
    result = tools.call("exec", {"command": command, "secrets": list(names), **more})
    assert result.is_error is is_error, result.text
    assert not any(value in result.text for value in EVERY_VALUE)
    return result.text.removeprefix("exit_code: 0\n--- stdout ---\n")


def test_a_command_has_the_value_and_the_model_its_name(tools: BlockingToolset) -> None:
    assert run(tools, "printf %s $GITHUB_TOKEN | wc -c", "GITHUB_TOKEN") == str(len(TOKEN))
    assert run(tools, "echo $GITHUB_TOKEN", "GITHUB_TOKEN") == "[REDACTED:GITHUB_TOKEN]"


def test_only_the_command_that_names_it_has_it(tools: BlockingToolset) -> None:
    assert run(tools, "env | grep -cE 'GITHUB_TOKEN|DB_PASSWORD'; true") == "0"
    assert run(tools, "env | grep -cE 'GITHUB_TOKEN|DB_PASSWORD'", "GITHUB_TOKEN") == "1"
    code = "import os; sorted(name for name in os.environ if name in ('GITHUB_TOKEN', 'DB_PASSWORD', 'REGION'))"
    assert tools.call("run_code", {"code": code}).text == "--- result ---\n['REGION']"


@pytest.mark.parametrize(
    "command",
    [
        "env",
        "printenv DB_PASSWORD GITHUB_TOKEN",
        "export -p",
        "cat /proc/self/environ",
        "tr '\\0' '\\n' < /proc/$$/environ",
        "sh -xc 'true $GITHUB_TOKEN $DB_PASSWORD'",
        "echo $GITHUB_TOKEN $DB_PASSWORD >&2; exit 3",
        "printf %s $GITHUB_TOKEN | base64 -w0; printf 'x-access-token:%s' $DB_PASSWORD | base64 -w0",
        "printf 'x-access-token:%s' $GITHUB_TOKEN | base64",
        "printf 'user:%s' $DB_PASSWORD | base64",
        "printf %s $GITHUB_TOKEN | xxd -p || printf %s $GITHUB_TOKEN | od -An -tx1",
        "echo https://user:$GITHUB_TOKEN@github.com/a/b machine github.com login x password $DB_PASSWORD",
        "python3 -c 'import os, json; print(json.dumps(dict(os.environ)))'",
        "python3 -c 'import os; print(list(os.environ[\"GITHUB_TOKEN\"]))'",
        "python3 -c 'import os; raise ValueError(os.environ[\"DB_PASSWORD\"])'",
        "python3 -c 'import os, urllib.parse as u; print(u.quote(os.environ[\"GITHUB_TOKEN\"]))'",
        "cat /nowhere/$GITHUB_TOKEN",
        "cd /nowhere/$DB_PASSWORD",
        "ps axe -o args || cat /proc/[0-9]*/environ",
    ],
)
def test_no_echo_comes_back(tools: BlockingToolset, command: str) -> None:
    text = run(tools, command, "GITHUB_TOKEN", "DB_PASSWORD")
    assert "[REDACTED:" in text
    for value in EVERY_VALUE:
        for known in (value, f"x-access-token:{value}", f"user:{value}"):
            assert base64.b64encode(known.encode()).decode() not in text
        assert value.encode().hex() not in re.sub(r"\s", "", text)
        assert value not in re.sub(r"[^\w-]", "", text)


def test_a_process_in_the_background_has_it_and_is_redacted_as_well(tools: BlockingToolset) -> None:
    started = run(
        tools, "while read line; do echo $line=$GITHUB_TOKEN, which is all of it; done", "GITHUB_TOKEN", background=True
    )
    [pid] = re.findall(r"process (\d+)", started)
    read = {"action": "output", "pid": int(pid)}
    refused = tools.call("process", {"action": "input", "pid": int(pid), "text": "[REDACTED:GITHUB_TOKEN]\n"})
    assert (refused.is_error, "Nothing was done." in refused.text) == (True, True)
    said = [tools.call("process", {"action": "input", "pid": int(pid), "text": "a\n"}).text]

    def is_over() -> bool:
        said.append(tools.call("process", read).text)
        return "all of it" in "".join(said)

    assert wait_until(is_over)
    assert "[REDACTED:GITHUB_TOKEN]" in "".join(said)
    assert TOKEN not in "".join(said)
    assert TOKEN not in tools.call("process", {"action": "list"}).text
    assert TOKEN not in tools.call("process", {"action": "kill", "pid": int(pid)}).text


def test_what_a_command_wrote_to_a_file_is_the_value_and_is_read_without_it(tools: BlockingToolset) -> None:
    run(tools, "printf 'token=%s' $GITHUB_TOKEN > .netrc; cp .netrc $DB_PASSWORD.txt", "GITHUB_TOKEN", "DB_PASSWORD")
    assert run(tools, 'test "$(cat .netrc)" = token=$GITHUB_TOKEN && echo same', "GITHUB_TOKEN") == "same"
    assert tools.call("read_file", {"path": ".netrc"}).text == "token=[REDACTED:GITHUB_TOKEN]"
    assert "[REDACTED:DB_PASSWORD].txt" in tools.call("list_files", {}).text
    assert run(tools, "rm -f .netrc *.txt") == "exit_code: 0\n(no output)"


def test_a_variable_of_the_sandbox_is_in_every_process_and_redacted_if_its_name_looks_secret(
    tools: BlockingToolset, local_server: LocalServer
) -> None:
    assert run(tools, "echo $NPM_TOKEN $REGION") == f"[REDACTED:NPM_TOKEN] {PLAIN}"
    code = "import os; os.environ['NPM_TOKEN'][::-1], len(os.environ['NPM_TOKEN'])"
    assert tools.call("run_code", {"code": code}).text == "--- result ---\n('[REDACTED:NPM_TOKEN]', 40)"


def test_the_environment_that_the_runtime_answers_with_has_no_secret_of_a_command(local_server: LocalServer) -> None:
    with (
        local_server.sandbox() as box,
        BlockingToolset.open(
            base_url=local_server.base_url, api_key=local_server.api_key, secrets={"GITHUB_TOKEN": TOKEN}
        ) as toolset,
    ):
        run(toolset, "sleep 100", "GITHUB_TOKEN", background=True, sandbox_id=box.sandbox_id)
        assert TOKEN not in box.http.get("/envs").text
        assert TOKEN not in box.control.get(f"/sandboxes/{box.sandbox_id}/logs").text


def test_a_secret_that_is_not_there_is_told_with_those_that_are(tools: BlockingToolset) -> None:
    text = run(tools, "true", "AWS_TOKEN", is_error=True)
    assert text == "There is no such secret. The secrets are: GITHUB_TOKEN, DB_PASSWORD."


def test_a_command_that_uses_a_secret_without_naming_it_is_told(tools: BlockingToolset) -> None:
    text = run(tools, 'echo "<${GITHUB_TOKEN}$USER$DB_PASSWORD>"', "DB_PASSWORD")
    assert text == (
        "<user[REDACTED:DB_PASSWORD]>\n(Not set, because the argument secrets does not name it: GITHUB_TOKEN)"
    )


def test_a_placeholder_in_a_command_or_in_code_is_refused(tools: BlockingToolset) -> None:
    text = run(tools, "curl -H 'Authorization: Bearer [REDACTED:GITHUB_TOKEN]' x", is_error=True)
    assert text.endswith('Nothing was done. Use $GITHUB_TOKEN in exec instead, with secrets=["GITHUB_TOKEN"].')
    text = run(tools, "cat > .npmrc <<'EOF'\ntoken=[REDACTED:NPM_TOKEN]\nEOF", is_error=True)
    assert text.endswith("Nothing was done. Let the program take the text from where it is.")
    for mark in ("[REDACTED:GITHUB_TOKEN]", "[REDACTED:unknown-token]", "[WITHHELD: redaction failed]"):
        result = tools.call("run_code", {"code": f"print({mark!r})"})
        assert (result.is_error, mark in result.text) == (True, True)


def test_what_only_looks_like_a_placeholder_is_run(tools: BlockingToolset) -> None:
    assert run(tools, "echo '[REDACTED:EMAIL] [REDACTED]'") == "[REDACTED:EMAIL] [REDACTED]"


def test_the_model_is_told_the_names_and_nobody_without_secrets_pays_for_it(tools: BlockingToolset) -> None:
    [listed] = [tool for tool in tools.tools if tool.name == "exec"]
    assert listed.description.endswith("The secrets are: GITHUB_TOKEN, DB_PASSWORD.")
    assert listed.input_schema["properties"]["secrets"]["anyOf"][0] == {"type": "array", "items": {"type": "string"}}
    assert tools.instructions.endswith("hidden from you: GITHUB_TOKEN, DB_PASSWORD.")
    with BlockingToolset.open(base_url="http://127.0.0.1:9", api_key=secrets.token_hex(20)) as without:
        [plain] = [tool for tool in without.tools if tool.name == "exec"]
        assert "secret" not in json.dumps([plain.description, plain.input_schema])
        assert "exec can use secrets" not in without.instructions
        assert "unknown argument secrets" in without.call("exec", {"command": "ls", "secrets": ["A"]}).text


@pytest.mark.parametrize("how", ["secrets", "envs"])
@pytest.mark.parametrize("kind", [str, PublicValue])
def test_the_api_key_is_not_let_into_a_sandbox(how: str, kind: type[str]) -> None:
    key = secrets.token_hex(20)
    given: dict[str, Any] = {how: {"MY_TOKEN": kind(f"Bearer {key}")}}
    with pytest.raises(ConfigurationError, match="must not be in one") as failure:
        BlockingToolset.open(base_url="http://127.0.0.1:9", api_key=key, **given).__enter__()
    assert key not in str(failure.value)


def test_a_weak_secret_is_refused_before_anything_runs() -> None:
    with pytest.raises(WeakSecretError, match="fewer than 8 characters"):
        BlockingToolset.open(secrets={"PIN_TOKEN": "4711"}).__enter__()


def shell(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(**extra), capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_line_takes_names_and_no_values(local_server: LocalServer) -> None:
    given = {"MY_TOKEN": TOKEN, "NPM_TOKEN": FOR_ALL, **cloud(local_server)}
    call = json.dumps({"command": "echo $MY_TOKEN $NPM_TOKEN", "secrets": ["MY_TOKEN"]})
    done = shell("call", "exec", call, "--secret", "MY_TOKEN", "--env", "NPM_TOKEN", **given)
    assert done.stdout == "exit_code: 0\n--- stdout ---\n[REDACTED:MY_TOKEN] [REDACTED:NPM_TOKEN]\n"
    assert TOKEN not in done.stderr
    assert FOR_ALL not in done.stderr
    missing = shell("call", "exec", "{}", "--secret", "NO_SUCH_TOKEN", **given)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "NO_SUCH_TOKEN is not set" in missing.stderr
    value = shell("call", "exec", "{}", "--secret", f"MY_TOKEN={TOKEN}", **given)
    assert (value.returncode, value.stdout) == (2, "")
    assert TOKEN not in value.stderr


def test_variables_that_the_commands_on_sandboxes_pass_on_are_redacted(local_server: LocalServer) -> None:
    given = {"MY_TOKEN": TOKEN, "SORT_KEY": "name", "MAP_KEY": "pk-1f0c8e7a62", **cloud(local_server)}
    with local_server.sandbox() as box:
        passed = ("--env", "MY_TOKEN", "--env", "SORT_KEY", "--env", "MAP_KEY:public")
        done = shell("sandbox", "exec", *passed, box.sandbox_id, "echo $MY_TOKEN $SORT_KEY $MAP_KEY", **given)
        bad = shell("sandbox", "exec", "--env", "NOT_SET", box.sandbox_id, "true", **given)
    assert done.stdout == "[REDACTED:MY_TOKEN] name pk-1f0c8e7a62\n"
    assert (bad.returncode, "NOT_SET is not set in the environment" in bad.stderr) == (2, True)
    assert "The value of SORT_KEY cannot be registered as a secret" in done.stderr


def test_an_mcp_server_that_lacks_a_secret_does_not_start() -> None:
    done = shell("mcp", "--secret", "NO_SUCH_TOKEN")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "sandbox-tools: NO_SUCH_TOKEN is not set in the environment of this process.\n"
