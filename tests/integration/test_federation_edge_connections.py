"""The edge hangs up on peers that only hold connections."""

import threading

import pytest

from tests.integration.edge_door import Door, hold, hung_up


@pytest.mark.parametrize(
    "content",
    [b"", b"POST /v1/fleet/pull-messages HTTP/1.1\r\n"],
    ids=["silent", "half-a-head"],
)
def test_who_never_asks_is_hung_up_on(door: Door, content: bytes) -> None:
    with hold(door, 3, content) as held:
        ends = [hung_up(connection) for connection in held]

    assert ends == [True, True, True]
    assert door.upstream.requests == []


def test_a_head_that_dribbles_after_an_answer_is_given_up(door: Door) -> None:
    head = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: a\r\n"
    ask = head + b"content-length: 0\r\n\r\n"
    with hold(door, 1, ask) as (connection,):
        answer = connection.recv(1000)
        while not answer.endswith(b"answer"):
            answer += connection.recv(1000)
        connection.sendall(b"POST /v1")

        end = hung_up(connection)

    assert answer.startswith(b"HTTP/1.1 200")
    assert end


def test_one_address_cannot_take_all_connections(door: Door) -> None:
    with hold(door, 20) as held:
        held[-1].settimeout(0.3)
        last = hung_up(held[-1])

    assert last


def test_a_nodes_connection_outlives_the_wait_for_a_request(door: Door) -> None:
    first = door.site.post("/v1/fleet/pull-messages")
    threading.Event().wait(0.8)
    second = door.site.post("/v1/fleet/pull-messages")

    assert (first.status_code, second.status_code) == (200, 200)
