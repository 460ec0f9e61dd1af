"""The next certificate of a member: the same names, the same key, a new end."""

from collections.abc import Collection
from datetime import UTC, datetime

from moma_core.errors import CertificateError, NotAuthorizedError
from moma_core.pki.certificates import check_issued, sign_request
from moma_core.pki.identity import Peer, authorize, read_peer
from moma_core.pki.names import PeerKind, PeerName
from moma_core.pki.validity import certificate_hosts, life
from moma_core.runtime.files import locked
from moma_server.config.server import ServerConfig
from moma_server.membership.members import (
    file_certificate,
    issued_lifetime,
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

    Asked in the first half of the newest one's life, returns that: no disk is filled.

    Args:
        config: The coordinator's.
        certificate: The member's current one, PEM.
        request: A CSR of the same key: who made it has the key.
        kinds: Of members that may ask.

    Raises:
        NotAuthorizedError: The certificate is expired, revoked, or none of ours.
        CertificateError: The request claims something else.
    """
    authority = signing_authority(config)
    now = datetime.now(UTC)
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
        newest = _newest(config, peer, key_of(certificate))
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


def _newest(config: ServerConfig, peer: Peer, key: bytes) -> bytes | None:
    """Returns a member's certificate of that key that ends last, if it is in force."""
    taken_back = revoked_serials(config)
    found = [
        path.read_bytes()
        for path in member_folder(config).glob(f"{peer.kind}.{peer.name}.*.pem")
    ]
    fitting = [
        pem
        for pem in found
        if key_of(pem) == key and read_peer(pem).serial not in taken_back
    ]
    return max(fitting, key=lambda pem: read_peer(pem).not_after, default=None)


def _is_young(certificate: bytes, now: datetime) -> bool:
    begin, end = life(certificate)
    return now < begin + (end - begin) / 2
