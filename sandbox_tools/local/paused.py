"""What is kept of a paused sandbox on disk, so that another service can resume it.

No token: a sandbox gets a new one when it is resumed by a connect. No value of `envVars`: only their names, so that
whoever resumes it is told what is missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Final

from sandbox_tools.wire.control import NewSandbox, create_request_from_json, create_request_json
from sandbox_tools.wire.envelope import WireError, parse_json_object

_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PausedRecord:
    """A paused sandbox.

    Attributes:
        new: As it was created, without the values of its environment.
        env_names: Of its environment.
        started_at: Unix time in seconds, as is `end_at`: when its files are deleted.
        ttl_s: Its time to live, if who resumes it names none.
    """

    template_id: str
    new: NewSandbox
    env_names: tuple[str, ...]
    started_at: float
    end_at: float
    ttl_s: int


def record_to_bytes(record: PausedRecord) -> bytes:
    """Return the content of the file."""
    return json.dumps(
        {
            "version": _VERSION,
            "templateID": record.template_id,
            "create": create_request_json(replace(record.new, envs={})),
            "envNames": list(record.env_names),
            "startedAt": record.started_at,
            "endAt": record.end_at,
            "ttl": record.ttl_s,
        }
    ).encode()


def record_from_bytes(data: bytes) -> PausedRecord:
    """Read the content of the file.

    Raises:
        WireError: It is not one that this version wrote.
    """
    message = parse_json_object(data, what="the record of a paused sandbox")
    try:
        if message["version"] != _VERSION:
            raise WireError("the record of a paused sandbox is of another version")
        create, names = message["create"], message["envNames"]
        if not isinstance(create, dict) or not isinstance(names, list):
            raise TypeError
        return PausedRecord(
            template_id=str(message["templateID"]),
            new=create_request_from_json(create),
            env_names=tuple(str(name) for name in names),
            started_at=float(str(message["startedAt"])),
            end_at=float(str(message["endAt"])),
            ttl_s=int(str(message["ttl"])),
        )
    except (KeyError, TypeError, ValueError):
        problem = "the record of a paused sandbox is not complete"
    raise WireError(problem)
