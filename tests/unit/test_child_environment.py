"""What the local service is told of the environment of the process that starts it."""

from __future__ import annotations

import os

import pytest

from sandbox_tools.local.child import child_environment


def test_it_gets_what_it_needs_and_no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEACLOUD_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "a-value-that-stays-here")
    monkeypatch.setenv("SANDBOX_TOOLS_MIN_ISOLATION", "landlock")
    passed = child_environment()
    assert "a-value-that-stays-here" not in passed.values()
    assert (passed["PATH"], passed["SANDBOX_TOOLS_MIN_ISOLATION"]) == (os.environ["PATH"], "landlock")
