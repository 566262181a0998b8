"""Events of sandboxes, and deliveries of them to webhooks (wire contract 2.11).

The contract gives the routes and their queries, not what an event or a delivery is made of. So beside the few names
that the queries imply, what is there is kept as facts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeAlias, TypeGuard

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.fields import text

Fact: TypeAlias = str | int | float | bool | None

Query: TypeAlias = list[tuple[str, str]]
"""Names and values; a name may be there more than once."""

MAX_FACTS: Final = 64
"""Of one event or delivery."""

MAX_FACT_CHARS: Final = 4096
"""Of a text. A longer one is left out: to cut it could halve a secret, which would then not be redacted."""

_MAX_DEPTH: Final = 4
_NAME: Final = re.compile(r"[\w-]{1,64}", re.ASCII)
_SECRET: Final = re.compile(r"secret|token|passw|apikey|accesskey|signature|authorization|credential|cookie")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxEvent:
    """Something that happened to a sandbox.

    Attributes:
        type: Such as "sandbox.lifecycle.created"; "" when the service says it elsewhere.
        facts: All that it says: see `facts_from_json`.
    """

    type: str
    facts: Mapping[str, Fact] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An attempt to tell a webhook of an event. What is not said is "".

    Attributes:
        delivery_id: For `Webhooks.replay`.
        status: In the service's words; the vendor's guide has "failed".
        facts: All that the service says: see `facts_from_json`.
    """

    delivery_id: str = ""
    webhook_id: str = ""
    event_id: str = ""
    status: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict, repr=False)


def facts_from_json(message: Mapping[str, object]) -> dict[str, Fact]:
    """Read an object of unknown shape: its texts, numbers and switches, at most `MAX_FACTS`; redact before use.

    A field of an inner object is named `outer.inner`. Left out: arrays, texts longer than `MAX_FACT_CHARS`, what is
    nested deeper than four objects, and fields whose name says that they are a secret.
    """
    return dict(islice(_facts(message, "", _MAX_DEPTH), MAX_FACTS))


def event_from_json(message: object) -> SandboxEvent:
    """Read an event.

    Raises:
        WireError: It is not an object.
    """
    fields = _object(message, "an event")
    return SandboxEvent(type=text(fields, "type"), facts=facts_from_json(fields))


def delivery_from_json(message: object) -> Delivery:
    """Read a delivery.

    Raises:
        WireError: It is not an object.
    """
    fields = _object(message, "a delivery")
    return Delivery(
        delivery_id=text(fields, "deliveryID") or text(fields, "id"),
        webhook_id=text(fields, "webhookID"),
        event_id=text(fields, "eventID"),
        status=text(fields, "status"),
        facts=facts_from_json(fields),
    )


def page_query(*, offset: int, limit: int, oldest_first: bool) -> Query:
    """Return the query of a page.

    Raises:
        ValueError: A number is negative.
    """
    if offset < 0 or limit < 0:
        raise ValueError("offset and limit are 0 or more.")
    return [("offset", str(offset)), ("limit", str(limit)), ("orderAsc", "true" if oldest_first else "false")]


def events_query(*, offset: int, limit: int, oldest_first: bool, types: Sequence[str]) -> Query:
    """Return the query of events, with each type as a parameter of its own; raises ValueError as `page_query`."""
    return [*page_query(offset=offset, limit=limit, oldest_first=oldest_first), *(("types", each) for each in types)]


def _facts(message: Mapping[str, object], prefix: str, depth: int) -> Iterator[tuple[str, Fact]]:
    for name, value in message.items():
        if not _NAME.fullmatch(name) or _SECRET.search(re.sub("[_-]", "", name).lower()):
            continue
        if isinstance(value, dict):
            if depth > 1:
                yield from _facts(value, f"{prefix}{name}.", depth - 1)
        elif _is_fact(value):
            yield f"{prefix}{name}", value


def _is_fact(value: object) -> TypeGuard[Fact]:
    if isinstance(value, str):
        return len(value) <= MAX_FACT_CHARS
    return value is None or (isinstance(value, int | float) and abs(value) < 2**63 and math.isfinite(value))


def _object(message: object, what: str) -> Mapping[str, object]:
    if not isinstance(message, dict):
        raise WireError(f"{what} is not an object")
    return message
