"""The edge shows what a node needs and nothing else, and bounds what it takes."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PushObjectRequest
from prometheus_client import CollectorRegistry

from moma_core.errors import FederationError
from moma_server.federation.edge.server import Edge, EdgeSettings
from moma_server.federation.engine.socket import EngineAddress
from moma_server.federation.engine.superlink import make_loopback_tls
from moma_server.metrics.metrics import EdgeMetrics
from tests.support.federation.edge import Door


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
    body = PushObjectRequest(node=door.site_a.node).SerializeToString()

    def slow() -> Iterator[bytes]:
        threading.Event().wait(0.4)
        yield body

    def push() -> None:
        door.call("push-object", slow(), length=len(body))

    before = door.refused("busy")
    threads = [threading.Thread(target=push) for _ in range(5)]
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
