"""The federation's public door: TLS, and of SuperLink only what a site's node needs.

SuperLink checks which node is calling. It does not check that a message comes from
the node that pushes it, and anyone may use its Control API: both end here.
"""

import asyncio
import logging
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from google.protobuf.message import DecodeError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from moma_core.errors import FederationError
from moma_core.federation.meter import most_parts
from moma_server.federation.edge_admission import EdgeAdmission, is_admitted
from moma_server.federation.edge_certificate import EdgeCertificate
from moma_server.federation.edge_protocol import EdgeLoop, EdgeServer, edge_protocol

_logger = logging.getLogger(__name__)

FLEET_CALLS = frozenset(
    {
        "activate-node",
        "confirm-message-received",
        "deactivate-node",
        "get-run",
        "pull-messages",
        "pull-object",
        "push-messages",
        "push-object",
        "send-node-heartbeat",
    }
)
_REQUEST_HEADERS = frozenset(
    {
        "accept",
        "content-type",
        "flwr-component-name",
        "flwr-package-name",
        "flwr-package-version",
        "flwr-public-key",
        "flwr-signature",
        "flwr-timestamp",
    }
)
_RESPONSE_HEADERS = frozenset({"content-type", "flwr-version-incompatibility-message"})
_START_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """Where the edge listens and what it takes.

    Args:
        host: To listen on.
        port: To listen on; 0 takes a free one.
        certificate: PEM, with its chain.
        key: PEM.
        passphrase_file: With which the key is encrypted; None: it is not.
        admission: Whose node may call; None: SuperLink alone decides.
        max_body_bytes: Of one request; Flower's objects are chunks of 5 MiB.
        max_objects: In one message: with `max_body_bytes` it bounds what one answer
            can fill SuperLink's disk with.
        body_seconds: For one request's body to arrive.
        request_seconds: For a request to begin, see `EdgeProtocol`.
        max_connections: At the same time; more are told to come again.
        max_per_address: Of these; more of one address are hung up on.
    """

    host: str
    port: int
    certificate: Path
    key: Path
    passphrase_file: Path | None = None
    admission: EdgeAdmission | None = None
    max_body_bytes: int = 6 << 20
    max_objects: int = most_parts(0)
    body_seconds: float = 60.0
    request_seconds: float = 15.0
    max_connections: int = 256
    max_per_address: int = 64


def edge_app(upstream: str, ca_certificate: Path, settings: EdgeSettings) -> Starlette:
    """Returns the edge in front of the SuperLink at `upstream` (host:port)."""
    client = httpx.AsyncClient(
        base_url=f"https://{upstream}",
        verify=ssl.create_default_context(cafile=str(ca_certificate)),
        timeout=60,
        limits=httpx.Limits(max_connections=settings.max_connections),
        trust_env=False,
    )

    async def fleet(request: Request) -> Response:
        call = request.path_params["call"]
        if call not in FLEET_CALLS:
            return _refusal(404)
        if not is_admitted(settings.admission, request.headers):
            return _refusal(401)  # as SuperLink's own: the node ends and starts again
        body = await _body(request, settings)
        if body is None:
            return _refusal(413)
        if call == "push-messages" and not _is_own_reply(body, settings.max_objects):
            _logger.warning("a message that is not its sender's own was refused")
            return _refusal(400)
        return await _forward(client, call, request, body)

    @asynccontextmanager
    async def life(_app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    def unknown(_request: Request, _error: Exception) -> Response:
        return _refusal(404)

    route = Route("/v1/fleet/{call}", fleet, methods=["POST"])
    app = Starlette(
        routes=[route],
        lifespan=life,
        exception_handlers={404: unknown, 405: unknown},
    )
    app.router.redirect_slashes = False
    return app


class Edge:
    """Serves the edge from a thread.

    Args:
        upstream: SuperLink's host:port.
        ca_certificate: Proves SuperLink's end.
        settings: What to listen on and to take.
    """

    def __init__(
        self, upstream: str, ca_certificate: Path, settings: EdgeSettings
    ) -> None:
        certificate = EdgeCertificate(
            settings.certificate, settings.key, settings.passphrase_file
        )
        config = uvicorn.Config(
            edge_app(upstream, ca_certificate, settings),
            host=settings.host,
            port=settings.port,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.key,
            ssl_keyfile_password=certificate.passphrase,
            http=edge_protocol(
                request_seconds=settings.request_seconds,
                max_per_address=settings.max_per_address,
            ),
            ws="none",
            limit_concurrency=settings.max_connections,
            timeout_keep_alive=75,  # longer than a quiet node's heartbeat
            timeout_graceful_shutdown=1,
            access_log=False,
            server_header=False,
            log_config=None,
        )
        config.load()
        if config.ssl is None:
            raise ValueError("the edge has no certificate")
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        self._server = EdgeServer(config, certificate, settings.admission)
        self._thread = threading.Thread(target=self._serve, name="edge", daemon=True)
        self._stopped = threading.Event()

    @property
    def port(self) -> int:
        """The port that it listens on; known after `start`."""
        for server in self._server.servers:
            for listening in server.sockets:
                port: int = listening.getsockname()[1]
                return port
        raise FederationError("the edge does not listen")

    def start(self) -> None:
        """Returns when the edge listens.

        Raises:
            FederationError: It could not listen on its address.
        """
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(_START_SECONDS / 0.05)):
            if self._server.started or self._stopped.is_set():
                break
            waited.wait(0.05)
        if not self._server.started or self._stopped.is_set():
            raise FederationError(
                f"cannot listen on {self._server.config.host}"
                f":{self._server.config.port}"
            )

    def stop(self) -> None:
        """Stops listening and hangs up."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=EdgeLoop) as runner:
                runner.run(self._server.serve())
        except SystemExit:
            _logger.error("the edge could not listen on its address")
        finally:
            self._stopped.set()


async def _body(request: Request, settings: EdgeSettings) -> bytes | None:
    """Reads the body, and stops reading when it is too long or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.max_body_bytes:
                    return None
    except (TimeoutError, ClientDisconnect):
        return None
    return bytes(body)


def _refusal(status: int) -> Response:
    """Ends the connection too, or the rest of an endless body would still be read."""
    return Response(status_code=status, headers={"connection": "close"})


def _is_own_reply(body: bytes, max_objects: int) -> bool:
    """Whether every message is the calling node's own answer to a question."""
    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError:
        return False
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        return False
    metadata = request.messages_list[0].metadata
    return (
        metadata.src_node_id == request.node.node_id
        and metadata.reply_to_message_id != ""
        and _size(request.message_object_trees[0]) <= max_objects
    )


def _size(tree: ObjectTree) -> int:
    waiting, size = [tree], 0
    while waiting:
        size += 1
        waiting.extend(waiting.pop().children)
    return size


async def _forward(
    client: httpx.AsyncClient, call: str, request: Request, body: bytes
) -> Response:
    headers = {
        name: value
        for name, value in request.headers.items()
        if name in _REQUEST_HEADERS
    }
    try:
        answer = await client.post(f"/v1/fleet/{call}", content=body, headers=headers)
    except httpx.TransportError:
        return Response(status_code=502)
    if answer.is_server_error:
        # a node ends on 500 and tries again on 502
        return Response(status_code=502)
    return Response(
        answer.content,
        answer.status_code,
        {
            name: value
            for name, value in answer.headers.items()
            if name in _RESPONSE_HEADERS
        },
    )
