"""The authority's signed list of revoked certificates: an X.509 CRL.

A teacher at another institution has no part of the coordinator's disk. It asks for this
list every few seconds: the authority's signature says whose it is, its time how old it
is, and its number that it is no older one that was kept back.

Source: RFC 5280, section 5.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
)

from moma_core.errors import CertificateError
from moma_core.pki.certificates import CLOCK_SKEW, Credential
from moma_core.pki.revocations import Revocation

LIST_LIFETIME = timedelta(hours=1)

_LONGEST_LIST_BYTES = 8 << 20
_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What one list says.

    Args:
        serials: Of the certificates that were revoked.
        made_at: When it was signed; a list is as true as it is young.
        number: Grows from list to list.
    """

    serials: frozenset[int]
    made_at: datetime
    number: int


def sign_list(
    entries: Iterable[Revocation], authority: Credential, *, now: datetime
) -> bytes:
    """Returns the list, DER, signed by the authority.

    Args:
        entries: All that was revoked.
        authority: The federation's.
        now: With a time zone.

    Raises:
        CertificateError: The authority's key or certificate cannot be used.
    """
    try:
        issuer = x509.load_pem_x509_certificate(authority.certificate_pem)
        key = load_pem_private_key(authority.key_pem, None)
    except (ValueError, TypeError):
        raise CertificateError("the authority cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError("the authority's key must be ECDSA P-256")
    number = x509.CRLNumber(int(now.timestamp() * 1000))
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now)
        .next_update(now + LIST_LIFETIME)
        .add_extension(number, critical=False)
    )
    for entry in entries:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(entry.serial)
            .revocation_date(entry.revoked_at)
            .build()
        )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def read_list(
    der: bytes, authority_pem: bytes, *, now: datetime | None
) -> RevocationList:
    """Returns what a list says, if the authority has signed it for this time.

    Args:
        der: As it came.
        authority_pem: The federation's CA certificate.
        now: With a time zone; None where an old list is welcome, as one's own.

    Raises:
        CertificateError: It cannot be read, is of another authority, is too old or
            from the future.
    """
    if len(der) > _LONGEST_LIST_BYTES:
        raise CertificateError(f"a revocation list of {len(der)} bytes is too long")
    try:
        found = x509.load_der_x509_crl(der)
        issuer = x509.load_pem_x509_certificate(authority_pem)
        key = issuer.public_key()
        is_ours = (
            isinstance(key, ec.EllipticCurvePublicKey)
            and found.issuer == issuer.subject
            and found.is_signature_valid(key)
        )
        serials = frozenset(entry.serial_number for entry in found)
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value
        made_at, until = found.last_update_utc, found.next_update_utc
    except _UNREADABLE:
        raise CertificateError("the revocation list cannot be read") from None
    if not is_ours:
        raise CertificateError("the revocation list is not signed by our authority")
    if now is not None and _is_of_another_time(made_at, until, now):
        raise CertificateError(
            f"the revocation list is of {made_at.isoformat()}, which is not now"
        )
    return RevocationList(serials, made_at, number.crl_number)


def _is_of_another_time(
    made_at: datetime, until: datetime | None, now: datetime
) -> bool:
    return until is None or now >= until or made_at > now + CLOCK_SKEW
