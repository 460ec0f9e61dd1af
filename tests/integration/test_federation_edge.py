"""The edge shows what a node needs and nothing else, and bounds what it takes."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from prometheus_client import CollectorRegistry

from moma_core.errors import FederationError
from moma_server.federation.edge import Edge, EdgeSettings
from moma_server.federation.engine_socket import EngineAddress
from moma_server.federation.loopback_tls import make_loopback_tls
from moma_server.metrics import EdgeMetrics
from tests.integration.edge_door import Door, answer_of


def heartbeat(door: Door) -> SendNodeHeartbeatRequest:
    return SendNodeHeartbeatRequest(node=door.site_a.node, heartbeat_interval=30)


def test_a_nodes_calls_pass_with_only_the_headers_that_matter(door: Door) -> None:
    headers = {**door.site_a.headers(), "x-forwarded-for": "10.0.0.1"}
    door.upstream.answers["send-node-heartbeat"] = b"\x08\x01"

    answer = door.call("send-node-heartbeat", heartbeat(door), headers=headers)

    assert answer.content == b"\x08\x01"
    assert "x-inside" not in answer.headers
    ((path, body, passed),) = door.upstream.requests
    assert path == "/v1/fleet/send-node-heartbeat"
    assert SendNodeHeartbeatRequest.FromString(body) == heartbeat(door)
    assert passed["flwr-signature"] == headers["flwr-signature"]
    assert "x-forwarded-for" not in passed


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/docs",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/pull-messages",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/get-fab",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet//pull-messages",
    ],
)
def test_everything_else_is_not_there(door: Door, path: str) -> None:
    before = door.refused("path")
    with door.client() as client:
        answer = client.post(path, content=b"body", headers=door.site_a.headers())

    assert answer.status_code == 404
    assert door.upstream.requests == []
    assert door.refused("path") == before + 1


def test_no_header_leads_elsewhere(door: Door) -> None:
    elsewhere = {**door.site_a.headers(), "host": "edge/v1/control/start-run?"}

    door.call("send-node-heartbeat", heartbeat(door), headers=elsewhere)

    assert door.upstream.asked == ["send-node-heartbeat"]


def test_only_posting_is_possible(door: Door) -> None:
    with door.client() as client:
        answer = client.get("/v1/fleet/pull-messages", headers=door.site_a.headers())

    assert answer.status_code == 404
    assert door.upstream.requests == []


def test_a_body_beyond_the_limit_is_refused_while_it_arrives(door: Door) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 300 << 20:
            sent += 65_536
            yield b"x" * 65_536

    with pytest.raises(httpx.HTTPError):
        door.call("push-object", endless()).raise_for_status()

    assert sent < 50 << 20
    assert door.upstream.requests == []


@pytest.mark.parametrize(
    ("length", "status"),
    [("1000000000", 413), ("5", 400), ("-1", 400), ("1e3", 400)],
)
def test_a_body_that_says_a_wrong_length_goes_nowhere(
    door: Door, length: str, status: int
) -> None:
    lines = [f"{name}: {value}" for name, value in door.site_a.headers().items()]
    head = ["POST /v1/fleet/push-object HTTP/1.1", "host: a", *lines]
    head.append(f"content-length: {length}")
    content = "\r\n".join(head).encode() + b"\r\n\r\n" + b"x" * 20
    context = ssl.create_default_context(cafile=str(door.files.ca))

    with (
        socket.create_connection(("127.0.0.1", door.edge.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(content)
        answer = connection.recv(100)

    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert door.upstream.requests == []


def test_a_small_call_has_a_small_limit(door: Door) -> None:
    before = door.refused("size")

    answer = door.call("pull-messages", b"x" * 5000)

    assert answer.status_code == 413
    assert door.refused("size") == before + 1
    assert door.upstream.requests == []


def test_a_body_that_never_ends_is_given_up(door: Door) -> None:
    def slow() -> Iterator[bytes]:
        yield b"x"
        threading.Event().wait(1.5)
        yield b"x"

    with pytest.raises(httpx.HTTPError):
        door.call("push-object", slow()).raise_for_status()

    assert door.upstream.requests == []


def unknown_field(door: Door) -> bytes:
    return heartbeat(door).SerializeToString() + b"\xfa\x01\x01x"


def nested_unknown_field(_door: Door) -> bytes:
    return b"\x0a\x04\x08\x07\x78\x01"


def two_nodes(door: Door) -> bytes:
    """Protobuf takes the last of two; another reader might take the first."""
    own = heartbeat(door).SerializeToString()
    return SendNodeHeartbeatRequest(node=door.site_b.node).SerializeToString() + own


def torn(_door: Door) -> bytes:
    return b"\xff\xff no protobuf"


@pytest.mark.parametrize("body", [unknown_field, nested_unknown_field, two_nodes, torn])
def test_what_cannot_be_read_whole_is_refused(door: Door, body: object) -> None:
    assert callable(body)

    answer = door.call("send-node-heartbeat", body(door))

    assert answer.status_code == 400
    assert door.upstream.requests == []


def deep(door: Door) -> bytes:
    """A tree of more levels than any parser should follow."""
    tree = ObjectTree(object_id="leaf").SerializeToString()
    for _ in range(150):
        length = len(tree)
        size = (
            bytes([length])
            if length < 128
            else bytes([length & 127 | 128, length >> 7])
        )
        tree = b"\x12" + size + tree
    request = answer_of(door.site_a)
    del request.message_object_trees[:]
    length = len(tree)
    size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return request.SerializeToString() + b"\x1a" + size + tree


def wide(door: Door) -> bytes:
    return answer_of(door.site_a, objects=6).SerializeToString()


def empty_parts(door: Door) -> bytes:
    """Two thousand objects in four thousand bytes."""
    request = answer_of(door.site_a)
    for _ in range(2000):
        request.message_object_trees[0].children.add()
    return request.SerializeToString()


@pytest.mark.parametrize(
    ("body", "status"), [(deep, 400), (wide, 413), (empty_parts, 413)]
)
def test_a_tree_of_too_many_objects_or_levels_is_refused(
    door: Door, body: object, status: int
) -> None:
    assert callable(body)
    door.offer(door.site_a, "question")

    answer = door.call("push-messages", body(door))

    assert answer.status_code == status
    assert door.upstream.requests == []


def test_an_upstream_that_fails_is_502_and_never_500(door: Door) -> None:
    door.upstream.status = 500
    failing = door.call("send-node-heartbeat", heartbeat(door)).status_code
    door.upstream.status = 403
    refusing = door.call("send-node-heartbeat", heartbeat(door)).status_code

    assert (failing, refusing) == (502, 403)


def test_an_answer_beyond_the_limit_is_not_passed_on(door: Door) -> None:
    door.upstream.answers["send-node-heartbeat"] = b"x" * 20_000

    answer = door.call("send-node-heartbeat", heartbeat(door))

    assert (answer.status_code, answer.content) == (502, b"")


def test_a_compressed_answer_is_not_passed_on(door: Door) -> None:
    door.upstream.headers["content-encoding"] = "gzip"

    answer = door.call("send-node-heartbeat", heartbeat(door))

    assert (answer.status_code, answer.content) == (502, b"")
    assert door.upstream.requests[0][2]["accept-encoding"] == "identity"


def test_an_answer_that_cannot_be_read_is_not_passed_on(door: Door) -> None:
    door.upstream.answers["pull-messages"] = b"\xff\xff"

    answer = door.call("pull-messages", PullMessagesRequest(node=door.site_a.node))

    assert (answer.status_code, answer.content) == (502, b"")


def test_bytes_are_counted_by_site_and_direction(door: Door) -> None:
    def counted(direction: str) -> float:
        labels = {"site": "site-a", "direction": direction}
        name = "moma_federation_edge_bytes_total"
        return door.registry.get_sample_value(name, labels) or 0.0

    body = heartbeat(door).SerializeToString()
    door.upstream.answers["send-node-heartbeat"] = b"\x08\x01"
    before = counted("received"), counted("sent")

    door.call("send-node-heartbeat", body)

    assert counted("received") == before[0] + len(body)
    assert counted("sent") == before[1] + 2


def test_one_node_cannot_have_all_calls(door: Door) -> None:
    def slow() -> Iterator[bytes]:
        threading.Event().wait(0.4)
        yield PushObjectRequest(node=door.site_a.node).SerializeToString()

    before = door.refused("busy")
    threads = [
        threading.Thread(target=lambda: door.call("push-object", slow()))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert door.refused("busy") > before
    assert door.call("send-node-heartbeat", heartbeat(door)).status_code == 200


def test_an_upstream_that_is_away_is_502(door: Door, tmp_path: Path) -> None:
    nobody = EngineAddress(tmp_path / "nobody", make_loopback_tls(tmp_path).certificate)
    settings = EdgeSettings(
        host="127.0.0.1",
        port=0,
        certificate=door.files.certificate,
        key=door.files.key,
    )
    edge = Edge(nobody, settings, EdgeMetrics(CollectorRegistry()))
    edge.know([door.site_a.known])
    edge.start()

    elsewhere = door._replace(edge=edge)
    status = elsewhere.call("send-node-heartbeat", heartbeat(door)).status_code
    edge.stop()

    assert status == 502


def test_tls_before_1_3_is_refused(door: Door) -> None:
    context = ssl.create_default_context(cafile=str(door.files.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with (
        socket.create_connection(("127.0.0.1", door.edge.port)) as plain,
        pytest.raises(ssl.SSLError),
        context.wrap_socket(plain, server_hostname="127.0.0.1"),
    ):
        pass


def test_an_address_in_use_is_named(door: Door) -> None:
    settings = EdgeSettings(
        host="127.0.0.1",
        port=door.edge.port,
        certificate=door.files.certificate,
        key=door.files.key,
    )
    second = Edge(door.upstream.address, settings, EdgeMetrics(CollectorRegistry()))

    with pytest.raises(FederationError, match=str(door.edge.port)):
        second.start()
