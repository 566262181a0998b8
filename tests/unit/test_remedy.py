"""What a user is told to do on a machine that cannot isolate a sandbox."""

from __future__ import annotations

import pytest

from sandbox_tools.local.remedy import Machine, remedy, this_machine

GVISOR = Machine(platform="linux", release="4.4.0", version="#1 SMP Sun Jan 10 15:06:54 PST 2016", in_container=True)
APPARMOR = {"kernel/apparmor_restrict_unprivileged_userns": "1"}


@pytest.mark.parametrize(
    ("machine", "advice"),
    [
        (Machine(platform="darwin"), "in a Linux virtual machine"),
        (Machine(platform="win32"), "inside WSL 2"),
        (Machine(platform="freebsd14"), "on Linux"),
        (Machine(platform="linux", release="4.4.0-19041-Microsoft"), "wsl --set-version NAME 2"),
        (Machine(platform="linux", release="5.15.90.1-microsoft-standard-WSL2"), "create user namespaces"),
        (GVISOR, "runs on gVisor"),
        (Machine(platform="linux", sysctls={"kernel/unprivileged_userns_clone": "0"}), "unprivileged_userns_clone=1"),
        (Machine(platform="linux", sysctls={"user/max_user_namespaces": "0"}), "max_user_namespaces=15000"),
        (Machine(platform="linux", sysctls=APPARMOR), "sudo apt install bubblewrap"),
        (Machine(platform="linux", in_container=True), "--security-opt seccomp=unconfined"),
        (Machine(platform="linux", in_container=True, sysctls=APPARMOR), "on an Ubuntu host AppArmor must"),
        (Machine(platform="linux", sysctls={"kernel/unprivileged_userns_clone": "1"}), "CONFIG_USER_NS"),
    ],
)
def test_each_platform_has_a_remedy_of_its_own(machine: Machine, advice: str) -> None:
    text = remedy(machine)
    assert advice in text
    assert text.endswith("Or set SEACLOUD_BASE_URL and SEACLOUD_API_KEY to use SeaCloud sandboxes.")
    assert "sysctl -w kernel.apparmor" not in text  # it would open the whole machine, not one program


def test_a_container_is_told_of_the_weaker_level() -> None:
    assert "--min-isolation landlock" in remedy(Machine(platform="linux", in_container=True))


def test_a_container_of_kubernetes_is_known_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_tools.local.remedy._CONTAINER_FILES", ())
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not this_machine().in_container
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert this_machine().in_container
