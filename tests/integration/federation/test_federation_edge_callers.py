"""The edge serves the holders of known keys, each signature once, while admitted."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.supercore.error import FlowerError
from prometheus_client import CollectorRegistry

from moma_server.federation.edge.server import Edge, EdgeSettings
from moma_server.metrics.metrics import EdgeMetrics
from tests.support.federation.edge import Door, SigningNode, hold, hung_up
from tests.support.federation.world import wait_for
from tests.support.machine.waiting import promised


def heartbeat(node: SigningNode) -> SendNodeHeartbeatRequest:
    return SendNodeHeartbeatRequest(node=node.node, heartbeat_interval=30)


def test_a_signature_is_good_for_one_call(door: Door) -> None:
    headers = door.site_a.headers()
    first = door.call("send-node-heartbeat", heartbeat(door.site_a), headers=headers)

    same = door.call("send-node-heartbeat", heartbeat(door.site_a), headers=headers)
    other = door.call(
        "pull-messages", PullMessagesRequest(node=door.site_a.node), headers=headers
    )

    assert first.status_code == 200
    # the node tries again after these, with a new signature
    assert (same.status_code, other.status_code) == (503, 503)
    assert door.upstream.asked == ["send-node-heartbeat"]


def test_a_refused_call_uses_up_its_signature(door: Door) -> None:
    headers = door.site_a.headers()
    door.call("send-node-heartbeat", b"torn", headers=headers)

    answer = door.call("send-node-heartbeat", heartbeat(door.site_a), headers=headers)

    assert answer.status_code == 503
    assert door.upstream.requests == []


@pytest.mark.parametrize("seconds", [-310, 10])
def test_an_old_or_future_signature_is_refused(door: Door, seconds: int) -> None:
    at = datetime.now(UTC) + timedelta(seconds=seconds)

    answer = door.call(
        "send-node-heartbeat", heartbeat(door.site_a), headers=door.site_a.headers(at)
    )

    assert answer.status_code == 401
    assert door.upstream.requests == []


def changed(headers: dict[str, str], name: str, value: str | None) -> dict[str, str]:
    others = {k: v for k, v in headers.items() if k != name}
    return others if value is None else {**others, name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flwr-public-key", None),
        ("flwr-signature", None),
        ("flwr-timestamp", None),
        ("flwr-public-key", "@@@"),
        ("flwr-signature", "AAAA"),
        ("flwr-signature", "A" * 5000),
        ("flwr-timestamp", "2026-01-01"),
        ("flwr-timestamp", "9999-99-99T00:00:00+00:00"),
        pytest.param("flwr-timestamp", datetime.now(UTC).isoformat(), id="unsigned"),
    ],
)
def test_a_signature_that_does_not_fit_is_refused(
    door: Door, name: str, value: str | None
) -> None:
    headers = changed(door.site_a.headers(), name, value)

    answer = door.call("send-node-heartbeat", heartbeat(door.site_a), headers=headers)

    assert answer.status_code == 401
    assert door.upstream.requests == []


def test_a_header_that_stands_twice_is_refused(door: Door) -> None:
    ours, theirs = door.site_b.headers(), door.site_a.headers()
    doubled = [*theirs.items(), ("flwr-public-key", ours["flwr-public-key"])]

    with door.client() as client:
        answer = client.post(
            "/v1/fleet/send-node-heartbeat",
            content=heartbeat(door.site_a).SerializeToString(),
            headers=doubled,
        )

    assert answer.status_code == 401
    assert door.upstream.requests == []


def test_one_nodes_key_with_anothers_signature_is_refused(door: Door) -> None:
    headers = {
        **door.site_b.headers(),
        "flwr-public-key": door.site_a.headers()["flwr-public-key"],
    }

    answer = door.call("send-node-heartbeat", heartbeat(door.site_a), headers=headers)

    assert answer.status_code == 401
    assert door.upstream.requests == []


def test_a_strangers_body_is_not_even_read(door: Door) -> None:
    stranger = SigningNode("stranger", 99)
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 65_536
            yield b"x" * 65_536

    with pytest.raises(httpx.HTTPError):
        door.call(
            "push-object", body(), node=stranger, length=65_536_000
        ).raise_for_status()

    assert sent < 50 << 20
    assert door.refused("stranger") >= 1
    assert door.upstream.requests == []


@pytest.mark.parametrize("reason", ["stranger", "withdrawn"])
def test_a_site_that_is_not_served_is_told_so_when_it_says_hello(
    door: Door, reason: str
) -> None:
    node = door.site_a if reason == "withdrawn" else SigningNode("stranger", 99)
    door.withdrawn.add("site-a")
    request = ActivateNodeRequest(public_key=node.known.public_key)

    answer = door.call("activate-node", request, node=node)

    error = FlowerError.from_json(answer.text)
    assert error is not None
    assert "does not serve this node key" in error.message
    assert answer.status_code == 412  # upon which Flower's client gives up
    assert door.upstream.requests == []


def test_a_connection_belongs_to_the_node_that_used_it_first(door: Door) -> None:
    path = "/v1/fleet/send-node-heartbeat"
    with door.client() as client:
        answers = [
            client.post(
                path,
                content=heartbeat(node).SerializeToString(),
                headers=node.headers(),
            ).status_code
            for node in (door.site_a, door.site_a, door.site_b)
        ]

    assert answers == [200, 200, 401]
    assert door.refused("connection") >= 1


def test_a_site_that_was_withdrawn_is_refused_at_once(door: Door) -> None:
    door.withdrawn.add("site-a")

    theirs = door.call("send-node-heartbeat", heartbeat(door.site_a))
    others = door.call("send-node-heartbeat", heartbeat(door.site_b), node=door.site_b)

    assert (theirs.status_code, others.status_code) == (401, 200)
    assert len(door.upstream.requests) == 1


@pytest.mark.parametrize("shut_out", ["withdrawn", "unknown"])
def test_the_open_connections_of_a_site_that_is_served_no_more_are_closed(
    door: Door, shut_out: str
) -> None:
    body = heartbeat(door.site_a).SerializeToString()
    lines = [f"{name}: {value}" for name, value in door.site_a.headers().items()]
    head = ["POST /v1/fleet/send-node-heartbeat HTTP/1.1", "host: a", *lines]
    ask = "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body
    with hold(door, 1, ask) as (connection,):
        answer = connection.recv(1000)

        if shut_out == "withdrawn":
            door.withdrawn.add("site-a")
        else:
            door.edge.know([door.site_b.known])
        connection.settimeout(promised(5))
        end = hung_up(connection)

    assert answer.startswith(b"HTTP/1.1 200")
    assert end


def test_before_the_coordinator_has_spoken_nodes_are_told_to_come_again(
    door: Door,
) -> None:
    settings = EdgeSettings(
        host="127.0.0.1",
        port=0,
        certificate=door.files.certificate,
        key=door.files.key,
    )
    edge = Edge(door.upstream.address, settings, EdgeMetrics(CollectorRegistry()))
    edge.start()
    new = door._replace(edge=edge)

    early = new.call("send-node-heartbeat", heartbeat(door.site_a)).status_code
    edge.know([door.site_a.known])
    later = new.call("send-node-heartbeat", heartbeat(door.site_a)).status_code
    edge.stop()

    assert (early, later) == (503, 200)


def test_what_was_kept_of_a_node_goes_with_it(door: Door) -> None:
    headers = door.site_a.headers()
    door.call("send-node-heartbeat", heartbeat(door.site_a), headers=headers)
    kept = door.edge._callers._used

    door.edge.know([door.site_b.known])
    wait_for(
        lambda: door.site_a.known.public_key not in door.edge._callers._used,
        seconds=60,
    )

    assert door.site_a.known.public_key in kept
