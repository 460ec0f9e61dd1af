"""The role of a teacher: from its config to a server, until it is told to stop."""

import asyncio
import logging
from datetime import UTC, datetime

from moma_core.trust.approvals import Approvals
from moma_core.trust.revocations import Revocations
from moma_core.trust.signing import SigningKey
from moma_server.config import MomentumSection, ServerConfig, TeacherSection
from moma_server.metrics import Registry, TeacherMetrics
from moma_server.state import approvals_file, budget_ledger
from moma_server.teacher.admission import AdmissionPolicy
from moma_server.teacher.card_issuer import CardIssuer
from moma_server.teacher.fair_queue import QueueBounds
from moma_server.teacher.loading import load_backend
from moma_server.teacher.momentum_policy import MomentumPolicy
from moma_server.teacher.sealing_keys import SealingKeys
from moma_server.teacher.service import SERVED, TeacherServer, TeacherServerSettings
from moma_server.teacher.tls import TlsCredentials, TlsFiles
from moma_server.teacher.trust import EndToEnd, TeacherTrust

_logger = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0


async def serve_teacher(
    config: ServerConfig,
    section: TeacherSection,
    registry: Registry,
    stop: asyncio.Event,
) -> None:
    """Serves the teacher until `stop`.

    Raises:
        MomaError: Card, weights, keys or address are not as they should be.
    """
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
        TeacherTrust(policy, TlsCredentials(files), _end_to_end(config, section)),
    )
    try:
        await server.start()
        await stop.wait()
        await server.stop(_GRACE_SECONDS)
    finally:
        ledger.close()


def _end_to_end(config: ServerConfig, section: TeacherSection) -> EndToEnd:
    folder = config.state_dir / "teacher"
    signing = SigningKey.load(section.signing_key)
    sealing = SealingKeys(folder / "sealing-keys.json", section.sealing.suites, _now)
    return EndToEnd(
        config.federation,
        signing,
        sealing,
        Approvals(approvals_file(config)),
        CardIssuer(
            folder / "issued-card.json", config.federation, signing, sealing, _now
        ),
        _now,
    )


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
        momentum=_momentum_policy(section.momentum),
    )


def _momentum_policy(section: MomentumSection) -> MomentumPolicy | None:
    if not section.enabled:
        return None
    _logger.warning(
        "momentum sessions are on: this is close to handing out the weights"
    )
    return MomentumPolicy(
        lowest_decay=section.lowest_decay,
        most_distance=section.most_distance,
        syncs_per_minute=section.syncs_per_minute,
        site_sessions=section.sessions_per_site,
        sessions=section.sessions,
        most_bytes=section.max_bytes,
        idle_seconds=section.idle_seconds,
        age_seconds=section.age_seconds,
    )


def _now() -> datetime:
    return datetime.now(UTC)
