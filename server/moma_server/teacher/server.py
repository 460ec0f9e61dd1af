"""Builds and runs the teacher's gRPC server."""

import asyncio
import logging

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from sqlalchemy.exc import SQLAlchemyError

from moma_core.audit.ledger import Ledger
from moma_core.errors import CertificateError, ConfigError, MomaError
from moma_core.pki.names import PEER_KINDS, PeerKind
from moma_core.teacher.card.bounds import Description
from moma_core.teacher.card.signed import SignedCard
from moma_proto.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from moma_proto.v1.teacher_pb2_grpc import add_TeacherServiceServicer_to_server
from moma_server.metrics.metrics import ServiceMetrics, TeacherMetrics
from moma_server.rpc.authorization import AuthInterceptor
from moma_server.teacher.end_to_end.identity import TeacherTrust
from moma_server.teacher.inference.backend import TeacherBackend
from moma_server.teacher.inference.batcher import Batcher
from moma_server.teacher.momentum.sessions import MomentumSessions
from moma_server.teacher.query.abandoned import MOST_TOGETHER, reap_abandoned
from moma_server.teacher.query.billing import billing_on
from moma_server.teacher.query.pipeline import AnswerLimits, TeacherServicer
from moma_server.teacher.query.policy_log import PolicyChangeLog
from moma_server.teacher.settings import (
    TeacherServerSettings,
    description_of,
    grpc_options,
)
from moma_server.teacher.wire.audit_servicer import AuditAnswers, AuditServicer
from moma_server.teacher.wire.relay_port import RelayedPolicy, RelayedPort
from moma_server.teacher.wire.servicer import SealedServicer
from moma_server.teacher.wire.unseal import SealedEndpoint

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

_LAST_CALLS_SECONDS = 1.0


class TeacherServer:
    """Serves a model to the sites of a federation, over mutual TLS 1.3.

    Construct it inside a running event loop.

    Args:
        settings: What is allowed.
        backend: The model.
        ledger: The sites' budgets and the log; stay the caller's to close.
        metrics: What the operator sees.
        trust: Whom to let in, and with which keys to speak.

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
        self._settings, self._trust = settings, trust
        description = description_of(settings, backend)
        name, digest = description.card.name, description.card.digest
        shown = metrics.teacher
        self._billing = billing_on(ledger, metrics, description.card, settings.rules)
        self._write_off = reap_abandoned(
            ledger, digest, settings.abandoned_after_seconds
        )
        self._policy_log = PolicyChangeLog(
            trust.end_to_end, settings.rules.policy, ledger
        )
        self._batcher = Batcher(
            backend,
            settings.queue,
            max_batch_patches=settings.max_batch_patches,
            metrics=shown,
        )
        self.sessions = MomentumSessions(settings.momentum, backend, self._batcher)
        calls = settings.call_bounds(of_one=settings.calls_per_peer)
        self._interceptor = AuthInterceptor(
            trust.policy, shown, teacher=name, bounds=calls
        )
        self._health = health.HealthServicer()
        self._minding: list[asyncio.Task[None]] = []
        self._server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=grpc_options(
                settings, description, streams=settings.calls_per_peer
            ),
            maximum_concurrent_rpcs=calls.of_grpc,
        )
        endpoint = SealedEndpoint(trust.end_to_end, description, shown, self._billing)
        self._audit = AuditServicer(AuditAnswers(ledger), endpoint)
        self._wire = self._servicer(description, endpoint, shown)
        self._add_services(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._relayed = self._relayed_port(shown, description)

    def _servicer(
        self,
        description: Description,
        endpoint: SealedEndpoint,
        metrics: TeacherMetrics,
    ) -> SealedServicer:
        limits = self._settings.stream
        teacher = TeacherServicer(
            description,
            self._billing,
            self._batcher,
            self.sessions,
            metrics,
            AnswerLimits(self._settings.rules.policy.outputs, limits.sync_seconds),
        )
        return SealedServicer(teacher, endpoint, limits)

    def _add_services(self, server: grpc.aio.Server) -> None:
        """Adds what is sealed end to end, and may come by a relay as well."""
        add_TeacherServiceServicer_to_server(self._wire, server)
        add_AuditServiceServicer_to_server(self._audit, server)

    def _relayed_port(
        self, metrics: TeacherMetrics, description: Description
    ) -> RelayedPort | None:
        settings = self._settings
        if settings.relayed_socket is None:
            return None
        calls = settings.call_bounds(of_one=settings.calls)
        name = description.card.name
        return RelayedPort(
            settings.relayed_socket,
            AuthInterceptor(
                RelayedPolicy(RELAYED), metrics, teacher=name, bounds=calls
            ),
            grpc_options(settings, description, streams=settings.calls),
            calls=calls.of_grpc,
            add_services=self._add_services,
        )

    def card(self) -> SignedCard:
        """Returns the card as a site is told it now."""
        return self._wire.card()

    async def start(self) -> int:
        """Begins to serve.

        Returns:
            The port; 0 where none is opened.

        Raises:
            ConfigError: The address cannot be listened at.
        """
        port = self._open_port()
        await self._keep_ledger()
        self._batcher.start()
        self._minding = [
            asyncio.create_task(self._sweep(), name="gate-sweep"),
            asyncio.create_task(self._look_after_keys(), name="sealing-keys"),
            asyncio.create_task(self._sign_anew(), name="checkpoints"),
        ]
        await self._server.start()
        if self._relayed is not None:
            await self._relayed.start()
        serving = health_pb2.HealthCheckResponse.SERVING
        await self._health.set(TEACHER_SERVICE, serving)
        if self._settings.host is None:
            _logger.info("the teacher serves through a relay, and opens no port")
        else:
            _logger.info("the teacher serves at %s:%d", self._settings.host, port)
        return port

    def _open_port(self) -> int:
        if self._settings.host is None:
            return 0
        address = f"{self._settings.host}:{self._settings.port}"
        try:
            credentials = self._trust.credentials.for_server()
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen at {address}: {error}") from None

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
        for task in self._minding:
            task.cancel()
        self.sessions.clear()
        await self._billing.stop()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            self._interceptor.sweep()
            self.sessions.sweep()

    async def _look_after_keys(self) -> None:
        """By a task of its own: a folder that hangs must not stop the sweep."""
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            try:
                await asyncio.to_thread(self._trust.end_to_end.sealing.look)
            except (CertificateError, OSError) as error:
                _logger.error("the sealing keys cannot be looked after: %s", error)

    async def _keep_ledger(self) -> None:
        await self._billing.refresh()  # all counters, before one of them moves
        self._policy_log.noted(await self._billing.write(self._policy_log.write))
        while await self._billing.write(self._write_off) == MOST_TOGETHER:
            pass

    async def _sign_anew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.checkpoint_seconds)
            try:
                await self._keep_ledger()
            except (SQLAlchemyError, MomaError) as error:
                _logger.error("the log cannot be signed anew: %s", error)
