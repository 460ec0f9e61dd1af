"""Builds and runs the teacher's gRPC server."""

import asyncio
import logging
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from sqlalchemy.exc import SQLAlchemyError

from moma_core.audit.books import Books
from moma_core.errors import ConfigError
from moma_core.teacher.issued_card import SignedCard
from moma_core.teacher.momentum_update import CHUNK_BYTES
from moma_core.teacher.query import (
    Description,
    RequestBounds,
    largest_answer_bytes,
)
from moma_core.trust.names import PEER_KINDS, PeerKind
from moma_core.trust.sealed_exchange import SEALING_BYTES
from moma_proto.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from moma_proto.v1.teacher_pb2_grpc import add_TeacherServiceServicer_to_server
from moma_server.metrics import ServiceMetrics, TeacherMetrics
from moma_server.teacher.admission import Gate
from moma_server.teacher.audit_servicer import AuditAnswers, AuditServicer
from moma_server.teacher.backend import TeacherBackend
from moma_server.teacher.batcher import Batcher
from moma_server.teacher.charging import charging_on
from moma_server.teacher.fair_queue import QueueBounds
from moma_server.teacher.momentum_policy import MomentumPolicy
from moma_server.teacher.relayed import RelayedPolicy, RelayedPort
from moma_server.teacher.sealed_desk import SealedDesk
from moma_server.teacher.sealed_servicer import SealedServicer, StreamLimits
from moma_server.teacher.servicer import TeacherServicer
from moma_server.teacher.sessions import MomentumSessions
from moma_server.teacher.trust import TeacherTrust

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherServerSettings:
    """What a teacher's server allows.

    Args:
        host: To listen at.
        port: To listen at; 0 takes a free one.
        max_patches_per_request: N of one request at most; fewer where its message
            would be too large, or too large for a site's share of the queue.
        max_batch_patches: Of one pass of the model; no request is larger.
        queue: How much may wait for the model.
        stream: What one stream may hold.
        momentum: What a session that follows a student may do; None: there are none.
        calls_per_peer: Open at once, of one party.
        calls: Open at once, of all.
        connection_age: After which a connection is replaced, and its handshake made
            anew; calls on it have `connection_grace` to finish.
        connection_grace: See `connection_age`.
        sweep_seconds: Between two checks of the open calls' certificates.
        checkpoint_seconds: After which the log is signed anew.
        relayed_socket: Where a relay on this machine brings calls, without a
            certificate; None: nowhere.
    """

    host: str | None = "127.0.0.1"
    port: int = 0
    max_patches_per_request: int = 256
    max_batch_patches: int = 256
    queue: QueueBounds = field(default_factory=QueueBounds)
    stream: StreamLimits = field(default_factory=StreamLimits)
    momentum: MomentumPolicy | None = None
    calls_per_peer: int = 8
    calls: int = 256
    connection_age: timedelta = timedelta(hours=1)
    connection_grace: timedelta = timedelta(minutes=10)
    sweep_seconds: float = 1.0
    checkpoint_seconds: float = 60.0
    relayed_socket: Path | None = None

    def __post_init__(self) -> None:
        if self.max_patches_per_request > self.max_batch_patches:
            raise ValueError(
                f"a request of {self.max_patches_per_request} patches does not fit "
                f"a batch of {self.max_batch_patches}"
            )


class TeacherServer:
    """Serves a model to the sites of a federation, over mutual TLS 1.3.

    Construct it inside a running event loop.

    Args:
        settings: What is allowed.
        backend: The model.
        books: The sites' budgets and the log; stay the caller's to close.
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
        books: Books,
        metrics: ServiceMetrics,
        trust: TeacherTrust,
    ) -> None:
        self._settings, self._trust = settings, trust
        description = _description(settings, backend)
        name, shown = description.card.name, metrics.teacher
        self._charging = charging_on(books, metrics, description.card)
        self._batcher = Batcher(
            backend,
            settings.queue,
            max_batch_patches=settings.max_batch_patches,
            metrics=shown,
        )
        self.sessions = MomentumSessions(settings.momentum, backend, self._batcher)
        self._gate = Gate(
            trust.policy, shown, teacher=name, calls_per_peer=settings.calls_per_peer
        )
        self._health = health.HealthServicer()
        self._minding: list[asyncio.Task[None]] = []
        options = _options(settings, description)
        self._server = grpc.aio.server(
            interceptors=[self._gate],
            options=options,
            maximum_concurrent_rpcs=settings.calls,
        )
        desk = SealedDesk(trust.end_to_end, description, shown, self._charging)
        self._audit = AuditServicer(AuditAnswers(books), desk)
        self._wire = self._servicer(description, desk, shown)
        self._add_services(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._relayed = self._relayed_port(shown, name, options)

    def _servicer(
        self, description: Description, desk: SealedDesk, metrics: TeacherMetrics
    ) -> SealedServicer:
        limits = self._settings.stream
        teacher = TeacherServicer(
            description,
            self._charging,
            self._batcher,
            self.sessions,
            metrics,
            limits.sync_seconds,
        )
        return SealedServicer(teacher, desk, limits)

    def _add_services(self, server: grpc.aio.Server) -> None:
        """Adds what is sealed end to end, and may come by a relay as well."""
        add_TeacherServiceServicer_to_server(self._wire, server)
        add_AuditServiceServicer_to_server(self._audit, server)

    def _relayed_port(
        self, metrics: TeacherMetrics, teacher: str, options: list[tuple[str, int]]
    ) -> RelayedPort | None:
        settings = self._settings
        if settings.relayed_socket is None:
            return None
        gate = Gate(
            RelayedPolicy(RELAYED),
            metrics,
            teacher=teacher,
            calls_per_peer=settings.calls,
        )
        return RelayedPort(
            settings.relayed_socket,
            gate,
            options,
            calls=settings.calls,
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
        await self._charging.refresh()
        self._batcher.start()
        self._minding = [
            asyncio.create_task(self._sweep(), name="gate-sweep"),
            asyncio.create_task(self._sign_anew(), name="checkpoints"),
        ]
        await self._server.start()
        if self._relayed is not None:
            await self._relayed.start()
        serving = health_pb2.HealthCheckResponse.SERVING
        await self._health.set(TEACHER_SERVICE, serving)
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
        await self._gate.emptied(_LAST_CALLS_SECONDS)
        for task in self._minding:
            task.cancel()
        self.sessions.clear()
        await self._charging.stop()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            self._gate.sweep()
            self.sessions.sweep()

    async def _sign_anew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.checkpoint_seconds)
            try:
                await self._charging.refresh()
            except SQLAlchemyError as error:
                _logger.error("the log cannot be signed anew: %s", error)


def _description(
    settings: TeacherServerSettings, backend: TeacherBackend
) -> Description:
    """Returns what the teacher tells; its owner's policy stands on the card."""
    card = replace(backend.card, momentum_sessions=settings.momentum is not None)
    bounds = RequestBounds.within(
        settings.queue.site_bytes,
        side_px=card.input_size_px,
        max_patches=settings.max_patches_per_request,
    )
    return Description(card, bounds)


def _largest_message(settings: TeacherServerSettings, bounds: RequestBounds) -> int:
    chunk = 0 if settings.momentum is None else CHUNK_BYTES + SEALING_BYTES
    return max(bounds.max_message_bytes, chunk)


def _options(
    settings: TeacherServerSettings, description: Description
) -> list[tuple[str, int]]:
    card, bounds = description
    age_ms = int(settings.connection_age.total_seconds() * 1000)
    grace_ms = int(settings.connection_grace.total_seconds() * 1000)
    return [
        ("grpc.max_receive_message_length", _largest_message(settings, bounds)),
        ("grpc.max_send_message_length", largest_answer_bytes(card, bounds)),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", settings.calls_per_peer),
        ("grpc.max_connection_age_ms", age_ms),
        ("grpc.max_connection_age_grace_ms", grace_ms),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.so_reuseport", 0),
    ]
