"""Builds and runs the coordinator's relay: one port for teachers and for sites."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from moma_core.errors import ConfigError
from moma_core.network.address import address_of
from moma_core.pki.identity import PEER_KINDS, PeerKind
from moma_proto.v1 import relay_pb2 as pb
from moma_proto.v1.relay_pb2_grpc import (
    RelayServiceServicer,
    add_RelayServiceServicer_to_server,
)
from moma_server.metrics.metrics import RelayMetrics
from moma_server.relay.forwarder import Forwarder
from moma_server.relay.limits import RELAYED_SERVICES, RelayBounds
from moma_server.relay.links import Link, Links, local_channel
from moma_server.relay.tunnel import first_of, tunnel
from moma_server.rpc.authorization import (
    AuthInterceptor,
    CallBounds,
    CertificateAuthorization,
    connected,
)
from moma_server.rpc.background import BackgroundTasks
from moma_server.rpc.limits import READ_SECONDS, ConnectionBounds, read_message
from moma_server.rpc.tls import TlsCredentials

_logger = logging.getLogger(__name__)

RELAY_SERVICE = "moma.v1.RelayService"

HEALTH_SERVICE = "grpc.health.v1.Health"

SERVED: dict[str, frozenset[PeerKind]] = {
    RELAY_SERVICE: frozenset({"teacher"}),
    **dict.fromkeys(RELAYED_SERVICES, frozenset[PeerKind]({"site"})),
    HEALTH_SERVICE: frozenset(PEER_KINDS),
}
"""Which kinds of parties each service is for."""

_ENVELOPE_BYTES = 64 * 1024

_LAST_CALLS_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """What the relay allows.

    Args:
        host: Address to listen at.
        port: Port to listen at; 0 takes a free one.
        bounds: Bounds of each link, and of what is held for sites.
        calls_per_peer: Calls of one site, or links of one teacher, open at once.
        site_calls: Calls of all sites, open at once.
        calls: Calls and links open at once; more than sites may have, so that teachers
            get in.
        read_seconds: Time from a call to the end of its message, where it has one.
        connections: Bounds of the connections of all parties.
        sweep_seconds: Time between two checks of the open calls' certificates.
    """

    host: str = "127.0.0.1"
    port: int = 0
    bounds: RelayBounds = field(default_factory=RelayBounds)
    calls_per_peer: int = 16
    site_calls: int = 256
    calls: int = 512
    read_seconds: float = READ_SECONDS
    connections: ConnectionBounds = field(default_factory=ConnectionBounds)
    sweep_seconds: float = 1.0


class RelayServer:
    """Serves teachers that dial in, and sites that ask them, over mutual TLS 1.3.

    Construct it inside a running event loop.

    Args:
        settings: What is allowed.
        metrics: Get bytes and refusals.
        policy: Says who may call what.
        credentials: Certificate and key of the coordinator.
        is_known: Says whether a teacher of this name belongs to the federation.
        on_change: Called with how many links each teacher has, when that changes.

    Attributes:
        forwarder: Serves the sites' calls.
    """

    def __init__(
        self,
        settings: RelaySettings,
        metrics: RelayMetrics,
        policy: CertificateAuthorization,
        credentials: TlsCredentials,
        *,
        is_known: Callable[[str], bool],
        on_change: Callable[[dict[str, int]], None],
    ) -> None:
        self._settings, self._credentials = settings, credentials
        links = Links(on_change)
        calls = CallBounds(
            of_one=settings.calls_per_peer,
            of_all=settings.calls,
            read_seconds=settings.read_seconds,
        )
        self._interceptor = AuthInterceptor(policy, metrics, teacher="", bounds=calls)
        self._health = health.HealthServicer()
        self._background = BackgroundTasks()
        self._server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=_options(settings),
            maximum_concurrent_rpcs=calls.of_grpc,
        )
        bounds = settings.bounds
        self.forwarder = Forwarder(
            links, is_known, metrics, bounds=bounds, calls=settings.site_calls
        )
        self._server.add_generic_rpc_handlers((self.forwarder,))
        add_RelayServiceServicer_to_server(RelayServicer(links, bounds), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self) -> int:
        """Begins to serve.

        Returns:
            The port.

        Raises:
            ConfigError: The address cannot be listened at.
        """
        address = address_of(self._settings.host, self._settings.port)
        try:
            port = self._server.add_secure_port(address, self._credentials.for_server())
        except RuntimeError as error:
            raise ConfigError(f"cannot listen at {address}: {error}") from None
        self._background.start(self._sweep(), "relay-sweep")
        await self._server.start()
        serving = health_pb2.HealthCheckResponse.SERVING
        await self._health.set(RELAY_SERVICE, serving)
        _logger.info("the relay serves at %s", address_of(self._settings.host, port))
        return port

    async def wait_for_termination(self) -> None:
        """Waits until the relay was stopped.

        Raises:
            Exception: What it does beside its calls ended by it; stop the relay then.
        """
        await self._background.wait()

    async def stop(self, grace_seconds: float) -> None:
        """Waits for the calls that are open, but not for ever, and stops."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)
        await self._interceptor.emptied(_LAST_CALLS_SECONDS)
        self._background.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            self._interceptor.sweep()


def _options(settings: RelaySettings) -> list[tuple[str, int]]:
    bounds = settings.bounds
    received = max(bounds.request_bytes, bounds.frame_bytes + _ENVELOPE_BYTES)
    sent = bounds.message_bytes + _ENVELOPE_BYTES
    return [
        ("grpc.max_receive_message_length", received),
        ("grpc.max_send_message_length", sent),
        *settings.connections.options(streams=settings.calls_per_peer),
    ]


Context = grpc.aio.ServicerContext[Any, Any]


class RelayServicer(RelayServiceServicer):
    """Links teachers; who they are is in their certificates.

    Args:
        links: All links that are open.
        bounds: Bounds of each link.
    """

    def __init__(self, links: Links, bounds: RelayBounds) -> None:
        self._links, self._bounds = links, bounds

    async def Link(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.TeacherFrame], context: Context
    ) -> None:
        """Serves one replica's calls until its stream ends."""
        teacher, bounds = connected().name, self._bounds
        async with local_channel(bounds) as (channel, reader, writer):
            link = Link(channel, bounds)
            frames = _TeacherFrames(context, link)
            with self._links.open(teacher, link):
                _logger.info("teacher %s is linked", teacher)
                await frames.write(b"")  # the teacher counts as linked
                await first_of(tunnel(frames, reader, writer, bounds), link.left())
        _logger.info("teacher %s: a link has ended", teacher)


@dataclass(frozen=True, slots=True)
class _TeacherFrames:
    """The stream at the coordinator."""

    context: Context
    link: Link

    async def read(self) -> bytes | None:
        read: Any = await self.context.read()
        if read is grpc.aio.EOF:
            return None
        frame = read_message(pb.TeacherFrame.FromString, read)
        if frame.is_leaving:
            self.link.leave()
        return frame.content

    async def write(self, content: bytes, /) -> None:
        await self.context.write(pb.RelayFrame(content=content))
