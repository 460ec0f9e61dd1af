"""Builds and runs the teacher's gRPC server."""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import timedelta

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from moma_core.audit.ledger import Ledger
from moma_core.errors import (
    CertificateError,
    ConfigError,
    MomaError,
    NotAuthorizedError,
)
from moma_core.network.address import address_of
from moma_core.pki.identity import PEER_KINDS, PeerKind
from moma_core.teacher.card.signed import SignedCard
from moma_proto.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from moma_proto.v1.teacher_pb2_grpc import add_TeacherServiceServicer_to_server
from moma_server.metrics.metrics import ServiceMetrics
from moma_server.relay.limits import RelayBounds
from moma_server.rpc.authorization import (
    AuthContext,
    AuthInterceptor,
    AuthorizationPolicy,
)
from moma_server.rpc.background import BackgroundTasks
from moma_server.rpc.limits import ConnectionBounds
from moma_server.teacher.end_to_end.endpoint import SealedEndpoint
from moma_server.teacher.end_to_end.identity import TeacherTrust
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.inference.batcher import Batcher
from moma_server.teacher.momentum.sessions import MomentumSessions
from moma_server.teacher.query.billing import BillingService
from moma_server.teacher.query.pipeline import QueryPipeline
from moma_server.teacher.query.upkeep import (
    PolicyChangeLog,
    keep_ledger,
    reap_abandoned,
)
from moma_server.teacher.settings import (
    TeacherServerSettings,
    description_of,
    grpc_options,
)
from moma_server.teacher.wire.audit_servicer import AuditServicer
from moma_server.teacher.wire.servicer import TeacherServicer

_logger = logging.getLogger(__name__)

TEACHER_SERVICE = "moma.v1.TeacherService"
AUDIT_SERVICE = "moma.v1.AuditService"
HEALTH_SERVICE = "grpc.health.v1.Health"

SERVED: dict[str, frozenset[PeerKind]] = {
    TEACHER_SERVICE: frozenset({"site"}),
    AUDIT_SERVICE: frozenset({"site"}),
    HEALTH_SERVICE: frozenset(PEER_KINDS),
}
"""Which kinds of parties each service is for."""

RELAYED = frozenset({TEACHER_SERVICE, AUDIT_SERVICE})
"""What a relay may call: services whose messages are sealed."""

_LONGEST = timedelta(milliseconds=2**31 - 1)
# a relay's connection ends with its link, which is watched and replaced by itself
_ENDLESS = ConnectionBounds(age=_LONGEST, idle=_LONGEST, ping=_LONGEST)

_LAST_CALLS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RelayedPolicy:
    """Lets a relay's calls in: without a certificate, the signature alone counts.

    Args:
        served: gRPC services whose messages are sealed and signed.
    """

    served: Collection[str]

    def authorize(self, _auth: AuthContext, service: str) -> None:
        """Names nobody: the site is known when a message is opened.

        Raises:
            NotAuthorizedError: The service is not served to a relay.
        """
        if service not in self.served:
            raise NotAuthorizedError(f"{service} is not served to a relay")


class TeacherServer:
    """Serves a model to the sites of a federation, over mutual TLS 1.3.

    Construct it inside a running event loop.

    Args:
        settings: What the server allows.
        backend: The model.
        ledger: The sites' budgets and the log; stay the caller's to close.
        metrics: What the operator sees.
        trust: Whose connections and messages are served, and the teacher's keys.

    Attributes:
        sessions: The momentum sessions that are open.

    Raises:
        ConfigError: A request cannot hold one patch of the model's size, or momentum
            sessions are on and the model cannot be copied.
    """

    def __init__(
        self,
        settings: TeacherServerSettings,
        backend: TeacherBackend,
        ledger: Ledger,
        metrics: ServiceMetrics,
        trust: TeacherTrust,
    ) -> None:
        self._settings, self._trust, self._metrics = settings, trust, metrics.teacher
        description, identity = description_of(settings, backend), trust.end_to_end
        card, rules = description.card, settings.rules
        self._billing = BillingService(ledger, metrics, card, rules)
        self._endpoint = SealedEndpoint(
            identity, description, self._metrics, self._billing.log_rejected
        )
        self._batcher = Batcher(
            backend,
            settings.queue,
            max_batch_patches=settings.max_batch_patches,
            metrics=self._metrics,
        )
        self.sessions = MomentumSessions(settings.momentum, backend, self._batcher)
        self._changes = PolicyChangeLog(identity, rules.policy, ledger)
        self._reap = reap_abandoned(
            ledger, card.digest, settings.abandoned_after_seconds
        )
        self._audit = AuditServicer(ledger, self._endpoint)
        self._teacher = self._servicer()
        self._health = health.HealthServicer()
        self._background = BackgroundTasks()
        self._server, self._interceptor = self._port(
            trust.policy, settings, streams=settings.calls.of_one
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._relayed = self._relayed_port()

    def _servicer(self) -> TeacherServicer:
        endpoint = self._endpoint
        outputs = self._settings.rules.policy.outputs
        pipeline = QueryPipeline(
            endpoint,
            self._billing,
            self._batcher,
            self.sessions,
            self._metrics,
            outputs,
        )
        limits = self._settings.stream
        return TeacherServicer(endpoint, pipeline, self._billing, self.sessions, limits)

    def _port(
        self,
        policy: AuthorizationPolicy,
        settings: TeacherServerSettings,
        *,
        streams: int,
    ) -> tuple[grpc.aio.Server, AuthInterceptor]:
        """Returns a server of what is sealed end to end, and its interceptor."""
        description, bounds = self._endpoint.description, settings.calls
        interceptor = AuthInterceptor(
            policy, self._metrics, teacher=description.card.name, bounds=bounds
        )
        server = grpc.aio.server(
            interceptors=[interceptor],
            options=grpc_options(settings, description, streams=streams),
            maximum_concurrent_rpcs=bounds.of_grpc,
        )
        add_TeacherServiceServicer_to_server(self._teacher, server)
        add_AuditServiceServicer_to_server(self._audit, server)
        return server, interceptor

    def _relayed_port(self) -> grpc.aio.Server | None:
        """Returns a server of its own for a relay's calls, at a private socket."""
        settings = self._settings
        if settings.relayed_socket is None:
            return None
        calls = replace(settings.calls, of_one=settings.calls.of_all)
        settings = replace(settings, calls=calls, connections=_ENDLESS)
        server, _ = self._port(
            RelayedPolicy(RELAYED), settings, streams=RelayBounds().calls
        )
        return server

    def card(self) -> SignedCard:
        """Returns the card as sites get it now."""
        return self._endpoint.card()

    async def start(self) -> int:
        """Begins to serve.

        Returns:
            The port; 0 where none is opened.

        Raises:
            ConfigError: The address cannot be listened at.
        """
        port = self._open_port()
        await self._keep_ledger()
        self._batcher.start(self._background)
        self._background.start(self._sweep(), "authorization-sweep")
        self._background.start(self._rotate_keys(), "sealing-keys")
        self._background.start(self._sign_anew(), "checkpoints")
        await self._server.start()
        if self._relayed is not None:
            await self._relayed.start()
        serving = health_pb2.HealthCheckResponse.SERVING
        await self._health.set(TEACHER_SERVICE, serving)
        if self._settings.host is None:
            _logger.info("the teacher serves through a relay, and opens no port")
        else:
            at = address_of(self._settings.host, port)
            _logger.info("the teacher serves at %s", at)
        return port

    def _open_port(self) -> int:
        settings, port = self._settings, 0
        address = f"unix:{settings.relayed_socket}"
        try:
            if self._relayed is not None:
                self._relayed.add_insecure_port(address)
            if settings.host is not None:
                address = address_of(settings.host, settings.port)
                credentials = self._trust.credentials.for_server()
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen at {address}: {error}") from None
        return port

    async def wait_for_termination(self) -> None:
        """Waits until the server was stopped.

        Raises:
            Exception: What it does beside its calls ended by it; stop the server then.
        """
        await self._background.wait()

    async def stop(self, grace_seconds: float) -> None:
        """Answers what was accepted, refuses what is new, and stops.

        Args:
            grace_seconds: After which what is left is failed.
        """
        await self._health.enter_graceful_shutdown()
        await self._batcher.close(grace_seconds)
        if self._relayed is not None:
            await self._relayed.stop(_LAST_CALLS_SECONDS)
        await self._server.stop(_LAST_CALLS_SECONDS)
        await self._interceptor.emptied(_LAST_CALLS_SECONDS)
        self._background.cancel()
        self.sessions.clear()
        await self._billing.stop()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            self._interceptor.sweep()
            self.sessions.sweep()

    async def _rotate_keys(self) -> None:
        """By a task of its own: a folder that hangs must not stop the sweep."""
        sealing = self._trust.end_to_end.sealing
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            try:
                await asyncio.to_thread(sealing.rotate_if_due)
            except (MomaError, OSError) as error:
                _logger.error("the sealing keys cannot be rotated: %s", error)

    async def _keep_ledger(self) -> None:
        """Keeps the ledger while the own certificate is good.

        What a log has dated with a wrong clock cannot be taken back. By a clock that is
        a year ahead the own certificate is over: nobody connects anew by then.
        """
        try:
            self._trust.credentials.check_time()
        except CertificateError as error:
            _logger.error("the log is not signed: %s", error)
            return
        await keep_ledger(self._billing, self._changes, self._reap)

    async def _sign_anew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.checkpoint_seconds)
            try:
                await self._keep_ledger()
            except MomaError as error:
                _logger.error("the log cannot be signed anew: %s", error)
