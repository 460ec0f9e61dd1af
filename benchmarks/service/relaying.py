"""A coordinator's relay, and a teacher's link to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from benchmarks.service.federation import FEDERATION, HOST, TEACHER, Federation, now
from moma_core.pki.revocations import Revocations
from moma_server.metrics.metrics import Registry, RelayMetrics
from moma_server.relay import server as relay
from moma_server.relay.agent import LinkLimits, RelayAgent
from moma_server.relay.dial import RelayAddress, dial
from moma_server.relay.limits import RelayBounds
from moma_server.rpc.authorization import CertificateAuthorization
from moma_server.rpc.tls import TlsCredentials

COORDINATOR = "coordinator"

_GRACE_SECONDS = 2.0


@asynccontextmanager
async def relaying(federation: Federation) -> AsyncIterator[int]:
    """Serves the coordinator's relay; yields the port."""
    server = relay.RelayServer(
        relay.RelaySettings(),
        RelayMetrics(Registry()),
        CertificateAuthorization(
            federation=FEDERATION,
            revoked=Revocations(federation.home(COORDINATOR) / "revoked.json"),
            served=relay.SERVED,
            clock=now,
        ),
        TlsCredentials(federation.files(COORDINATOR)),
        is_known=lambda name: name == TEACHER,
        on_change=lambda _links: None,
    )
    port = await server.start()
    try:
        yield port
    finally:
        await server.stop(_GRACE_SECONDS)


@asynccontextmanager
async def attached(
    federation: Federation, socket: Path, port: int
) -> AsyncIterator[None]:
    """Links the teacher's server on a socket to the relay on a port.

    The server may be started later, and is to be stopped before: its last answers go
    by the link.
    """
    bounds = RelayBounds()
    at = RelayAddress(
        address=f"{HOST}:{port}",
        files=federation.files(TEACHER),
        revoked=(),
        clock=now,
    )
    agent = RelayAgent(
        lambda: dial(at, bounds),
        socket,
        bounds,
        LinkLimits(),
        Random(),  # noqa: S311 - only spreads pauses
    )
    stop = asyncio.Event()
    running = asyncio.create_task(agent.run(stop, _GRACE_SECONDS))
    try:
        yield
    finally:
        stop.set()
        await running
