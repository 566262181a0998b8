"""What a sandbox sees: the read-only files of the host, its own /etc, its environment."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from sandbox_tools.errors import ConfigurationError
from sandbox_tools.wire.files import DEFAULT_WORKSPACE

HOSTNAME: Final = "sandbox"

_TOP_LEVEL: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Symlinks into /usr on a merged system, directories elsewhere."""

_ETC: Final = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/R/Makeconf",
    "/etc/R/Renviron",
    "/etc/R/ldpaths",
    "/etc/R/repositories",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/openssl.cnf",
)
"""Public files that programs need. Not /etc/ssl or /etc/pki whole: private keys are in there. Not *.site of R:
what an administrator sets there may be a credential."""

_FILES: Final = {
    "/etc/passwd": (
        f"user:x:1000:1000:user:{DEFAULT_WORKSPACE}:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "/etc/group": "user:x:1000:\nnogroup:x:65534:\n",
    "/etc/hosts": f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n",
    "/etc/hostname": f"{HOSTNAME}\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "/etc/resolv.conf": "",
}

_PROGRAMS: Final = "/run/sandbox-tools"
"""Inside: programs of ours that come before the host's of the same name."""

_RESERVED: Final = ("/proc", "/dev", "/sys", "/etc", _PROGRAMS, DEFAULT_WORKSPACE)
"""Inside, these are the sandbox's own: no read-only tree of the host may hold or replace one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The file system of a sandbox, apart from what every sandbox has (/proc, /dev, /tmp, the workspace).

    Attributes:
        binds: (host path, path inside) of read-only trees and files, parents before children.
        links: (target, path inside) of symlinks.
        files: Content by path.
    """

    binds: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    files: dict[str, str]


def host_layout() -> Layout:
    """Return the layout that this machine and this interpreter give.

    Raises:
        ConfigurationError: The interpreter lies where the sandbox has its own files.
    """
    links = tuple((str(Path(path).readlink()), path) for path in _TOP_LEVEL if Path(path).is_symlink())
    trees = ["/usr", *(path for path in _TOP_LEVEL if Path(path).is_dir() and not Path(path).is_symlink())]
    trees = _without_nested([*trees, *_python_trees()])
    for tree in trees:
        _check_tree(tree)
    su = str(Path(__file__).parent.parent / "guest" / "su")
    binds = (*((tree, tree) for tree in trees), *_etc_binds(), (su, f"{_PROGRAMS}/su"))
    return Layout(binds=binds, links=links, files=_FILES)


def environment() -> dict[str, str]:
    """Return the environment that every process in a sandbox starts from. Nothing of the host's is in it."""
    user_base = f"{DEFAULT_WORKSPACE}/.local"
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    path = [f"{user_base}/bin", _PROGRAMS, f"{sys.base_prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin"]
    path += ["/usr/local/sbin", "/usr/sbin", "/sbin"]
    return {
        "PATH": ":".join(dict.fromkeys(path)),
        "HOME": DEFAULT_WORKSPACE,
        "USER": "user",
        "LOGNAME": "user",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PYTHONPATH": ":".join([f"{user_base}/lib/{version}/site-packages", *_site_packages()]),
        "PIP_USER": "1",
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "MPLBACKEND": "Agg",
    }


def _python_trees() -> list[str]:
    return [*dict.fromkeys([sys.base_prefix, sys.base_exec_prefix]), *_site_packages()]


def _site_packages() -> list[str]:
    paths = sysconfig.get_paths()
    found = dict.fromkeys([paths["purelib"], paths["platlib"]])
    return [path for path in found if Path(path).is_dir()]


def _without_nested(trees: Iterable[str]) -> list[str]:
    kept: list[str] = []
    for tree in sorted({os.path.normpath(tree) for tree in trees}):
        if not any(PurePosixPath(tree).is_relative_to(other) for other in kept):
            kept.append(tree)
    return kept


def _check_tree(tree: str) -> None:
    for own in _RESERVED:
        if PurePosixPath(tree).is_relative_to(own) or PurePosixPath(own).is_relative_to(tree):
            raise ConfigurationError(
                f"The local sandbox cannot show {tree} (Python's own files) because it has its own {own}. "
                "Use a Python or virtual environment that lies elsewhere."
            )


def _etc_binds() -> Iterator[tuple[str, str]]:
    """Yield the real file of each: a link such as /etc/localtime would point out of what is mounted."""
    java = sorted(map(str, Path("/etc").glob("java-*-openjdk")))  # Debian keeps its security settings there
    for path in (*_ETC, *java):
        real = Path(path).resolve()
        if real.exists():
            yield str(real), path
