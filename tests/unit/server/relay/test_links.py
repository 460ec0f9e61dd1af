"""Which replica serves a call, and who can change that."""

from contextlib import ExitStack
from unittest.mock import Mock

from moma_server.relay.limits import RelayBounds
from moma_server.relay.links import Link, Links


def test_a_site_that_names_many_threads_moves_nobody_elses_calls() -> None:
    """A momentum session ends where its calls come to another replica."""
    links = Links(lambda _: None)
    one, other = (Link(Mock(), RelayBounds()) for _ in range(2))
    with ExitStack() as stack:
        for link in (one, other):
            stack.enter_context(links.open("teacher-a", link))
        first = links.choose("teacher-a", "site-a", "session")
        assert first is one
        stack.enter_context(first.call())  # so that a new thread goes to the other

        for number in range(10_000):
            links.choose("teacher-a", "site-b", str(number))

        assert links.choose("teacher-a", "site-a", "session") is one
        assert links.choose("teacher-a", "site-a", "another") is other
        assert sum(map(len, links._chosen.values())) < 100
    assert not links._chosen
