"""Which addresses a sandbox may reach: the table, and the rules over it."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_tools.local.addresses import Policy, embedded_addresses, policy_of, refusal
from sandbox_tools.wire.network import NetworkRules

NONE = Policy()
INTERNET = Policy(internet=True)
EVERYTHING = Policy(internet=True, allow=(IPv4Network("0.0.0.0/0"),))
V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)

NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "169.254.1.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
]
PRIVATE = ["10.0.0.1", "100.64.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "198.18.0.1"]
NEVER_V6 = [
    "::",
    "::1",
    "::127.0.0.1",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "ff02::1",
    "100::1",
    "2001:0:808:808::f7f7:f7f7",
    "2001:2::1",
    "2001:db8::1",
    "64:ff9b:1::808:808",
    "5f00::1",
    "4000::1",
]


def as_mapped(address: IPv4Address) -> IPv6Address:
    return IPv6Address(f"::ffff:{address}")


def as_nat64(address: IPv4Address) -> IPv6Address:
    return IPv6Address(int(IPv6Address("64:ff9b::")) | int(address))


def as_6to4(address: IPv4Address) -> IPv6Address:
    return IPv6Address(0x2002 << 112 | int(address) << 80 | 1)


FORMS = [as_mapped, as_nat64, as_6to4]


@pytest.mark.parametrize("text", NEVER)
def test_some_addresses_are_never_reached_whatever_the_rules_say(text: str) -> None:
    own_rule = Policy(internet=True, allow=(IPv4Network(text), IPv4Network("0.0.0.0/0")))
    assert refusal(ip_address(text), own_rule)
    for form in FORMS:
        assert refusal(form(IPv4Address(text)), own_rule), form.__name__


@pytest.mark.parametrize("text", NEVER_V6)
def test_some_ipv6_addresses_are_never_reached(text: str) -> None:
    assert refusal(ip_address(text), EVERYTHING)


@pytest.mark.parametrize("text", PRIVATE)
def test_a_private_address_is_reached_only_through_a_rule_that_lies_in_a_private_range(text: str) -> None:
    address = ip_address(text)
    assert refusal(address, INTERNET)
    assert refusal(address, EVERYTHING)
    assert refusal(address, Policy(allow=(IPv4Network((text, 1), strict=False),)))
    assert refusal(address, Policy(allow=(IPv4Network(text),))) is None
    assert refusal(address, Policy(allow=(IPv4Network((text, 24), strict=False),))) is None
    for form in FORMS:
        assert refusal(form(IPv4Address(text)), INTERNET), form.__name__


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "2001:4860:4860::8888"])
def test_the_internet_is_reached_only_when_it_is_open(address: str) -> None:
    assert refusal(ip_address(address), INTERNET) is None
    assert refusal(ip_address(address), NONE)
    assert refusal(ip_address(address), Policy(allow=(IPv4Network("9.9.9.9"),)))


def test_what_is_allowed_goes_before_what_is_denied() -> None:
    policy = Policy(internet=True, allow=(IPv4Network("8.8.8.8"),), deny=(IPv4Network("8.0.0.0/8"),))
    assert refusal(ip_address("8.8.8.8"), policy) is None
    assert refusal(ip_address("8.8.4.4"), policy) == "denyOut names it"
    assert refusal(ip_address("9.9.9.9"), policy) is None


def test_ipv6_which_the_rules_cannot_name_is_closed_while_something_is_denied() -> None:
    policy = Policy(internet=True, deny=(IPv4Network("8.8.8.8"),))
    assert refusal(ip_address("2606:4700::1111"), policy)
    assert refusal(as_mapped(IPv4Address("8.8.8.8")), policy)
    assert refusal(as_mapped(IPv4Address("8.8.4.4")), policy) is None


@given(V4, st.sampled_from(FORMS))
def test_a_form_of_an_address_is_never_reached_where_the_address_is_not(address: IPv4Address, form: object) -> None:
    assert callable(form)
    assert address in list(embedded_addresses(form(address)))
    if refusal(address, INTERNET):
        assert refusal(form(address), INTERNET)


@given(V4)
def test_what_is_reached_on_ipv4_is_global_for_the_standard_library_too(address: IPv4Address) -> None:
    if refusal(address, INTERNET) is None:
        assert address.is_global
        assert not address.is_multicast


@given(V6)
def test_what_is_reached_on_ipv6_is_global_for_the_standard_library_too(address: IPv6Address) -> None:
    if refusal(address, INTERNET) is None and not list(embedded_addresses(address)):
        assert address.is_global
        assert not address.is_multicast


@given(V4 | V6)
def test_nothing_is_reached_without_a_rule(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert refusal(address, NONE)
    assert not NONE.is_open


@pytest.mark.parametrize(
    ("rules", "policy"),
    [
        (NetworkRules(), NONE),
        (NetworkRules(internet=False), NONE),
        (NetworkRules(deny_out=("8.8.8.8/32",)), Policy(deny=(IPv4Network("8.8.8.8"),))),
        (NetworkRules(internet=True), INTERNET),
        (NetworkRules(allow_out=("8.8.8.8/32",)), Policy(allow=(IPv4Network("8.8.8.8"),))),
        (
            NetworkRules(internet=False, allow_out=("8.8.8.8/32",)),
            Policy(allow=(IPv4Network("8.8.8.8"),)),
        ),
    ],
)
def test_a_policy_opens_only_what_was_asked_for(rules: NetworkRules, policy: Policy) -> None:
    assert policy_of(rules) == policy
    assert policy_of(rules).is_open == (rules.internet is True or bool(rules.allow_out))
