"""Which addresses a sandbox may reach. Pure: a table of ranges, and the rules of one sandbox.

Some addresses are never reached, whatever the rules say: loopback, link-local, the metadata services of clouds,
multicast and what is reserved. Private ranges are reached only where a rule names a part of one. Addresses of IPv6
that stand for one of IPv4 (mapped, NAT64, 6to4) are judged as that one. Source of the ranges: the IANA registries of
special-purpose addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from sandbox_tools.wire.network import NetworkRules

Address = IPv4Address | IPv6Address

_NEVER_V4: Final = {
    "0.0.0.0/8": "it means this machine",
    "127.0.0.0/8": "it is a loopback address",
    "169.254.0.0/16": "it is a link-local address",
    "100.100.100.200/32": "it is a metadata service",  # Alibaba
    "168.63.129.16/32": "it is a metadata service",  # Azure
    "192.0.0.0/24": "it is reserved",  # with 192.0.0.192, Oracle's metadata service
    "192.0.2.0/24": "it is reserved",
    "192.88.99.0/24": "it is reserved",
    "198.51.100.0/24": "it is reserved",
    "203.0.113.0/24": "it is reserved",
    "224.0.0.0/4": "it is a multicast address",
    "240.0.0.0/4": "it is reserved",
}
_PRIVATE_V4: Final = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15")

_NEVER_V6: Final = {
    "::1/128": "it is a loopback address",
    "fe80::/10": "it is a link-local address",
    "fc00::/7": "it is a private address",  # with fd00:ec2::254 and fd20:ce::254, metadata services of AWS and Google
    "ff00::/8": "it is a multicast address",
    "2001::/23": "it is reserved",  # with Teredo, 2001::/32
    "2001:db8::/32": "it is reserved",
    "3fff::/20": "it is reserved",
}
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_6TO4: Final = IPv6Network("2002::/16")

_NEVER_V4_RANGES: Final = [(IPv4Network(text), why) for text, why in _NEVER_V4.items()]
_NEVER_V6_RANGES: Final = [(IPv6Network(text), why) for text, why in _NEVER_V6.items()]
_PRIVATE_RANGES: Final = [IPv4Network(text) for text in _PRIVATE_V4]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one sandbox may reach.

    Attributes:
        internet: Every public address that is not denied.
        allow: Reached whatever `deny` says. A private address is reached only through a network that lies within a
            private range: 0.0.0.0/0 does not open one.
        deny: Not reached. IPv6, which these cannot name, is then not reached at all.
    """

    internet: bool = False
    allow: tuple[IPv4Network, ...] = ()
    deny: tuple[IPv4Network, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether anything at all may be reached."""
        return self.internet or bool(self.allow)


def policy_of(rules: NetworkRules) -> Policy:
    """Return the policy of what was said: nothing is open that was not asked for."""
    return Policy(
        internet=rules.internet is True,
        allow=tuple(IPv4Network(text) for text in rules.allow_out),
        deny=tuple(IPv4Network(text) for text in rules.deny_out),
    )


def refusal(address: Address, policy: Policy) -> str | None:
    """Return why an address may not be reached, or None."""
    if isinstance(address, IPv4Address):
        return _refusal_v4(address, policy)
    embedded = tuple(embedded_addresses(address))
    return _refusal_v6(address, policy, embedded) or next(
        (why for inner in embedded if (why := _refusal_v4(inner, policy))), None
    )


def embedded_addresses(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield the addresses of IPv4 that an address of IPv6 stands for."""
    if address in _MAPPED or address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFF_FFFF)
    elif address in _6TO4:
        yield IPv4Address((int(address) >> 80) & 0xFFFF_FFFF)


def _refusal_v4(address: IPv4Address, policy: Policy) -> str | None:
    why = next((why for network, why in _NEVER_V4_RANGES if address in network), None)
    if why is not None:
        return why
    private = next((network for network in _PRIVATE_RANGES if address in network), None)
    if private is not None:
        opened = [network for network in policy.allow if network.subnet_of(private)]
        return None if _is_in(address, opened) else "it is a private address that allowOut does not name"
    if _is_in(address, policy.allow):
        return None
    if not policy.internet:
        return "allowOut does not name it" if policy.allow else "the sandbox has no internet access"
    return "denyOut names it" if _is_in(address, policy.deny) else None


def _refusal_v6(address: IPv6Address, policy: Policy, embedded: Sequence[IPv4Address]) -> str | None:
    why = next((why for network, why in _NEVER_V6_RANGES if address in network), None)
    if why is not None:
        return why
    if embedded:
        return None  # its inner addresses decide
    if address not in _GLOBAL_V6:
        return "it is reserved"
    if not policy.internet:
        return "allowOut names IPv4 only" if policy.allow else "the sandbox has no internet access"
    return "it is IPv6, and denyOut is in force" if policy.deny else None


def _is_in(address: IPv4Address, networks: Sequence[IPv4Network]) -> bool:
    return any(address in network for network in networks)
