"""The edge hangs up on peers that only hold connections."""

import threading

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest

from tests.support.federation.edge import HASTY_SECONDS, Door, hold, hung_up


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
