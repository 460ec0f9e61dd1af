"""Requests that cost their sender little, and what a server makes of them."""

import h11
import pytest

TINY_CHUNKS = b"transfer-encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 40_000
"""The end of a head, and a body of which each byte would be an event."""

MOST_EVENTS = 50
"""Events that a refused request may cost."""


def counted_events(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Returns a list that gets each event of every HTTP server of this process."""
    events: list[object] = []
    parse = h11.Connection.next_event

    def next_event(self: h11.Connection) -> object:
        events.append(event := parse(self))
        return event

    monkeypatch.setattr(h11.Connection, "next_event", next_event)
    return events
