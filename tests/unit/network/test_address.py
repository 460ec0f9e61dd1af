"""Addresses of configs: names, IPv4, and IPv6 in brackets."""

import pytest
from pydantic import TypeAdapter, ValidationError

from moma_core.errors import FederationError
from moma_core.network.address import (
    Address,
    address_of,
    bare_host,
    endpoint_of,
    is_wildcard,
)

_READ = TypeAdapter(Address)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("coordinator.example:8443", "coordinator.example", 8443),
        ("my_host:1", "my_host", 1),
        ("192.0.2.7:8444", "192.0.2.7", 8444),
        ("[::1]:8443", "::1", 8443),
        ("[2001:db8::7]:65535", "2001:db8::7", 65535),
        ("[::ffff:192.0.2.7]:8443", "::ffff:192.0.2.7", 8443),
    ],
)
def test_an_address_is_taken_apart_and_put_together(
    address: str, host: str, port: int
) -> None:
    assert endpoint_of(address) == (host, port)
    assert address_of(host, port) == address
    assert _READ.validate_python(address) == address


@pytest.mark.parametrize(
    "address",
    ["host", "host:", ":8443", "host:0", "host:65536", "host:http", "[::1]", "[]:8443"],
)
def test_what_is_none_is_refused(address: str) -> None:
    with pytest.raises((FederationError, ValidationError)):
        _READ.validate_python(address)


@pytest.mark.parametrize("address", ["https://host:8443", "host/x:8443", "a b:8443"])
def test_a_config_takes_no_url_for_an_address(address: str) -> None:
    with pytest.raises(ValidationError, match="no address of the form host:port"):
        _READ.validate_python(address)


def test_a_bare_ipv6_address_is_told_where_its_brackets_go() -> None:
    with pytest.raises(FederationError, match=r"in brackets, \[2001:db8::7\]:8443"):
        endpoint_of("2001:db8::7:8443")


@pytest.mark.parametrize("address", [":8445", "8445"])
def test_a_port_alone_is_told_to_take_a_host(address: str) -> None:
    with pytest.raises(FederationError, match="put the host before it, host:8445"):
        endpoint_of(address)


def test_brackets_are_no_part_of_a_host() -> None:
    assert [bare_host(host) for host in ("[::1]", "::1", "host")] == [
        "::1",
        "::1",
        "host",
    ]


def test_all_addresses_of_a_machine_are_told_from_one() -> None:
    hosts = ("0.0.0.0", "::", "127.0.0.1", "::1", "host")

    assert [is_wildcard(host) for host in hosts] == [True, True, False, False, False]
