"""Two tasks of a running server: the enrolment port, and what others have revoked."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress

from moma_core.errors import MomaError
from moma_core.pki.crl_client import RevocationPoller
from moma_core.pki.identity import PeerName
from moma_core.pki.renewal import RENEWED_AFTER
from moma_core.pki.revocations import Revocations
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import make_folder
from moma_server.config.server import CoordinatorSection, ServerConfig, TeacherSection
from moma_server.enrolment.server import EnrolmentServer
from moma_server.membership.members import issued_lifetime, members
from moma_server.membership.renewal import enrolment_link
from moma_server.metrics.certificates import CertificateMetrics

_logger = logging.getLogger(__name__)

_SHOW_SECONDS = 10.0
_POLL_SECONDS = 1.0


async def serve_enrolment(
    config: ServerConfig,
    section: CoordinatorSection,
    certificates: CertificateMetrics,
    stop: asyncio.Event,
) -> None:
    """Serves the enrolment port, if there is one, and shows the members' expiry.

    Raises:
        MomaError: The port, the credential or the CA is not as it should be.
    """
    server = None
    if section.enrolment is not None:
        server = EnrolmentServer(config, section, section.enrolment, utc_now)
        await server.start()
    try:
        while not stop.is_set():
            await asyncio.to_thread(_show_members, config, section, certificates)
            try:
                await asyncio.wait_for(stop.wait(), _SHOW_SECONDS)
            except TimeoutError:
                continue
    finally:
        if server is not None:
            await server.stop()


def polled_revocations(
    config: ServerConfig,
    section: TeacherSection,
    certificates: CertificateMetrics,
    stop: asyncio.Event,
) -> tuple[Container[int], Callable[[], Awaitable[object]]]:
    """Returns the serials that a teacher refuses, and what polls them until `stop`.

    Beside its coordinator a teacher reads the list where it is made; elsewhere it is
    brought by hand, unless the config names the coordinator's enrolment.
    """
    authority = config.authority
    if config.coordinator is not None or authority.enrolment is None:
        return Revocations(authority.revoked), stop.wait
    own = PeerName(config.federation, "teacher", section.name)
    newest = config.state_dir / "revoked.crl"
    settings = authority.poll_settings(authority.revoked, newest, authority.certificate)
    make_folder(config.state_dir)
    poller = RevocationPoller(
        settings,
        lambda: enrolment_link(config, own).revoked(),
        clock=utc_now,
        on_list=lambda made_at: certificates.revocation_list.set(made_at.timestamp()),
    )
    return poller, lambda: _poll(poller, stop)


async def _poll(poller: RevocationPoller, stop: asyncio.Event) -> None:
    """Polls until `stop`.

    Raises:
        RuntimeError: Its thread ended; without it the knowledge would grow old.
    """
    over = threading.Event()
    thread = poller.start(over)
    try:
        while not stop.is_set():
            if not thread.is_alive():
                raise RuntimeError("the polling of revocations has ended")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _POLL_SECONDS)
    finally:
        over.set()


def _show_members(
    config: ServerConfig, section: CoordinatorSection, certificates: CertificateMetrics
) -> None:
    """Shows when members' certificates end; who was revoked is nobody's worry."""
    last_part = (1 - RENEWED_AFTER) * issued_lifetime(config)
    try:
        for member in members(config):
            if member.state == "revoked":
                certificates.forget(member.kind, member.name)
                continue
            renewal = None if section.enrolment is None else member.expires - last_part
            certificates.show(member.kind, member.name, member.expires, renewal)
    except (MomaError, OSError) as error:
        _logger.warning("the members' certificates are not shown: %s", error)
