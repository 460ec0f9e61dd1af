"""Keeps a server's own certificates fresh.

Where the authority's key lies, the server signs its next certificate itself; a teacher
at another institution asks its coordinator.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from moma_core.errors import ConfigError
from moma_core.pki.certificates import create_request
from moma_core.pki.names import PEER_KINDS, PeerKind, PeerName
from moma_core.pki.renewal import CertificateRenewer, Renew
from moma_core.pki.revocations import Revocations
from moma_core.pki.validity import IdentityFiles
from moma_core.runtime.clock import utc_now
from moma_proto.enrolment.client import EnrolmentLink
from moma_server.config.server import AuthoritySection, IdentitySection, ServerConfig
from moma_server.membership.renewal import renew_member
from moma_server.rpc.tls import TlsFiles

_logger = logging.getLogger(__name__)


@contextmanager
def kept_certificates(config: ServerConfig) -> Iterator[None]:
    """Renews the certificates of the config's roles while the block runs."""
    keepers = [
        CertificateRenewer(
            own,
            identity_files(config, identity),
            renewal_of(config, own),
            clock=utc_now,
        )
        for own, identity in own_identities(config)
    ]
    for renewer in keepers:
        renewer.start()
    try:
        yield
    finally:
        for renewer in keepers:
            renewer.stop()


def identity_files(config: ServerConfig, identity: IdentitySection) -> IdentityFiles:
    """Returns where a role's certificate and key lie."""
    return IdentityFiles(
        identity.certificate,
        identity.key,
        config.authority.certificate,
        identity.passphrase_file,
    )


def tls_files(identity: IdentitySection, authority: AuthoritySection) -> TlsFiles:
    """Returns what a role's gRPC port shows, and checks its callers against."""
    return TlsFiles(
        identity.certificate,
        identity.key,
        authority.certificate,
        identity.passphrase_file,
    )


def enrolment_link(config: ServerConfig, own: PeerName) -> EnrolmentLink:
    """Returns the way to the coordinator's enrolment.

    Raises:
        ConfigError: The config names none, or the authority cannot be read.
    """
    if config.authority.enrolment is None:
        raise ConfigError("authority.enrolment names no coordinator")
    try:
        authority = config.authority.certificate.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the authority: {error}") from None
    revoked = Revocations(config.authority.revoked)
    return EnrolmentLink(config.authority.enrolment, authority, own, utc_now, revoked)


def own_identities(config: ServerConfig) -> list[tuple[PeerName, IdentitySection]]:
    """Returns whom the config's roles are, and where their certificates lie."""
    found = []
    if config.coordinator is not None:
        own = PeerName(config.federation, "coordinator", "coordinator")
        found.append((own, config.coordinator.identity))
    if config.teacher is not None:
        own = PeerName(config.federation, "teacher", config.teacher.name)
        found.append((own, config.teacher.identity))
    return found


def renewal_of(config: ServerConfig, own: PeerName) -> Renew | None:
    """Returns how a certificate of ours is renewed; None: it is done by hand."""
    if config.authority.key is not None and config.coordinator is not None:
        kinds: tuple[PeerKind, ...] = PEER_KINDS
        return lambda certificate, key: renew_member(
            config, certificate, create_request(key, str(own)), kinds=kinds
        )
    if config.authority.enrolment is not None:
        return lambda certificate, key: enrolment_link(config, own).renew(
            certificate, key
        )
    return None
