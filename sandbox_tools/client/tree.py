"""The end of a whole tree of processes in a sandbox, on any runtime, and an honest word on whether all of it is gone.

A runtime may signal only the process that it started (wire contract 4.3), and children may leave their process group.
So every process that we start carries a mark in its environment, which its children inherit. One small program in the
sandbox ends what has the mark, or descends from the process, or is in its session or group; it looks again until
nothing is left. Out of its reach is only a process that gave up all four: it cleared its environment, began a session
of its own, and its parent has ended.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

from sandbox_tools.wire.process import Command

MARK: Final = "SANDBOX_TOOLS_CALL"
"""Environment variable whose value names the call that a process belongs to. Random; not a secret."""

TERM_GRACE_S: Final = 0.5
"""Time that a tree has between TERM and KILL, in seconds."""

ReapOutcome = Literal["nothing", "gone", "left", "unknown"]
"""There was nothing to end; all of it is gone; some of it is left; the program could not do its work."""

_OUTCOMES: Final[Mapping[int | None, ReapOutcome]] = {10: "nothing", 0: "gone", 11: "left"}

_PAUSE_S: Final = 0.05

_PROGRAM: Final = r"""
mark=$1 root=$2 pauses=$3
newline='
'
known=' '
[ "$root" -gt 1 ] && known=" $root "

scan() {
  set +f; IFS=$newline
  marked=$(grep -lszxF -- "$mark" /proc/[0-9]*/environ)
  stats=$(cat /proc/[0-9]*/stat 2>/dev/null)
  set -f
  case $stats in *"$$ ("*) ;; *) exit 12 ;; esac
  for entry in $marked; do entry=${entry#/proc/}; known="$known${entry%/environ} "; done
  alive=
  for entry in $stats; do
    IFS=' '; set -- "${entry%% *}" ${entry##*) }; IFS=$newline
    case $2 in Z | X) ;; *) alive="$alive$1:$3:$4:$5$newline" ;; esac
  done
  found=' '
  more=yes
  while [ "$more" ]; do
    more=
    for entry in $alive; do
      IFS=:; set -- $entry; IFS=$newline
      case $found in *" $1 "*) continue ;; esac
      case $known in
        *" $1 "* | *" $2 "* | *" $3 "* | *" $4 "*) found="$found$1 " known="$known$1 " more=yes ;;
      esac
    done
  done
  IFS=' '
  [ "$found" != ' ' ]
}

printf 'a\0b\0' | grep -qzxF b 2>/dev/null || exit 12
scan || exit 10
exec 2>/dev/null
kill -TERM $found; kill -CONT $found
left=$found
until [ "$left" = ' ' ] || [ "$pauses" -le 0 ]; do
  sleep 0.05
  pauses=$((pauses - 1)) left=' '
  for process in $found; do kill -0 "$process" && left="$left$process "; done
done
clear=0 rounds=0
until [ "$clear" -eq 2 ]; do
  if scan; then clear=0; kill -KILL $found; else clear=$((clear + 1)); fi
  rounds=$((rounds + 1))
  [ "$rounds" -lt 50 ] || exit 11
done
"""
"""POSIX shell with cat, sleep and a grep that has -z (GNU, BusyBox); without it nothing is ended and that is said.

`known` keeps what was ever found, so that orphans of it are found as well. Two looks in a row must find nothing,
because a process may fork while one look passes by.
"""


def new_mark() -> str:
    """Return a value for `MARK`."""
    return uuid.uuid4().hex


def marked(command: Command) -> Command:
    """Return the command with a mark, which is its tag, too, if it has none. One that has a mark is left as it is."""
    if MARK in command.envs:
        return command
    mark = new_mark()
    return replace(command, envs={**command.envs, MARK: mark}, tag=command.tag or mark)


def reaper(mark: str, pid: int | None, *, grace_s: float) -> Command:
    """Return the command that ends a tree: TERM, `grace_s` seconds at most, then KILL until nothing is left.

    Args:
        pid: Of its first process; None when it is not known.
    """
    pauses = str(round(grace_s / _PAUSE_S))
    return Command(
        cmd="/bin/sh", args=("-c", _PROGRAM, "sh", f"{MARK}={mark}", str(pid or 0), pauses), timeout_ms=20_000
    )


def reap_outcome(exit_code: int | None) -> ReapOutcome:
    """Return what the exit code of a reaper means."""
    return _OUTCOMES.get(exit_code, "unknown")
