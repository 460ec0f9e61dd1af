"""Runs the roles that the config names, until it is told to stop."""

import asyncio
import signal
from datetime import UTC, datetime
from importlib.metadata import version

from moma_core.trust.revocations import Revocations
from moma_server.config import CoordinatorSection, ServerConfig, TeacherSection
from moma_server.federation.coordinator import Coordinator, CoordinatorSettings
from moma_server.federation.edge import EdgeSettings
from moma_server.members import node_registry
from moma_server.metrics import (
    FederationMetrics,
    Registry,
    TeacherMetrics,
    shown_registry,
)
from moma_server.state import budget_ledger, run_folder
from moma_server.teacher.admission import AdmissionPolicy
from moma_server.teacher.fair_queue import QueueBounds
from moma_server.teacher.loading import load_backend
from moma_server.teacher.service import SERVED, TeacherServer, TeacherServerSettings
from moma_server.teacher.tls import TlsCredentials, TlsFiles

_TEACHER_GRACE_SECONDS = 5.0


def run_server(config: ServerConfig) -> None:
    """Serves until SIGINT or SIGTERM.

    Raises:
        MomaError: A file, a key or an address is not as it should be.
    """
    at = config.metrics
    with shown_registry(at.host, at.port, version=version("moma-service")) as registry:
        asyncio.run(_serve(config, registry))


async def _serve(config: ServerConfig, registry: Registry) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    roles = []
    if config.teacher is not None:
        roles.append(_teach(config, config.teacher, registry, stop))
    if config.coordinator is not None:
        roles.append(_coordinate(config, config.coordinator, registry, stop))
    tasks = [asyncio.create_task(role) for role in roles]
    # One that fails takes the other down in order; both stop at the same time.
    await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    stop.set()
    await asyncio.gather(*tasks)


async def _teach(
    config: ServerConfig,
    section: TeacherSection,
    registry: Registry,
    stop: asyncio.Event,
) -> None:
    """Serves the teacher until `stop`."""
    backend = load_backend(section)
    ledger = budget_ledger(config, section)
    policy = AdmissionPolicy(
        federation=config.federation,
        revoked=Revocations(config.authority.revoked),
        served=SERVED,
        clock=_now,
    )
    files = TlsFiles(
        section.identity.certificate,
        section.identity.key,
        config.authority.certificate,
    )
    server = TeacherServer(
        _teacher_settings(section),
        backend,
        ledger,
        TeacherMetrics(registry),
        policy,
        TlsCredentials(files),
    )
    try:
        await server.start()
        await stop.wait()
        await server.stop(_TEACHER_GRACE_SECONDS)
    finally:
        ledger.close()


def _teacher_settings(section: TeacherSection) -> TeacherServerSettings:
    limits = section.limits
    return TeacherServerSettings(
        host=section.listen.host,
        port=section.listen.port,
        max_patches_per_request=limits.max_patches_per_request,
        max_batch_patches=limits.max_batch_patches,
        queue=QueueBounds(
            site_requests=limits.max_queued_requests_per_site,
            site_bytes=limits.max_queued_bytes_per_site,
            total_requests=limits.max_queued_requests,
            total_bytes=limits.max_queued_bytes,
        ),
    )


async def _coordinate(
    config: ServerConfig,
    section: CoordinatorSection,
    registry: Registry,
    stop: asyncio.Event,
) -> None:
    """Runs the federation until `stop`; the sites are served when its run is over."""
    coordinator = Coordinator(
        coordinator_settings(config, section), FederationMetrics(registry)
    )
    await asyncio.to_thread(coordinator.start)
    try:
        await stop.wait()
    finally:
        await asyncio.to_thread(coordinator.stop)


def coordinator_settings(
    config: ServerConfig, section: CoordinatorSection
) -> CoordinatorSettings:
    """Returns where a coordinator's run lies and what it is."""
    return CoordinatorSettings(
        folder=run_folder(config, section),
        registry=node_registry(config),
        plan=section.plan,
        edge=EdgeSettings(
            host=section.listen.host,
            port=section.listen.port,
            certificate=section.identity.certificate,
            key=section.identity.key,
        ),
    )


def _now() -> datetime:
    return datetime.now(UTC)
