"""What a sandbox may reach (wire contract 2.1, 2.2)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_tools.wire.control import NewSandbox, create_request_from_json, create_request_json
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.network import (
    MAX_NETWORKS,
    NetworkRules,
    network_rules_from_json,
    network_rules_of_create,
    network_rules_to_json,
)

NETWORKS = st.lists(st.ip_addresses(v=4).map(lambda address: f"{address}/32"), max_size=4, unique=True).map(tuple)
SWITCHES = st.none() | st.booleans()
RULES = st.builds(NetworkRules, internet=SWITCHES, allow_out=NETWORKS, deny_out=NETWORKS, public_previews=SWITCHES)


@given(RULES)
def test_rules_survive_the_wire(rules: NetworkRules) -> None:
    assert network_rules_from_json(network_rules_to_json(rules)) == rules
    assert create_request_from_json(create_request_json(NewSandbox(network=rules))).network == rules


@given(st.integers(0, (1 << 32) - 1), st.integers(0, 32))
def test_a_network_is_written_as_cidr(number: int, prefix: int) -> None:
    address = IPv4Address(number)
    rules = network_rules_from_json({"allowOut": [f"{address}/{prefix}"], "denyOut": [str(address)]})
    assert rules.allow_out == (str(IPv4Network((number, prefix), strict=False)),)
    assert rules.deny_out == (f"{address}/32",)


@pytest.mark.parametrize(
    "item",
    [
        "example.com",
        "::1",
        "2001:4860::/32",
        "1.2.3",
        "1.2.3.4/33",
        "1.2.3.4/255.255.255.0",
        "1.2.3.256",
        "01.2.3.4",
        "1.2.3.4 ",
        "\u0661.2.3.4",
        "",
        16909060,
        None,
        ["1.2.3.4"],
    ],
)
@pytest.mark.parametrize("name", ["allowOut", "denyOut"])
def test_what_is_no_ipv4_network_is_refused(name: str, item: object) -> None:
    with pytest.raises(WireError, match=name):
        network_rules_from_json({name: ["1.2.3.4", item]})


@pytest.mark.parametrize(
    "message",
    [
        {"allowInternetAccess": "yes"},
        {"allowPublicTraffic": 1},
        {"allowOut": "1.2.3.4"},
        {"denyOut": {"0": "1.2.3.4"}},
        {"allowOut": ["1.2.3.4"] * (MAX_NETWORKS + 1)},
    ],
)
def test_wrong_types_are_refused(message: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        network_rules_from_json(message)
    with pytest.raises(WireError):
        network_rules_of_create({"network": message})


def test_a_network_that_is_no_object_is_refused() -> None:
    with pytest.raises(WireError):
        network_rules_of_create({"network": ["1.2.3.4"]})


@pytest.mark.parametrize(
    ("message", "internet"),
    [
        ({}, None),
        ({"network": None}, None),
        ({"allowInternetAccess": True}, True),
        ({"network": {"allowInternetAccess": True}}, True),
        ({"allowInternetAccess": False, "network": {"allowInternetAccess": True}}, False),
        ({"allowInternetAccess": None, "network": {"allowInternetAccess": True}}, True),
    ],
)
def test_the_switch_of_create_may_stand_in_two_places(message: dict[str, Any], internet: bool | None) -> None:
    assert network_rules_of_create(message).internet is internet
