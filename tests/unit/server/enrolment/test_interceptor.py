"""How often an address may knock, and that strangers shut no member out."""

import pytest

from moma_server.enrolment.interceptor import RateLimiter, address_of
from tests.support.machine.clock import SecondsClock


def test_an_address_has_so_many_tries_and_gets_them_back_with_time() -> None:
    clock = SecondsClock()
    bounds = RateLimiter(6, clock)

    at_once = [bounds.allows("10.0.0.1") for _ in range(8)]
    clock.seconds = 10
    later = [bounds.allows("10.0.0.1") for _ in range(2)]

    assert at_once == [True] * 6 + [False] * 2
    assert later == [True, False]


def test_strangers_from_everywhere_share_a_bucket_and_a_members_try_is_its_own() -> (
    None
):
    bounds = RateLimiter(6, SecondsClock())

    strangers = [bounds.allows_strangers() for _ in range(200)]

    assert sum(strangers) == 60
    assert bounds.allows("192.0.2.7")


def test_the_number_of_addresses_costs_no_memory() -> None:
    bounds = RateLimiter(6, SecondsClock())

    for number in range(10_000):
        bounds.allows(str(number))

    assert len(bounds._buckets) <= 4096


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.7:40212", "192.0.2.7"),
        ("ipv6:%5B2001:db8::17%5D:40212", "2001:db8::/64"),
        ("ipv6:[2001:db8::99]:1", "2001:db8::/64"),
        ("ipv6:[::ffff:192.0.2.7]:1", "192.0.2.7"),
        ("unix:", "unix"),
    ],
)
def test_an_address_is_the_peers_without_its_port(peer: str, address: str) -> None:
    assert address_of(peer) == address
