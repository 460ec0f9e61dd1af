"""One call through the edge, top to bottom: who calls, what it holds, the response."""

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
from moma_core.federation.run_state import PATH
from moma_server.federation.edge.authentication import Callers, KnownNode
from moma_server.federation.edge.capabilities import Capabilities
from moma_server.federation.edge.http import EdgeProtocol
from moma_server.federation.edge.methods import FLEET_CALLS, CallLimits
from moma_server.federation.edge.notice import RunNotice
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
        body_seconds: Time for the body of a call to arrive.
        max_calls: Calls of one node at the same time; more get a 503.
        authorizes: Says whether a node of the federation may be served now.
    """

    limits: CallLimits
    body_seconds: float
    max_calls: int
    authorizes: Callable[[KnownNode], bool]


class FleetProxy:
    """What a node needs of SuperLink, and nothing else.

    Args:
        upstream: Makes the calls to SuperLink.
        callers: Says who calls.
        metrics: Metrics of bytes and refusals.
        notice: How the run stands, for who asks.
        settings: What is taken of a call.
    """

    def __init__(
        self,
        upstream: EdgeUpstream,
        callers: Callers,
        metrics: EdgeMetrics,
        notice: RunNotice,
        settings: ProxySettings,
    ) -> None:
        self._upstream = upstream
        self._callers = callers
        self._metrics = metrics
        self._notice = notice
        self._settings = settings
        self._capabilities = Capabilities(max_objects=8 * settings.limits.max_objects)
        self._calls: Counter[int] = Counter()
        self._warned_at: dict[tuple[str, Reason], float] = {}

    def app(self) -> Starlette:
        """Returns the proxy as a web application."""

        @asynccontextmanager
        async def life(_app: Starlette) -> AsyncIterator[None]:
            yield
            await self._upstream.close()

        def unknown(_request: Request, _error: Exception) -> Response:
            return self._refusal(EdgeRefusedError("path"))

        app = Starlette(
            routes=[
                Route("/v1/fleet/{call}", self._respond, methods=["POST"]),
                Route(PATH, self._report, methods=["POST"]),
            ],
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
        self._capabilities.keep(self._callers.forget_others())

    async def _respond(self, request: Request) -> Response:
        try:
            if request.path_params["call"] not in FLEET_CALLS:
                raise EdgeRefusedError("path")
            node = self._caller(request)
            with self._one_call(node):
                return await self._pass(request, node)
        except EdgeRefusedError as refused:
            return self._refusal(refused, request.path_params["call"])

    async def _report(self, request: Request) -> Response:
        """Says how the run stands to a node of the federation, and to nobody else."""
        try:
            node = self._caller(request)
            with self._one_call(node):
                await self._body(request, node, 0)
                state = self._notice.of(node.site)
        except EdgeRefusedError as refused:
            return self._refusal(refused)
        if state is None:
            return Response(status_code=503)
        return Response(state.to_json(), media_type="application/json")

    def _caller(self, request: Request) -> KnownNode:
        node = self._callers.caller(request.headers)
        if not self._authorizes(node):
            raise EdgeRefusedError("withdrawn", node.site)
        _bind(request, node)
        return node

    def _authorizes(self, node: KnownNode) -> bool:
        """Refuses everybody where it cannot be known who is authorized."""
        try:
            return self._settings.authorizes(node)
        except (MomaError, OSError) as error:
            _logger.error("no node is served: %s", error)
            return False

    async def _pass(self, request: Request, node: KnownNode) -> Response:
        name = request.path_params["call"]
        call, limits = FLEET_CALLS[name], self._settings.limits
        body = await self._body(request, node, call.most_bytes(limits))
        message = call.read(body, limits)
        call.check(message, node, self._capabilities)
        content = message.SerializeToString(deterministic=True)
        response = await self._upstream.call(name, content, _passed_on(request))
        if response is None:
            # a node ends on 500 and tries again on 502
            return Response(status_code=502)
        disclosed = response.content
        if response.status == 200:
            try:
                if call.record is not None:
                    call.record(message, response.content, node, self._capabilities)
                disclosed = call.disclose(response.content)
            except (DecodeError, FederationError, ValueError) as error:
                _logger.error("a response of SuperLink was not passed on: %s", error)
                return Response(status_code=502)
        self._metrics.bytes.labels(node.site, "sent").inc(len(disclosed))
        headers = {k: v for k, v in response.headers.items() if k in _RESPONSE_HEADERS}
        return Response(disclosed, response.status, headers)

    async def _body(self, request: Request, node: KnownNode, most_bytes: int) -> bytes:
        """Reads a body of the length that its head says, unless it is too slow."""
        if int(request.headers.get("content-length", 0)) > most_bytes:
            raise EdgeRefusedError("size", node.site)
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                async for chunk in request.stream():
                    self._metrics.bytes.labels(node.site, "received").inc(len(chunk))
                    body += chunk
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
            self._warn(refused.site, refused)
        close = {"connection": "close"}
        if call == "activate-node" and refused.reason in ("stranger", "withdrawn"):
            # of all refusals the one that a site can act on
            return JSONResponse(_NOT_SERVED, 412, close)
        return Response(status_code=refused.status, headers=close)

    def _warn(self, site: str, refused: EdgeRefusedError) -> None:
        """Says it once a minute: who is refused may come as often as he likes."""
        reason = refused.reason
        last = self._warned_at.get((site, reason))
        if last is None or time.monotonic() - last > _WARN_SECONDS:
            self._warned_at[site, reason] = time.monotonic()
            _logger.warning(
                "a call of %s was refused (%s): %s", site, reason, refused.meaning
            )


def _bind(request: Request, node: KnownNode) -> None:
    """Leaves a connection to the node that first used it."""
    connection: EdgeProtocol = request.state.connection
    if connection.caller not in (None, node):
        raise EdgeRefusedError("connection", node.site)
    connection.caller = node


def _passed_on(request: Request) -> dict[str, str]:
    names = [name for name in _REQUEST_HEADERS if name in request.headers]
    return {name: request.headers[name] for name in names}
