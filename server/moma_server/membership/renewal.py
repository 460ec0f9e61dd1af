"""The next certificate of a member, and of the server itself: same name, same key.

Where the CA's key lies, the server signs its own next certificate as well; a teacher at
another institution requests it from its coordinator.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime

from cryptography import x509

from moma_core.errors import CertificateError, ConfigError, NotAuthorizedError
from moma_core.pki.certificates import (
    CLOCK_SKEW,
    check_issued,
    create_request,
    life,
    sign_request,
)
from moma_core.pki.identity import (
    PEER_KINDS,
    UNREADABLE,
    Peer,
    PeerKind,
    PeerName,
    authorize,
    load_certificate,
)
from moma_core.pki.renewal import CertificateRenewer, IdentityFiles, Renew
from moma_core.pki.revocations import Revocations
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import locked
from moma_proto.enrolment.client import EnrolmentLink
from moma_server.config.server import AuthoritySection, IdentitySection, ServerConfig
from moma_server.membership.members import (
    file_certificate,
    issued_lifetime,
    kept_certificates,
    key_of,
    member_file,
    member_folder,
    revoked_serials,
    signing_authority,
)


def renew_member(
    config: ServerConfig,
    certificate: bytes,
    request: bytes,
    *,
    kinds: Collection[PeerKind],
) -> bytes:
    """Returns the next certificate of a member, PEM.

    In the first half of the newest one's life it returns that: no disk is filled.

    Args:
        config: Config of the coordinator's server.
        certificate: The member's current certificate, PEM.
        request: A CSR of the same key: who made it has the key.
        kinds: The kinds of member that may renew here.

    Raises:
        NotAuthorizedError: The certificate is expired, revoked, or none of ours.
        CertificateError: The request claims something else.
    """
    authority = signing_authority(config)
    now = utc_now()
    with locked(member_folder(config)):
        peer = _current_member(config, certificate, kinds=kinds, now=now)
        renewed = sign_request(
            request,
            authority,
            expected_uri=str(PeerName(peer.federation, peer.kind, peer.name)),
            hosts=certificate_hosts(certificate),
            lifetime=issued_lifetime(config),
            now=now,
        )
        if key_of(renewed) != key_of(certificate):
            raise CertificateError("a renewal is for the same key, this is another")
        newest = _newest(config, peer, key_of(certificate), now)
        if newest is not None and _is_young(newest, now):
            return newest
        file_certificate(config, renewed)
        return renewed


def _current_member(
    config: ServerConfig,
    certificate: bytes,
    *,
    kinds: Collection[PeerKind],
    now: datetime,
) -> Peer:
    """Returns whose certificate this is, if it is one of ours and in force."""
    try:
        check_issued(certificate, config.authority.certificate.read_bytes())
    except CertificateError as error:
        raise NotAuthorizedError(str(error)) from None
    peer = authorize(
        certificate,
        now=now,
        revoked=revoked_serials(config),
        federation=config.federation,
        kinds=kinds,
    )
    if not member_file(config, peer).exists():
        raise NotAuthorizedError(f"this certificate of {peer} was not given out here")
    return peer


def _newest(
    config: ServerConfig, peer: Peer, key: bytes, now: datetime
) -> bytes | None:
    """Returns a member's certificate of that key that ends last, if it is in force.

    One that begins later was signed by a clock that was ahead: its member refuses it.
    """
    revoked = revoked_serials(config)
    fitting = [
        kept
        for kept in kept_certificates(config, f"{peer.kind}.{peer.name}.*.pem")
        if key_of(kept.pem) == key
        and kept.peer.serial not in revoked
        and life(kept.pem)[0] <= now + CLOCK_SKEW
    ]
    newest = max(fitting, key=lambda kept: kept.peer.not_after, default=None)
    return newest.pem if newest else None


def _is_young(certificate: bytes, now: datetime) -> bool:
    begin, end = life(certificate)
    return now < begin + (end - begin) / 2


def certificate_hosts(certificate: bytes) -> tuple[str, ...]:
    """Returns the host names and addresses that a certificate is good for.

    Raises:
        CertificateError: It cannot be read, or names nobody.
    """
    try:
        extensions = load_certificate(certificate).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except UNREADABLE:
        raise CertificateError("the certificate names nobody") from None
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *map(str, addresses))


@contextmanager
def renewed_certificates(config: ServerConfig) -> Iterator[None]:
    """Renews the certificates of the config's roles while the block runs."""
    renewers = [
        CertificateRenewer(
            own,
            identity_files(identity, config.authority),
            renewal_of(config, own),
            clock=utc_now,
        )
        for own, identity in own_identities(config)
    ]
    for renewer in renewers:
        renewer.start()
    try:
        yield
    finally:
        for renewer in renewers:
            renewer.stop()


def identity_files(
    identity: IdentitySection, authority: AuthoritySection
) -> IdentityFiles:
    """Returns where a role's certificate and key lie, and the CA certificate."""
    return IdentityFiles(
        identity.certificate,
        identity.key,
        authority.certificate,
        identity.passphrase_file,
    )


def enrolment_link(config: ServerConfig, own: PeerName) -> EnrolmentLink:
    """Returns the connection to the coordinator's enrolment port.

    Raises:
        ConfigError: The config names none, or the CA certificate cannot be read.
    """
    if config.authority.enrolment is None:
        raise ConfigError("authority.enrolment names no coordinator; set host:port")
    try:
        authority = config.authority.certificate.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the CA certificate: {error}") from None
    revoked, proxy = Revocations(config.authority.revoked), config.network.rule()
    address = config.authority.enrolment
    return EnrolmentLink(address, authority, own, utc_now, revoked, proxy)


def own_identities(config: ServerConfig) -> list[tuple[PeerName, IdentitySection]]:
    """Returns who the config's roles are, and where their certificates lie."""
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
