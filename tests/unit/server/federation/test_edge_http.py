"""Whose connection it is, where the edge counts those of one address."""

from types import SimpleNamespace

import pytest

from moma_server.federation.edge.http import _host


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),  # one customer's network
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
    ],
)
def test_the_addresses_of_one_network_are_one(
    one: str, other: str, are_one: bool
) -> None:
    hosts = [_host(SimpleNamespace(client=(host, 1))) for host in (one, other)]

    assert (hosts[0] == hosts[1]) is are_one
