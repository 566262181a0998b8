"""What a sandbox may reach: the fields of create and of `PUT /sandboxes/{id}/network` (wire contract 2.1, 2.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from sandbox_tools.wire.envelope import WireError

MAX_NETWORKS: Final = 256
"""Of one list; the contract names no number."""

_NETWORK: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/[0-9]{1,2})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRules:
    """What was said about the network of a sandbox.

    Attributes:
        internet: `allowInternetAccess`; None: not said.
        allow_out: IPv4 networks as CIDR; they go before `deny_out`.
        deny_out: IPv4 networks as CIDR.
        public_previews: `allowPublicTraffic`; None: not said.
    """

    internet: bool | None = None
    allow_out: tuple[str, ...] = ()
    deny_out: tuple[str, ...] = ()
    public_previews: bool | None = None


def network_rules_from_json(message: Mapping[str, object]) -> NetworkRules:
    """Read the flat form. Null is absent; unknown fields are ignored.

    Raises:
        WireError: A field has the wrong type, or a network is neither an IPv4 address nor an IPv4 CIDR.
    """
    return NetworkRules(
        internet=_switch(message, "allowInternetAccess"),
        allow_out=_networks(message, "allowOut"),
        deny_out=_networks(message, "denyOut"),
        public_previews=_switch(message, "allowPublicTraffic"),
    )


def network_rules_of_create(message: Mapping[str, object]) -> NetworkRules:
    """Read the fields of `POST /sandboxes`: `network`, and `allowInternetAccess` beside it, which goes first.

    Raises:
        WireError: As `network_rules_from_json`; or `network` is no object.
    """
    network = message.get("network")
    if network is None:
        network = {}
    if not isinstance(network, dict):
        raise WireError("network is not an object")
    if message.get("allowInternetAccess") is not None:
        network = {**network, "allowInternetAccess": message["allowInternetAccess"]}
    return network_rules_from_json(network)


def network_rules_to_json(rules: NetworkRules) -> dict[str, object]:
    """Return the flat form; what was not said is left out."""
    fields: dict[str, object] = {
        "allowInternetAccess": rules.internet,
        "allowOut": list(rules.allow_out) or None,
        "denyOut": list(rules.deny_out) or None,
        "allowPublicTraffic": rules.public_previews,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _switch(message: Mapping[str, object], name: str) -> bool | None:
    value = message.get(name)
    if value is not None and not isinstance(value, bool):
        raise WireError(f"{name} is not true or false")
    return value


def _networks(message: Mapping[str, object], name: str) -> tuple[str, ...]:
    value = message.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_NETWORKS:
        raise WireError(f"{name} is not a list of at most {MAX_NETWORKS} networks")
    return tuple(dict.fromkeys(_network(item, name) for item in value))


def _network(item: object, name: str) -> str:
    """Return a network as CIDR: a single address is a /32, bits behind the prefix are cleared."""
    if isinstance(item, str) and _NETWORK.fullmatch(item):
        try:
            return str(IPv4Network(item, strict=False))
        except ValueError:
            pass
    raise WireError(f"{name} may hold IPv4 addresses and IPv4 CIDRs only, no names and no IPv6")
