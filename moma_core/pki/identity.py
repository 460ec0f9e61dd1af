"""Who a peer is, and whether it is admitted: asked again at every call.

TLS has checked the chain, and that once: a connection outlives the certificate that
opened it. What is checked here, in this order: one name of the federation's form, our
federation, a kind that is served, not expired, not revoked.
"""

from collections.abc import Collection, Container
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from moma_core.errors import (
    CertificateError,
    ExpiredError,
    NotAuthorizedError,
    RevokedError,
)
from moma_core.pki.names import PeerKind, PeerName

_UNREADABLE = (
    ValueError,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,  # such as an X.400 address
)


@dataclass(frozen=True, slots=True)
class Peer:
    """A party as its certificate names it.

    Args:
        kind: What it is.
        name: Its name among those of its kind.
        federation: The trust domain.
        serial: Of the certificate.
        not_after: The certificate's last moment, UTC.
    """

    kind: PeerKind
    name: str
    federation: str
    serial: int
    not_after: datetime

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def read_peer(pem: bytes) -> Peer:
    """Returns the party that a certificate names.

    Args:
        pem: The certificate; of a chain, the first one is read.

    Raises:
        NotAuthorizedError: It cannot be read, or does not hold exactly one name of
            the form `spiffe://<federation>/<kind>/<name>`.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.UniformResourceIdentifier)
    except _UNREADABLE as error:
        raise NotAuthorizedError("the certificate names nobody") from error
    if len(names) != 1:
        raise NotAuthorizedError(
            f"the certificate has {len(names)} names, it needs one"
        )
    try:
        name = PeerName.parse(names[0])
    except CertificateError as error:
        raise NotAuthorizedError(str(error)) from error
    return Peer(
        kind=name.kind,
        name=name.name,
        federation=name.federation,
        serial=certificate.serial_number,
        not_after=certificate.not_valid_after_utc,
    )


def authorize(
    pem: bytes,
    *,
    now: datetime,
    revoked: Container[int],
    federation: str,
    kinds: Collection[PeerKind],
) -> Peer:
    """Returns the party behind a certificate if it may come in at this moment.

    Args:
        pem: The peer's certificate, whose chain TLS has checked.
        now: With a time zone.
        revoked: Serials that were revoked, see `Revocations`.
        federation: Ours.
        kinds: Whom the caller serves.

    Raises:
        ExpiredError: The certificate's time is over.
        RevokedError: It was revoked.
        NotAuthorizedError: It names nobody, another federation's party, or a kind
            of party that is not served here.
    """
    peer = read_peer(pem)
    if peer.federation != federation:
        raise NotAuthorizedError(f"{peer} is of the federation {peer.federation!r}")
    if peer.kind not in kinds:
        raise NotAuthorizedError(f"{peer} is not served here, a {peer.kind} never is")
    if now >= peer.not_after:
        end = peer.not_after.isoformat()
        raise ExpiredError(f"the certificate of {peer} expired at {end}")
    if peer.serial in revoked:
        raise RevokedError(
            f"the certificate of {peer} is revoked; it comes back with new keys and a "
            f"new token of the coordinator"
        )
    return peer
