"""An edge with something behind it, for the tests that knock at it."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import uvicorn
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moma_server.federation.edge import Edge
from moma_server.federation.engine_socket import (
    EngineAddress,
    make_socket_path,
    remove_socket_folder,
)
from moma_server.federation.loopback_tls import LoopbackTls
from tests.pki import CredentialFiles


class Upstream:
    """Stands where SuperLink stands, and remembers what got through to it."""

    def __init__(self, tls: LoopbackTls) -> None:
        self.requests: list[tuple[str, bytes, dict[str, str]]] = []
        self.status = 200
        self._socket = make_socket_path()
        self._certificate = tls.certificate

        async def answer(request: Request) -> Response:
            self.requests.append(
                (request.url.path, await request.body(), dict(request.headers))
            )
            headers = {"content-type": "application/protobuf", "x-inside": "secret"}
            return Response(b"answer", self.status, headers)

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

    @property
    def address(self) -> EngineAddress:
        return EngineAddress(self._socket, self._certificate)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        remove_socket_folder(self._socket)


class Door(NamedTuple):
    """An edge, what is behind it, and a site's way to it."""

    edge: Edge
    upstream: Upstream
    site: httpx.Client
    files: CredentialFiles


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
