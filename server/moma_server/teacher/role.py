"""The role of a teacher: from its config to a server that runs until `stop`."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from moma_core.end_to_end.pinned_sites import PinnedSites
from moma_core.end_to_end.signatures import SigningKey
from moma_core.metrics_http.registry import Registry
from moma_core.policy.coverage import CoverageMap
from moma_core.policy.outputs import OutputPolicy
from moma_core.policy.policy import PolicyEnforcer, TeacherPolicy
from moma_core.policy.usage import PatchRate
from moma_core.runtime.clock import utc_now
from moma_core.teacher.card.card import TeacherCard
from moma_server.config.server import ServerConfig, TeacherSection
from moma_server.config.teacher_policy import MomentumSection, PolicySection
from moma_server.enrolment.role import polled_revocations
from moma_server.membership.pinned_sites import misnamed_budgets
from moma_server.membership.renewal import identity_files
from moma_server.metrics.certificates import CertificateMetrics
from moma_server.metrics.metrics import ServiceMetrics
from moma_server.relay.role import stay_linked
from moma_server.rpc.authorization import CertificateAuthorization
from moma_server.rpc.tls import TlsCredentials
from moma_server.rpc.unix_socket import make_socket_path, remove_socket_folder
from moma_server.state import open_ledger, pinned_sites_file
from moma_server.teacher.end_to_end.identity import (
    TeacherIdentity,
    TeacherTrust,
)
from moma_server.teacher.inference.fair_queue import QueueBounds
from moma_server.teacher.inference.load import checked_card, device_of, load_backend
from moma_server.teacher.momentum.sessions import MomentumPolicy
from moma_server.teacher.server import SERVED, TeacherServer
from moma_server.teacher.settings import TeacherServerSettings

_logger = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0


class CheckedTeacher(NamedTuple):
    """What of a teacher is in order before its model is loaded.

    Args:
        card: Its card, which fits its files.
        rules: What each site is held to.
        credentials: Of its port.
        signing_key: Signs card, responses and log.
    """

    card: TeacherCard
    rules: PolicyEnforcer
    credentials: TlsCredentials
    signing_key: SigningKey


def check_teacher(config: ServerConfig, section: TeacherSection) -> CheckedTeacher:
    """Returns what a teacher starts with; opens no port and writes nothing.

    Raises:
        MomaError: Card, files, keys, policy or accelerator are not as they should be.
    """
    device_of(section.accelerator)
    card = checked_card(section)
    found = CheckedTeacher(
        card,
        rules_of(section, card),
        TlsCredentials(identity_files(section.identity, config.authority)),
        SigningKey.load(section.signing_key, section.identity.passphrase_file),
    )
    for warning in misnamed_budgets(config, section):
        _logger.warning("%s", warning)
    return found


async def serve_teacher(
    config: ServerConfig,
    section: TeacherSection,
    registry: Registry,
    stop: asyncio.Event,
    certificates: CertificateMetrics,
) -> None:
    """Serves the teacher until `stop`.

    Raises:
        MomaError: Card, weights, keys or address are not as they should be.
    """
    checked = check_teacher(config, section)
    backend = load_backend(section, checked.card)
    revoked, poll = polled_revocations(config, section, certificates, stop)
    policy = CertificateAuthorization(
        federation=config.federation,
        revoked=revoked,
        served=SERVED,
        clock=utc_now,
    )
    with open_ledger(config, section) as ledger, _relayed_socket(section) as socket:
        identity = _identity(config, section, checked.signing_key)
        server = TeacherServer(
            _teacher_settings(section, checked.rules, socket),
            backend,
            ledger,
            ServiceMetrics(registry),
            TeacherTrust(policy, checked.credentials, identity),
        )
        await server.start()
        linked = stay_linked(config, section, revoked, socket, stop)
        draining = asyncio.create_task(_drained(server, stop))
        try:
            ended = server.wait_for_termination()
            await asyncio.gather(draining, poll(), linked, ended)
        finally:
            stop.set()  # an error ends it as well
            await draining


async def _drained(server: TeacherServer, stop: asyncio.Event) -> None:
    """Stops the server while it is still linked: its last answers go by the relay."""
    await stop.wait()
    await server.stop(_GRACE_SECONDS)


@contextmanager
def _relayed_socket(section: TeacherSection) -> Iterator[Path | None]:
    """Yields the socket of this process for relayed calls: each replica has its own."""
    if section.relay is None:
        yield None
        return
    socket = make_socket_path("teacher.sock")
    try:
        yield socket
    finally:
        remove_socket_folder(socket)


def _identity(
    config: ServerConfig, section: TeacherSection, key: SigningKey
) -> TeacherIdentity:
    return TeacherIdentity(
        config.state_dir / "teacher",
        config.federation,
        key,
        section.sealing.suites,
        PinnedSites(pinned_sites_file(config)),
        utc_now,
    )


def rules_of(section: TeacherSection, card: TeacherCard) -> PolicyEnforcer:
    """Returns what each site is held to; a teacher without classes has no logits.

    Raises:
        ConfigError: Nothing is left to disclose, or the coverage map does not fit.
    """
    policy, outputs = section.policy, section.policy.outputs.model_dump()
    if not card.class_names:
        outputs |= {"logits": False, "top_k": None}
    rate = None
    if policy.patches_per_minute is not None:
        rate = PatchRate(policy.patches_per_minute, policy.burst_patches)
    return PolicyEnforcer(
        TeacherPolicy(
            outputs=OutputPolicy(**outputs),
            rate=rate,
            unique_patches=policy.unique_patches,
            coverage_limit=policy.coverage_limit,
            momentum_sessions=section.momentum.enabled,
        ),
        _coverage_map(policy, card.digest),
    )


def _coverage_map(policy: PolicySection, teacher_digest: str) -> CoverageMap | None:
    """Returns the teacher's map; one that bounds nothing may be missing."""
    path = policy.coverage_map
    if path is None:
        return None
    if policy.coverage_limit is None and not path.exists():
        _logger.warning("there is no coverage map %s: coverage is not measured", path)
        return None
    return CoverageMap.load(path, teacher_digest)


def _teacher_settings(
    section: TeacherSection, rules: PolicyEnforcer, relayed_socket: Path | None
) -> TeacherServerSettings:
    limits = section.limits
    return TeacherServerSettings(
        host=None if section.listen is None else section.listen.host,
        port=0 if section.listen is None else section.listen.port,
        max_patches_per_request=limits.max_patches_per_request,
        max_batch_patches=limits.max_batch_patches,
        queue=QueueBounds(
            site_requests=limits.max_queued_requests_per_site,
            site_bytes=limits.max_queued_bytes_per_site,
            total_requests=limits.max_queued_requests,
            total_bytes=limits.max_queued_bytes,
        ),
        rules=rules,
        momentum=_momentum_policy(section.momentum),
        checkpoint_seconds=section.checkpoint_seconds,
        abandoned_after_seconds=section.abandoned_after_seconds,
        relayed_socket=relayed_socket,
    )


def _momentum_policy(section: MomentumSection) -> MomentumPolicy | None:
    if not section.enabled:
        return None
    _logger.warning(
        "momentum sessions are on: this is close to handing out the weights"
    )
    return MomentumPolicy(**section.model_dump(exclude={"enabled"}))
