"""The edge shows what a node needs and nothing else, and bounds what it takes."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import uvicorn
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moma_core.errors import FederationError
from moma_server.federation.edge import Edge, EdgeSettings
from moma_server.federation.loopback_tls import LoopbackTls, make_loopback_tls
from tests.pki import CredentialFiles, Pki


class Upstream:
    """Stands where SuperLink stands, and remembers what got through to it."""

    def __init__(self, tls: LoopbackTls) -> None:
        self.requests: list[tuple[str, bytes, dict[str, str]]] = []
        self.status = 200

        async def answer(request: Request) -> Response:
            self.requests.append(
                (request.url.path, await request.body(), dict(request.headers))
            )
            headers = {"content-type": "application/protobuf", "x-inside": "secret"}
            return Response(b"answer", self.status, headers)

        self._server = uvicorn.Server(
            uvicorn.Config(
                Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])]),
                host="127.0.0.1",
                port=0,
                ssl_certfile=tls.certificate,
                ssl_keyfile=tls.key,
                log_config=None,
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            threading.Event().wait(0.02)

    @property
    def address(self) -> str:
        (listening,) = self._server.servers[0].sockets
        return f"127.0.0.1:{listening.getsockname()[1]}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


class Door(NamedTuple):
    """An edge, what is behind it, and a site's way to it."""

    edge: Edge
    upstream: Upstream
    site: httpx.Client
    files: CredentialFiles


@pytest.fixture(scope="module")
def shared_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    tmp_path = tmp_path_factory.mktemp("edge")
    pki = Pki()
    credential = pki.issue("coordinator", "coordinator", hosts=("127.0.0.1",))
    files = pki.write(tmp_path / "coordinator", credential)
    tls = make_loopback_tls(tmp_path)
    upstream = Upstream(tls)
    settings = EdgeSettings(
        host="127.0.0.1",
        port=0,
        certificate=files.certificate,
        key=files.key,
        max_body_bytes=10_000,
        max_objects=5,
        body_seconds=0.5,
        request_seconds=0.5,
        max_connections=16,
        max_per_address=8,
    )
    edge = Edge(upstream.address, tls.certificate, settings)
    edge.start()
    context = ssl.create_default_context(cafile=str(files.ca))
    with httpx.Client(
        base_url=f"https://127.0.0.1:{edge.port}", verify=context, trust_env=False
    ) as site:
        yield Door(edge, upstream, site, files)
    edge.stop()
    upstream.stop()


@pytest.fixture
def door(shared_door: Door) -> Door:
    shared_door.upstream.requests.clear()
    shared_door.upstream.status = 200
    return shared_door


def push(
    *, caller: int = 7, source: int = 7, reply_to: str = "question", objects: int = 1
) -> bytes:
    tree = ObjectTree(object_id="0")
    tree.children.extend(ObjectTree(object_id=str(i)) for i in range(1, objects))
    metadata = Metadata(src_node_id=source, reply_to_message_id=reply_to)
    return PushMessagesRequest(
        node=Node(node_id=caller),
        messages_list=[Message(metadata=metadata)],
        message_object_trees=[tree],
    ).SerializeToString()


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


@contextlib.contextmanager
def hold(door: Door, count: int, content: bytes = b"") -> Iterator[list[ssl.SSLSocket]]:
    """Connects so often and asks for nothing."""
    context = ssl.create_default_context(cafile=str(door.files.ca))
    with contextlib.ExitStack() as stack:
        held = []
        for _ in range(count):
            plain = socket.create_connection(("127.0.0.1", door.edge.port), timeout=5)
            stack.enter_context(plain)
            held.append(context.wrap_socket(plain, server_hostname="127.0.0.1"))
            stack.enter_context(held[-1])
            if content:
                held[-1].sendall(content)
        yield held


def hung_up(connection: ssl.SSLSocket) -> bool:
    """Whether the other end hangs up within the socket's timeout."""
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


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


def test_an_upstream_that_fails_is_502_and_never_500(door: Door) -> None:
    door.upstream.status = 500
    failing = door.site.post("/v1/fleet/pull-messages").status_code
    door.upstream.status = 403
    refusing = door.site.post("/v1/fleet/pull-messages").status_code

    assert (failing, refusing) == (502, 403)


def test_an_upstream_that_is_away_is_502(door: Door, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{unused.getsockname()[1]}"
    settings = EdgeSettings(
        host="127.0.0.1",
        port=0,
        certificate=door.files.certificate,
        key=door.files.key,
    )
    edge = Edge(nobody, make_loopback_tls(tmp_path).certificate, settings)
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


def test_an_address_in_use_is_named(door: Door, tmp_path: Path) -> None:
    settings = EdgeSettings(
        host="127.0.0.1",
        port=door.edge.port,
        certificate=door.files.certificate,
        key=door.files.key,
    )
    second = Edge(door.upstream.address, make_loopback_tls(tmp_path)[0], settings)

    with pytest.raises(FederationError, match=str(door.edge.port)):
        second.start()
