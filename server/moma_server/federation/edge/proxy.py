"""One call through the edge, top to bottom: who calls, what it says, the answer."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from flwr.supercore.error import ApiErrorCode, FlowerError
from google.protobuf.message import DecodeError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moma_core.errors import FederationError, MomaError
from moma_server.federation.edge.authentication import Callers, KnownNode
from moma_server.federation.edge.capabilities import Capabilities
from moma_server.federation.edge.http import EdgeProtocol
from moma_server.federation.edge.methods import FLEET_CALLS, CallLimits
from moma_server.federation.edge.refusal import EdgeRefusedError, Reason
from moma_server.federation.edge.upstream import EdgeUpstream
from moma_server.metrics.metrics import EdgeMetrics

_logger = logging.getLogger(__name__)

_REQUEST_HEADERS = (
    "accept",
    "content-type",
    "flwr-component-name",
    "flwr-package-name",
    "flwr-package-version",
    "flwr-public-key",
    "flwr-signature",
    "flwr-timestamp",
)
_RESPONSE_HEADERS = frozenset({"content-type", "flwr-version-incompatibility-message"})
_WARN_SECONDS = 60.0
_NOT_SERVED = FlowerError(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED, "").to_json(
    "The coordinator does not serve this node key (any more)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """What the edge takes of a call.

    Args:
        limits: How much one call may be.
        body_seconds: For its body to arrive.
        max_calls: Of one node at the same time; more are told to come again.
        admits: Whether a node that belongs to the federation may be served now.
    """

    limits: CallLimits
    body_seconds: float
    max_calls: int
    authorizes: Callable[[KnownNode], bool]


class FleetProxy:
    """What a node needs of SuperLink, and nothing else.

    Args:
        upstream: SuperLink.
        callers: Who may call.
        metrics: Where bytes and refusals are counted.
        settings: What is taken.
    """

    def __init__(
        self,
        upstream: EdgeUpstream,
        callers: Callers,
        metrics: EdgeMetrics,
        settings: ProxySettings,
    ) -> None:
        self._upstream = upstream
        self._callers = callers
        self._metrics = metrics
        self._settings = settings
        self._offers = Capabilities(max_objects=8 * settings.limits.max_objects)
        self._calls: Counter[int] = Counter()
        self._warned_at: dict[tuple[str, Reason], float] = {}

    def app(self) -> Starlette:
        """Returns the door as a web application."""

        @asynccontextmanager
        async def life(_app: Starlette) -> AsyncIterator[None]:
            yield
            await self._upstream.close()

        def unknown(_request: Request, _error: Exception) -> Response:
            return self._refusal(EdgeRefusedError("path"))

        app = Starlette(
            routes=[Route("/v1/fleet/{call}", self._answer, methods=["POST"])],
            lifespan=life,
            exception_handlers={404: unknown, 405: unknown},
        )
        app.router.redirect_slashes = False
        return app

    def still_serves(self, node: KnownNode) -> bool:
        """Whether an open connection of a node may stay."""
        return self._callers.knows(node) and self._authorizes(node)

    def forget(self) -> None:
        """Drops what was kept of nodes that are gone."""
        self._offers.keep(self._callers.forget_others())

    async def _answer(self, request: Request) -> Response:
        try:
            if request.path_params["call"] not in FLEET_CALLS:
                raise EdgeRefusedError("path")
            node = self._callers.caller(request.headers)
            if not self._authorizes(node):
                raise EdgeRefusedError("withdrawn", node.site)
            _bind(request, node)
            with self._one_call(node):
                return await self._pass(request, node)
        except EdgeRefusedError as refused:
            return self._refusal(refused, request.path_params["call"])

    def _authorizes(self, node: KnownNode) -> bool:
        """Nobody is admitted where it cannot be told who is."""
        try:
            return self._settings.authorizes(node)
        except (MomaError, OSError) as error:
            _logger.error("no node is served: %s", error)
            return False

    async def _pass(self, request: Request, node: KnownNode) -> Response:
        name = request.path_params["call"]
        call, limits = FLEET_CALLS[name], self._settings.limits
        body = await self._body(request, node, call.most_bytes(limits))
        said = call.read(body, limits)
        call.check(said, node, self._offers)
        content = said.SerializeToString(deterministic=True)
        answer = await self._upstream.ask(name, content, _passed_on(request))
        if answer is None:
            # a node ends on 500 and tries again on 502
            return Response(status_code=502)
        told = answer.content
        if answer.status == 200:
            try:
                if call.note is not None:
                    call.note(said, answer.content, node, self._offers)
                told = call.tell(answer.content)
            except (DecodeError, FederationError, ValueError) as error:
                _logger.error("an answer of SuperLink's was not passed on: %s", error)
                return Response(status_code=502)
        self._metrics.bytes.labels(node.site, "sent").inc(len(told))
        headers = {k: v for k, v in answer.headers.items() if k in _RESPONSE_HEADERS}
        return Response(told, answer.status, headers)

    async def _body(self, request: Request, node: KnownNode, most_bytes: int) -> bytes:
        """Reads the body, and stops reading when it is too long or too slow."""
        if int(request.headers.get("content-length", 0)) > most_bytes:
            raise EdgeRefusedError("size", node.site)
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                async for chunk in request.stream():
                    self._metrics.bytes.labels(node.site, "received").inc(len(chunk))
                    body += chunk
                    if len(body) > most_bytes:
                        raise EdgeRefusedError("size", node.site)
        except (TimeoutError, ClientDisconnect) as error:
            raise EdgeRefusedError("slow", node.site) from error
        return bytes(body)

    @contextmanager
    def _one_call(self, node: KnownNode) -> Iterator[None]:
        if self._calls[node.node_id] >= self._settings.max_calls:
            raise EdgeRefusedError("busy", node.site)
        self._calls[node.node_id] += 1
        try:
            yield
        finally:
            self._calls[node.node_id] -= 1
            self._calls += Counter()  # without those that have none

    def _refusal(self, refused: EdgeRefusedError, call: str = "") -> Response:
        """Ends the connection too, or the rest of a body would still be read."""
        self._metrics.refused.labels(refused.reason).inc()
        if refused.site is not None:
            self._warn(refused.site, refused.reason)
        close = {"connection": "close"}
        if call == "activate-node" and refused.reason in ("stranger", "withdrawn"):
            # of all that is refused, the one thing that a site can do something about
            return JSONResponse(_NOT_SERVED, 412, close)
        return Response(status_code=refused.status, headers=close)

    def _warn(self, site: str, reason: Reason) -> None:
        """Says it once a minute: who is refused may come as often as he likes."""
        last = self._warned_at.get((site, reason))
        if last is None or time.monotonic() - last > _WARN_SECONDS:
            self._warned_at[site, reason] = time.monotonic()
            _logger.warning("a call of %s was refused: %s", site, reason)


def _bind(request: Request, node: KnownNode) -> None:
    """Leaves a connection to the node that first used it."""
    connection: EdgeProtocol = request.state.connection
    if connection.caller not in (None, node):
        raise EdgeRefusedError("connection", node.site)
    connection.caller = node


def _passed_on(request: Request) -> dict[str, str]:
    names = [name for name in _REQUEST_HEADERS if name in request.headers]
    return {name: request.headers[name] for name in names}
