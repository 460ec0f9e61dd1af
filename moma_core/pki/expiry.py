"""When a certificate on disk ends and is renewed, for those who watch over it."""

from pathlib import Path

from cryptography import x509

from moma_core.errors import CertificateError
from moma_core.pki.validity import renewal_time


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
