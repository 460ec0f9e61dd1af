"""Certificates that were revoked before their time: a JSON file, and an X.509 CRL.

Who cannot read the file cannot know who was revoked, so a missing or damaged file
refuses everybody. Damaged is also what is not as it was written: the file has a digest.
An empty list is therefore a file too; `start` writes it.

A teacher at another institution has no part of the coordinator's disk. It fetches the
CRL every few seconds: the CA's signature says whose it is, its time how old it is, and
its number that it is no older one that was kept back.

Source: RFC 5280, section 5.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AwareDatetime, Field, TypeAdapter, with_config

from moma_core.errors import CertificateError
from moma_core.pki.certificates import CLOCK_SKEW, Credential, load_key
from moma_core.pki.identity import UNREADABLE, load_certificate
from moma_core.runtime.checked_rows import read_rows, write_rows
from moma_core.runtime.files import WatchedFile, locked

_logger = logging.getLogger(__name__)

LIST_LIFETIME = timedelta(hours=1)

_LONGEST_LIST_BYTES = 8 << 20

MOST_LEARNT = 100_000
"""Entries of a file that somebody else's list adds to; all are in memory."""

LARGEST_SERIAL: Final = 2**159 - 1
"""Twenty octets; no certificate and no signed list has a larger one."""

# What a signed list can say of a time, in every zone.
_FIRST_TIME = datetime(1950, 1, 1, tzinfo=UTC)
_LAST_TIME = datetime(9999, 1, 1, tzinfo=UTC)


@with_config(extra="forbid")
@dataclass(frozen=True, slots=True)
class Revocation:
    """One certificate that was revoked.

    Args:
        serial: The certificate's serial number; in the file a decimal string, since
            JSON's readers round numbers of this length.
        name: The party whose certificate it was, for the reader of the file.
        revoked_at: When it was revoked.
    """

    serial: Annotated[int, Field(gt=0, le=LARGEST_SERIAL)]
    name: str
    revoked_at: Annotated[AwareDatetime, Field(ge=_FIRST_TIME, le=_LAST_TIME)]


_LIST = TypeAdapter(tuple[Revocation, ...])


class Revocations:
    """The serials that are refused, read again when the file changes.

    Safe to use from several threads.

    Args:
        path: The JSON file; `start` makes it.
    """

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path, _serials_in)

    def __contains__(self, serial: object) -> bool:
        """Says whether a certificate is refused: all are while the file is damaged."""
        serials = self._file.content()
        return serials is None or serial in serials


def _serials_in(path: Path) -> frozenset[int] | None:
    try:
        return frozenset(entry.serial for entry in read_revocations(path))
    except CertificateError as error:
        _logger.error("everybody is refused: %s", error)
        return None


def start(path: Path) -> None:
    """Writes an empty list, unless there is a list already."""
    with locked(path.parent):
        if not path.exists():
            _write(path, ())


def read_revocations(path: Path) -> tuple[Revocation, ...]:
    """Returns what was revoked, oldest first.

    Raises:
        CertificateError: The file is missing or damaged.
    """
    try:
        return read_rows(path, _LIST)
    except OSError as error:
        raise CertificateError(f"cannot read the revocations {path}: {error}") from None
    except ValueError as error:
        raise CertificateError(f"the revocations {path} are damaged: {error}") from None


def revoke(path: Path, *, serial: int, name: str, now: datetime) -> None:
    """Revokes a certificate; who reads the file refuses it from here on.

    Args:
        path: The JSON file; several processes may write to it at once.
        serial: The certificate's serial number; once in the list it stays as it is.
        name: The party whose certificate it is.
        now: The present, with a time zone.

    Raises:
        CertificateError: The list is missing or damaged; it is left alone.
    """
    with locked(path.parent):
        entries = read_revocations(path)
        if all(entry.serial != serial for entry in entries):
            _write(path, (*entries, Revocation(serial, name, now)))


def learn(path: Path, serials: Iterable[int], *, name: str, now: datetime) -> int:
    """Adds what somebody else revoked; what is in the list already stays as it is.

    Args:
        path: The JSON file.
        serials: Serial numbers of certificates.
        name: Who said so, for the reader of the file.
        now: The present, with a time zone.

    Returns:
        How many were new.

    Raises:
        CertificateError: The list is missing or damaged, or would have more than
            `MOST_LEARNT` entries; it is left alone.
    """
    with locked(path.parent):
        entries = read_revocations(path)
        known = {entry.serial for entry in entries}
        fresh = sorted(s for s in set(serials) - known if 0 < s <= LARGEST_SERIAL)
        if len(entries) + len(fresh) > MOST_LEARNT:
            raise CertificateError(
                f"with {len(fresh)} more {path} would hold over {MOST_LEARNT} revoked "
                f"certificates, which no federation has: ask who signs {name}"
            )
        if fresh:
            more = tuple(Revocation(serial, name, now) for serial in fresh)
            _write(path, (*entries, *more))
        return len(fresh)


def _write(path: Path, entries: tuple[Revocation, ...]) -> None:
    rows = [
        {
            "serial": str(entry.serial),
            "name": entry.name,
            "revoked_at": entry.revoked_at.isoformat(),
        }
        for entry in entries
    ]
    write_rows(path, rows, "the revocations")


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What one CRL says.

    Args:
        serials: Serial numbers of the certificates that were revoked.
        made_at: When the list was signed; it is as true as it is young.
        number: Grows from list to list.
    """

    serials: frozenset[int]
    made_at: datetime
    number: int


def sign_list(
    entries: Iterable[Revocation], authority: Credential, *, now: datetime
) -> bytes:
    """Returns the CRL, DER, signed by the CA.

    Args:
        entries: All that was revoked.
        authority: The federation's CA certificate and key.
        now: The present, with a time zone.

    Raises:
        CertificateError: The CA's key or certificate cannot be used.
    """
    issuer = load_certificate(authority.certificate_pem)
    number = x509.CRLNumber(int(now.timestamp() * 1000))
    revoked = [
        x509.RevokedCertificateBuilder()
        .serial_number(entry.serial)
        .revocation_date(entry.revoked_at)
        .build()
        for entry in entries
    ]
    builder = (  # which copies all that it has for each one that is added later
        x509.CertificateRevocationListBuilder(revoked_certificates=revoked)
        .issuer_name(issuer.subject)
        .last_update(now)
        .next_update(now + LIST_LIFETIME)
        .add_extension(number, critical=False)
    )
    signed = builder.sign(load_key(authority.key_pem), hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


def read_list(
    der: bytes, authority_pem: bytes, *, now: datetime | None
) -> RevocationList:
    """Returns what a CRL says, if the CA has signed it for this time.

    Args:
        der: The CRL as it came.
        authority_pem: The federation's CA certificate.
        now: The present, with a time zone; None where an old list is welcome, as
            one's own.

    Raises:
        CertificateError: It cannot be read, is of another CA, is too old or from the
            future.
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
    except UNREADABLE:
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
