"""A certificate as its owner sees it: is it what was asked for, and when is it old?

What a coordinator returns is looked at before it takes the place of the old one: of
our authority, for our name and our key, and not for longer than any may live.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from moma_core.errors import CertificateError, NotAuthorizedError
from moma_core.pki.certificates import (
    CLOCK_SKEW,
    LONGEST_LIFETIME,
    check_issued,
)
from moma_core.pki.identity import read_peer
from moma_core.pki.names import PeerName

RENEWED_AFTER = 2 / 3  # of a certificate's life


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """Where a party's certificate and key lie, and its federation's certificate.

    Args:
        certificate: PEM.
        key: PEM; encrypted if there is a passphrase file.
        authority: PEM.
        passphrase_file: None: the key is not encrypted.
    """

    certificate: Path
    key: Path
    authority: Path
    passphrase_file: Path | None = None


def check_own_certificate(
    certificate_pem: bytes,
    *,
    authority_pem: bytes,
    own: PeerName,
    key_pem: bytes,
    now: datetime,
) -> None:
    """Checks that a certificate is what its owner asked for.

    Args:
        certificate_pem: As the coordinator returned it.
        authority_pem: The authority that is known to be ours.
        own: The owner's name.
        key_pem: The owner's key, unencrypted.
        now: With a time zone.

    Raises:
        CertificateError: It is of another authority, name or key, or lives too long,
            or not now.
    """
    check_issued(certificate_pem, authority_pem)
    try:
        peer = read_peer(certificate_pem)
    except NotAuthorizedError as error:
        raise CertificateError(f"the certificate that was returned: {error}") from None
    found = PeerName(peer.federation, peer.kind, peer.name)
    if found != own:
        raise CertificateError(f"the certificate that was returned is of {found}")
    check_pair(certificate_pem, key_pem)
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now < end:
        raise CertificateError(
            f"the certificate that was returned lives from {begin.isoformat()} to "
            f"{end.isoformat()}, it is {now.isoformat()}: is the clock right?"
        )
    if end - begin > LONGEST_LIFETIME + CLOCK_SKEW:
        days = (end - begin).days
        raise CertificateError(f"a certificate of {days} days lives too long")


def check_pair(certificate_pem: bytes, key_pem: bytes) -> None:
    """Checks that a certificate is of a key.

    Raises:
        CertificateError: It is of another, or one of them cannot be read.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = load_pem_private_key(key_pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateError("certificate or key cannot be read") from None
    if certificate.public_key() != key.public_key():
        raise CertificateError("the certificate does not belong to the key")


def renewal_time(certificate_pem: bytes) -> datetime:
    """Returns when two thirds of a certificate's life are over.

    Raises:
        CertificateError: It cannot be read.
    """
    begin, end = life(certificate_pem)
    return begin + RENEWED_AFTER * (end - begin)


def life(certificate_pem: bytes) -> tuple[datetime, datetime]:
    """Returns when a certificate was signed, and when it ends.

    Raises:
        CertificateError: It cannot be read.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError:
        raise CertificateError("the certificate cannot be read") from None
    begin = certificate.not_valid_before_utc + CLOCK_SKEW
    return begin, certificate.not_valid_after_utc


def remaining(certificate_pem: bytes, now: datetime) -> timedelta:
    """Returns how long a certificate is still good; negative if it is over."""
    return life(certificate_pem)[1] - now


def certificate_hosts(certificate_pem: bytes) -> tuple[str, ...]:
    """Returns the host names and addresses that a certificate is good for.

    Raises:
        CertificateError: It cannot be read.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise CertificateError("the certificate names nobody") from None
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *map(str, addresses))


def expiry_time(certificate: Path) -> float:
    """Returns the last moment of a certificate, in seconds since 1970.

    One that cannot be read counts as over, 0: whoever waits for the end of it is to
    hear of that, too.

    Args:
        certificate: PEM; of a chain, the first one is read.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return 0.0
    return found.not_valid_after_utc.timestamp()


def renewal_due(certificate: Path) -> float:
    """Returns when its keeper renews a certificate, in seconds since 1970.

    0 where it cannot be read: then nobody can renew it.

    Args:
        certificate: PEM; of a chain, the first one is read.
    """
    try:
        return renewal_time(certificate.read_bytes()).timestamp()
    except (OSError, CertificateError):
        return 0.0
