"""The edge hangs up on peers that only hold connections."""

import ssl
import threading

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest

from tests.support.federation.edge import HASTY_SECONDS, Door, hold, hung_up
from tests.support.machine.http_floods import MOST_EVENTS, TINY_CHUNKS, counted_events
from tests.support.machine.metrics_page import asked


def any_host(door: Door) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(door.files.ca))
    context.check_hostname = False
    return context


@pytest.mark.parametrize(
    "content",
    [b"", b"POST /v1/fleet/pull-messages HTTP/1.1\r\n"],
    ids=["silent", "half-a-head"],
)
def test_who_never_asks_is_hung_up_on(hasty_door: Door, content: bytes) -> None:
    with hold(hasty_door, 3, content) as held:
        ends = [hung_up(connection) for connection in held]

    assert ends == [True, True, True]
    assert hasty_door.upstream.requests == []


def test_a_head_that_dribbles_after_an_answer_is_given_up(hasty_door: Door) -> None:
    body = PullMessagesRequest(node=hasty_door.site_a.node).SerializeToString()
    lines = [f"{name}: {value}" for name, value in hasty_door.site_a.headers().items()]
    head = ["POST /v1/fleet/pull-messages HTTP/1.1", "host: a", *lines]
    ask = "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body
    with hold(hasty_door, 1, ask) as (connection,):
        answer = connection.recv(1000)
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(1000)
        connection.sendall(b"POST /v1")

        end = hung_up(connection)

    assert answer.startswith(b"HTTP/1.1 200")
    assert end


def test_a_strangers_tiny_chunks_are_not_parsed(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = counted_events(monkeypatch)
    head = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: a\r\n"

    found = asked(door.edge.port, head + TINY_CHUNKS, any_host(door))

    assert len(events) < MOST_EVENTS
    assert found.status in {400, 0}


def test_a_strangers_many_headers_are_not_parsed(door: Door) -> None:
    head = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: a\r\n"

    found = asked(door.edge.port, head + b"a:\r\n" * 4000 + b"\r\n", any_host(door))

    assert found.status in {400, 0}  # a head that is parsed gets a 401


def test_one_address_cannot_take_all_connections(door: Door) -> None:
    with hold(door, 20) as held:
        last = hung_up(held[-1])

    assert last


def test_a_nodes_connection_outlives_the_wait_for_a_request(hasty_door: Door) -> None:
    content = PullMessagesRequest(node=hasty_door.site_a.node).SerializeToString()
    path = "/v1/fleet/pull-messages"
    with hasty_door.client() as client:
        first = client.post(path, content=content, headers=hasty_door.site_a.headers())
        threading.Event().wait(1.5 * HASTY_SECONDS)
        second = client.post(path, content=content, headers=hasty_door.site_a.headers())

    assert (first.status_code, second.status_code) == (200, 200)
