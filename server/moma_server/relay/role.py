"""The relay's two ends, each run from its config until it has to stop."""

import asyncio
import json
import logging
from collections.abc import Container
from pathlib import Path
from random import Random

from moma_core.errors import DiskError, MomaError
from moma_core.metrics_http.registry import Registry
from moma_core.pki.revocations import Revocations
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import make_folder, write_private
from moma_server.config.server import CoordinatorSection, ServerConfig, TeacherSection
from moma_server.membership.members import members
from moma_server.membership.renewal import identity_files
from moma_server.metrics.metrics import RelayMetrics
from moma_server.relay.agent import LinkLimits, RelayAgent
from moma_server.relay.dial import RelayAddress, dial
from moma_server.relay.limits import RelayBounds
from moma_server.relay.server import SERVED, RelayServer, RelaySettings
from moma_server.relay.tunnel import first_of
from moma_server.rpc.authorization import CertificateAuthorization
from moma_server.rpc.tls import TlsCredentials
from moma_server.state import relay_links_file

_logger = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0


async def serve_relay(
    config: ServerConfig,
    section: CoordinatorSection,
    registry: Registry,
    stop: asyncio.Event,
) -> None:
    """Serves the coordinator's relay until `stop`, where the config has one.

    Raises:
        MomaError: Keys or address are not as they should be.
    """
    if section.relay is None:
        return
    server = RelayServer(
        RelaySettings(host=section.relay.listen.host, port=section.relay.listen.port),
        RelayMetrics(registry),
        CertificateAuthorization(
            federation=config.federation,
            revoked=Revocations(config.authority.revoked),
            served=SERVED,
            clock=utc_now,
        ),
        TlsCredentials(identity_files(section.identity, config.authority)),
        is_known=lambda name: _is_teacher(config, name),
        on_change=lambda links: _note_links(config, links),
    )
    make_folder(config.state_dir)
    _note_links(config, {})
    await server.start()
    try:
        await first_of(stop.wait(), server.wait_for_termination())
    finally:
        await server.stop(_GRACE_SECONDS)
        _note_links(config, {})


async def stay_linked(
    config: ServerConfig,
    section: TeacherSection,
    revoked: Container[int],
    socket: Path | None,
    stop: asyncio.Event,
) -> None:
    """Keeps a teacher linked to its coordinator's relay until `stop`, if it has one.

    Args:
        config: Settings of this server.
        section: Settings of the teacher's role.
        revoked: Serials of the revoked certificates.
        socket: Where this process takes relayed calls; None where it has no relay.
        stop: Set when the teacher stops.
    """
    if section.relay is None or socket is None:
        return
    bounds = RelayBounds()
    at = RelayAddress(
        address=section.relay.coordinator,
        files=identity_files(section.identity, config.authority),
        revoked=revoked,
        clock=utc_now,
        proxy=config.network.rule(),
    )
    agent = RelayAgent(
        lambda: dial(at, bounds),
        socket,
        bounds,
        LinkLimits(),
        Random(),  # noqa: S311 - only spreads pauses
    )
    await agent.run(stop, _GRACE_SECONDS)


def _is_teacher(config: ServerConfig, name: str) -> bool:
    try:
        return any(
            (one.kind, one.name, one.state) == ("teacher", name, "admitted")
            for one in members(config)
        )
    except MomaError as error:
        _logger.warning("no teacher's name can be looked up: %s", error)
        return False


def _note_links(config: ServerConfig, links: dict[str, int]) -> None:
    """Writes who is linked for `moma-server status`; a loss of it harms nobody."""
    try:
        write_private(relay_links_file(config), json.dumps(links).encode())
    except DiskError as error:
        _logger.warning("the teachers' links are not noted: %s", error)
