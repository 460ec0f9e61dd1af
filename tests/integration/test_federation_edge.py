"""The edge shows what a node needs and nothing else, and bounds what it takes."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.node_pb2 import Node

from moma_core.errors import FederationError
from moma_server.federation.edge import Edge, EdgeSettings
from moma_server.federation.engine_socket import EngineAddress
from moma_server.federation.loopback_tls import make_loopback_tls
from tests.integration.edge_door import Door, push


def test_a_nodes_calls_pass_with_only_the_headers_that_matter(door: Door) -> None:
    headers = {
        "content-type": "application/protobuf",
        "flwr-signature": "signed",
        "x-forwarded-for": "10.0.0.1",
    }

    answer = door.site.post("/v1/fleet/pull-messages", content=b"body", headers=headers)

    assert answer.content == b"answer"
    assert "x-inside" not in answer.headers
    ((path, body, passed),) = door.upstream.requests
    assert (path, body) == ("/v1/fleet/pull-messages", b"body")
    assert passed["flwr-signature"] == "signed"
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
    answer = door.site.post(path, content=b"body")

    assert answer.status_code == 404
    assert door.upstream.requests == []


def test_no_header_leads_elsewhere(door: Door) -> None:
    elsewhere = {"host": "edge/v1/control/start-run?"}

    door.site.post("/v1/fleet/pull-messages", headers=elsewhere)

    assert [path for path, _, _ in door.upstream.requests] == [
        "/v1/fleet/pull-messages"
    ]


def test_only_posting_is_possible(door: Door) -> None:
    answer = door.site.get("/v1/fleet/pull-messages")

    assert answer.status_code == 404
    assert door.upstream.requests == []


@pytest.mark.parametrize(
    "body",
    [
        push(source=1),  # SuperLink's own id: it would look like the coordinator's
        push(source=8),
        push(reply_to=""),
        push(objects=6),
        PushMessagesRequest(node=Node(node_id=7)).SerializeToString(),
        b"\xff\xff no protobuf",
    ],
    ids=["superlink", "other-node", "no-question", "many-objects", "empty", "torn"],
)
def test_a_message_that_is_not_its_senders_own_answer_is_refused(
    door: Door, body: bytes
) -> None:
    answer = door.site.post("/v1/fleet/push-messages", content=body)

    assert answer.status_code == 400
    assert door.upstream.requests == []


def test_a_nodes_own_answer_passes(door: Door) -> None:
    answer = door.site.post("/v1/fleet/push-messages", content=push(objects=5))

    assert answer.status_code == 200
    assert door.upstream.requests[0][1] == push(objects=5)


def test_a_body_beyond_the_limit_is_refused_while_it_arrives(door: Door) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 300 << 20:
            sent += 65_536
            yield b"x" * 65_536

    with pytest.raises(httpx.HTTPError):
        door.site.post("/v1/fleet/push-object", content=endless()).raise_for_status()

    assert sent < 50 << 20
    assert door.upstream.requests == []


def test_a_body_that_never_ends_is_given_up(door: Door) -> None:
    def slow() -> Iterator[bytes]:
        yield b"x"
        threading.Event().wait(1.5)
        yield b"x"

    with pytest.raises(httpx.HTTPError):
        door.site.post("/v1/fleet/push-object", content=slow()).raise_for_status()

    assert door.upstream.requests == []


def test_an_upstream_that_fails_is_502_and_never_500(door: Door) -> None:
    door.upstream.status = 500
    failing = door.site.post("/v1/fleet/pull-messages").status_code
    door.upstream.status = 403
    refusing = door.site.post("/v1/fleet/pull-messages").status_code

    assert (failing, refusing) == (502, 403)


def test_an_upstream_that_is_away_is_502(door: Door, tmp_path: Path) -> None:
    nobody = EngineAddress(tmp_path / "nobody", make_loopback_tls(tmp_path).certificate)
    settings = EdgeSettings(
        host="127.0.0.1",
        port=0,
        certificate=door.files.certificate,
        key=door.files.key,
    )
    edge = Edge(nobody, settings)
    edge.start()

    url = f"https://127.0.0.1:{edge.port}/v1/fleet/pull-messages"
    status = door.site.post(url).status_code
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
    second = Edge(door.upstream.address, settings)

    with pytest.raises(FederationError, match=str(door.edge.port)):
        second.start()
