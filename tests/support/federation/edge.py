"""An edge with something behind it, for the tests that knock at it."""

import contextlib
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import httpx
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from google.protobuf.message import Message as ProtobufMessage
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moma_server.federation.edge.authentication import KnownNode
from moma_server.federation.edge.server import Edge
from moma_server.federation.engine.socket import EngineAddress
from moma_server.federation.engine.superlink import LoopbackTls
from moma_server.rpc.unix_socket import make_socket_path, remove_socket_folder
from tests.support.federation.pki import CredentialFiles

HASTY_SECONDS = 1.0  # what an edge waits that is made to hang up


class Upstream:
    """Stands where SuperLink stands, and remembers what got through to it."""

    def __init__(self, tls: LoopbackTls) -> None:
        self.requests: list[tuple[str, bytes, dict[str, str]]] = []
        self.forget()
        self._socket = make_socket_path("superlink.sock")
        self._certificate = tls.certificate

        async def answer(request: Request) -> Response:
            self.requests.append(
                (request.url.path, await request.body(), dict(request.headers))
            )
            headers = {"content-type": "application/protobuf", "x-inside": "secret"}
            answer = self.answers.get(request.url.path.rpartition("/")[2], b"")
            return Response(answer, self.status, {**headers, **self.headers})

        self._server = uvicorn.Server(
            uvicorn.Config(
                Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])]),
                uds=str(self._socket),
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

    def forget(self) -> None:
        """Answers nothing at all, well, and has been asked nothing."""
        self.requests.clear()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.answers: dict[str, bytes] = {}

    @property
    def asked(self) -> list[str]:
        """The calls that got through."""
        return [path.removeprefix("/v1/fleet/") for path, _, _ in self.requests]

    @property
    def address(self) -> EngineAddress:
        return EngineAddress(self._socket, self._certificate)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        remove_socket_folder(self._socket)


class SigningNode:
    """A site's node, as far as its calls are signed."""

    def __init__(self, site: str, node_id: int) -> None:
        self._key = ec.generate_private_key(ec.SECP384R1())
        public = public_key_to_bytes(self._key.public_key())
        self.known = KnownNode(site, node_id, public)
        self.node = Node(node_id=node_id)

    @property
    def public(self) -> bytes:
        """The public key in OpenSSH form, as a site hands it to the coordinator."""
        key = self._key.public_key()
        return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)

    def headers(self, at: datetime | None = None) -> dict[str, str]:
        """Signs a time, now if none is given."""
        timestamp = (at or datetime.now(UTC)).isoformat()
        signature = sign_message(self._key, timestamp.encode())
        return {
            "content-type": "application/protobuf",
            "flwr-public-key": b64encode(self.known.public_key).decode(),
            "flwr-timestamp": timestamp,
            "flwr-signature": b64encode(signature).decode(),
        }


Content = ProtobufMessage | bytes | Iterator[bytes]


class Door(NamedTuple):
    """An edge, what is behind it, the ways of two sites to it, and what it counts."""

    edge: Edge
    upstream: Upstream
    files: CredentialFiles
    registry: CollectorRegistry
    site_a: SigningNode
    site_b: SigningNode
    withdrawn: set[str]

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.edge.port}"

    def client(self) -> httpx.Client:
        """Returns a way to the edge with connections of its own."""
        context = ssl.create_default_context(cafile=str(self.files.ca))
        return httpx.Client(base_url=self.url, verify=context, trust_env=False)

    def call(
        self,
        name: str,
        content: Content,
        *,
        node: SigningNode | None = None,
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> httpx.Response:
        """Makes a call as site-a's node, or another, on a connection of its own.

        Where `content` comes in parts, `length` is what its head says of it.
        """
        if isinstance(content, ProtobufMessage):
            content = content.SerializeToString(deterministic=True)
        signed = (node or self.site_a).headers() if headers is None else headers
        if length is not None:
            signed = {**signed, "content-length": str(length)}
        with self.client() as client:
            return client.post(f"/v1/fleet/{name}", content=content, headers=signed)

    def offer(self, node: SigningNode, message_id: str, *object_ids: str) -> None:
        """Has SuperLink answer a node with a message, and the node take it."""
        self.upstream.answers["pull-messages"] = offer_of(message_id, *object_ids)
        pulled = self.call(
            "pull-messages", PullMessagesRequest(node=node.node), node=node
        )
        assert pulled.status_code == 200
        self.upstream.forget()

    def refused(self, reason: str) -> float:
        labels = {"reason": reason}
        name = "moma_federation_edge_refused_total"
        return self.registry.get_sample_value(name, labels) or 0.0


RUN = 5


def offer_of(message_id: str, *object_ids: str, ttl: float = 3600.0) -> bytes:
    """Returns SuperLink's answer to a node that asks for messages."""
    metadata = Metadata(
        run_id=RUN, message_id=message_id, created_at=time.time(), ttl=ttl
    )
    tree = ObjectTree(object_id=message_id)
    tree.children.extend(ObjectTree(object_id=name) for name in object_ids)
    return PullMessagesResponse(
        messages_list=[Message(metadata=metadata)], message_object_trees=[tree]
    ).SerializeToString()


def answer_of(
    node: SigningNode,
    *,
    reply_to: str = "question",
    source: int | None = None,
    destination: int = 1,
    run_id: int = RUN,
    objects: int = 1,
) -> PushMessagesRequest:
    """Returns a node's answer to a message."""
    tree = ObjectTree(object_id="answer")
    tree.children.extend(ObjectTree(object_id=str(i)) for i in range(1, objects))
    metadata = Metadata(
        run_id=run_id,
        message_id="answer",
        src_node_id=node.known.node_id if source is None else source,
        dst_node_id=destination,
        reply_to_message_id=reply_to,
    )
    return PushMessagesRequest(
        node=node.node,
        messages_list=[Message(metadata=metadata)],
        message_object_trees=[tree],
    )


@contextlib.contextmanager
def hold(door: Door, count: int, content: bytes = b"") -> Iterator[list[ssl.SSLSocket]]:
    """Connects so often and asks for nothing."""
    context = ssl.create_default_context(cafile=str(door.files.ca))
    with contextlib.ExitStack() as stack:
        held = []
        for _ in range(count):
            plain = socket.create_connection(("127.0.0.1", door.edge.port), timeout=120)
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
