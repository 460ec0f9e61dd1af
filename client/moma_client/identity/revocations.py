"""A site polls the CA's list of revoked certificates."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moma_client.config.site import SiteConfig
from moma_core.pki import revocations
from moma_core.pki.crl_client import RevocationPoller
from moma_core.pki.identity import PeerName
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import make_folder
from moma_proto.enrolment.client import EnrolmentLink

_STOP_POLL_SECONDS = 0.25


def site_revocations(config: SiteConfig) -> RevocationPoller | None:
    """Returns the revoked certificates; None: there is no `coordinator.enrolment`.

    Raises:
        OSError: The state folder cannot be written.
    """
    address, revoked = config.coordinator.enrolment, revoked_file(config)
    if address is None or revoked is None:
        return None
    authority = config.identity.authority
    own = PeerName(config.federation, "site", config.site)
    make_folder(config.state_dir)
    revocations.start(revoked)

    def fetch() -> bytes:
        known = revocations.Revocations(revoked)
        pem, proxy = authority.read_bytes(), config.network.rule()
        return EnrolmentLink(address, pem, own, utc_now, known, proxy).revoked()

    newest = config.state_dir / "revoked.crl"
    settings = config.coordinator.poll_settings(revoked, newest, authority)
    return RevocationPoller(settings, fetch, clock=utc_now, on_list=lambda _: None)


def revoked_file(config: SiteConfig) -> Path | None:
    """Returns where the revoked serials are kept; None: none are fetched."""
    if config.coordinator.enrolment is None:
        return None
    return config.state_dir / "revoked.json"


def look_once(config: SiteConfig) -> None:
    """Fetches the list for a command that calls the teacher; a failure is logged."""
    poller = site_revocations(config)
    if poller is not None:
        poller.look()


@contextmanager
def kept_revocations(config: SiteConfig, stop: threading.Event) -> Iterator[None]:
    """Fetches the list, and then again and again while the block runs.

    Args:
        config: Settings of this site.
        stop: Set by the operator; ends the wait for the first list.
    """
    poller, over = site_revocations(config), threading.Event()
    if poller is not None:
        poller.start(over)
        while not poller.has_looked.wait(_STOP_POLL_SECONDS) and not stop.is_set():
            pass
    try:
        yield
    finally:
        over.set()
