"""Runs the roles that the config names, until a signal stops the program."""

import asyncio
import signal
from functools import partial
from importlib.metadata import version

from moma_core.dashboard.serve import shown_dashboard
from moma_core.dashboard.view import View
from moma_core.metrics_http.registry import Registry, shown_registry
from moma_core.pki.key_files import read_credential
from moma_core.runtime.clock import utc_now
from moma_server.config.server import CoordinatorSection, ServerConfig
from moma_server.dashboard.view import server_view
from moma_server.enrolment.role import serve_enrolment
from moma_server.federation.coordinator import Coordinator, CoordinatorSettings
from moma_server.federation.edge.authorization import EdgeAuthorization
from moma_server.federation.edge.server import EdgeSettings
from moma_server.federation.run.state import resumed
from moma_server.membership.members import (
    member_folder,
    node_registry,
    signing_authority,
    sites_in_force,
)
from moma_server.membership.renewal import (
    identity_files,
    own_identities,
    renewal_of,
    renewed_certificates,
)
from moma_server.metrics.certificates import CertificateMetrics
from moma_server.metrics.metrics import FederationMetrics
from moma_server.relay.role import serve_relay
from moma_server.rpc.tls import TlsCredentials
from moma_server.state import run_folder


def check_server(config: ServerConfig) -> None:
    """Makes the cheap ones of a start's checks; it writes nothing.

    Not checked is whether the ports are free, the model loads and says what its card
    says, the database opens, other machines answer, and the certificates of metrics and
    dashboard are in order.

    Raises:
        MomaError: A file or a key is not as it should be.
    """
    _check_coordinator(config)
    if config.teacher is not None:
        from moma_server.teacher.role import check_teacher

        check_teacher(config, config.teacher)


def run_server(config: ServerConfig) -> None:
    """Serves until SIGINT or SIGTERM.

    Raises:
        MomaError: A file, a key or an address is not as it should be.
    """
    _check_coordinator(config)  # the teacher's role checks its own as it begins
    with shown_registry(config.metrics, version=version("moma-service")) as registry:
        certificates = CertificateMetrics(registry)
        _watch_certificates(config, certificates)
        look = partial(_look, config, registry)
        with shown_dashboard(config.dashboard, look):
            asyncio.run(_serve(config, registry, certificates))


def _check_coordinator(config: ServerConfig) -> None:
    """Checks the dashboard, and the files of a coordinator, if there is one."""
    if config.dashboard is not None:
        config.dashboard.check_client_authority(config.authority.certificate)
    section = config.coordinator
    if section is None:
        return
    own = section.identity
    read_credential(own.certificate, own.key, own.passphrase_file)
    if section.enrolment is not None:
        signing_authority(config)
    if section.enrolment is not None or section.relay is not None:
        TlsCredentials(identity_files(own, config.authority))
    resumed(run_folder(config, section), section.plan)


def _look(config: ServerConfig, registry: Registry) -> View:
    return server_view(config, registry, utc_now())


def _watch_certificates(config: ServerConfig, metrics: CertificateMetrics) -> None:
    metrics.watch("authority", config.authority.certificate)
    for own, identity in own_identities(config):
        metrics.watch(
            f"{own.kind}/{own.name}",
            identity.certificate,
            renews_itself=renewal_of(config, own) is not None,
        )
    if config.metrics.certificate is not None:
        metrics.watch("metrics", config.metrics.certificate)
    if config.dashboard is not None and config.dashboard.certificate is not None:
        metrics.watch("dashboard", config.dashboard.certificate)


async def _serve(
    config: ServerConfig, registry: Registry, certificates: CertificateMetrics
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    roles = []
    if config.teacher is not None:
        # A coordinator alone needs no torch: seconds of start, 800 MB of memory.
        from moma_server.teacher.role import serve_teacher

        roles.append(
            serve_teacher(config, config.teacher, registry, stop, certificates)
        )
    if config.coordinator is not None:
        roles.append(_coordinate(config, config.coordinator, registry, stop))
        roles.append(serve_enrolment(config, config.coordinator, certificates, stop))
        roles.append(serve_relay(config, config.coordinator, registry, stop))
    tasks = [asyncio.create_task(role) for role in roles]
    with renewed_certificates(config):
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    stop.set()
    # One that fails takes the others down in order: cancelled while it starts, a
    # coordinator would leave an engine behind, and a program that never ends.
    await asyncio.wait(tasks)
    for error in [task.exception() for task in tasks]:
        if error is not None:
            raise error


async def _coordinate(
    config: ServerConfig,
    section: CoordinatorSection,
    registry: Registry,
    stop: asyncio.Event,
) -> None:
    """Runs the federation until `stop`; the sites are served when its run is over."""
    nodes = node_registry(config)
    authorization = EdgeAuthorization(
        nodes,
        lambda: sites_in_force(config),
        sources=(member_folder(config), config.authority.revoked),
        clock=utc_now,
    )
    edge = EdgeSettings(
        host=section.listen.host,
        port=section.listen.port,
        certificate=section.identity.certificate,
        key=section.identity.key,
        passphrase_file=section.identity.passphrase_file,
        authorizes=authorization.authorizes,
    )
    folder = run_folder(config, section)
    settings = CoordinatorSettings(
        folder=folder,
        registry=nodes,
        plan=section.plan,
        edge=edge,
        name=section.run,
    )
    coordinator = Coordinator(settings, FederationMetrics(registry))
    await asyncio.to_thread(coordinator.start)
    try:
        await stop.wait()
    finally:
        await asyncio.to_thread(coordinator.stop)
