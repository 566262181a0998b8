"""Tasks inside a sandbox, each in a child of the agent. Standard library only.

A task gets pipes that the host made. It answers on the first: a line of JSON ({"error": errno}, or the result), then
for `read` the content, for `list`, `ports` and `watch` more lines. The host never opens a path of a sandbox: a path
means here what it means to the code in the sandbox, and a symlink cannot lead out.
"""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

from sandbox_tools.guest import files, status, tree, watch
from sandbox_tools.guest.answer import Answer

_TASKS = {
    "read": files.read,
    "write": files.write,
    "compose": files.compose,
    "edit": files.edit,
    "stat": tree.stat_path,
    "list": tree.list_directory,
    "mkdir": tree.make_directory,
    "remove": tree.remove,
    "move": tree.move,
    "ports": status.ports,
    "usage": status.usage,
    "watch": watch.watch,
}


def run(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """Do one task and end this process."""
    answer = Answer(fds[0])
    try:
        _TASKS[request["task"]](request, answer, fds[1:])
    except OSError as error:
        answer.fail(error)
    except ValueError:  # text that is no path
        answer.fail(OSError(errno.EINVAL, "path"))
    except RecursionError:  # of os.makedirs
        answer.fail(OSError(errno.ENAMETOOLONG, "path"))
    except MemoryError:
        answer.fail(OSError(errno.ENOMEM, "memory"))
    finally:
        os._exit(0)
