"""When a certificate on disk ends, for those who watch over it."""

from pathlib import Path

from cryptography import x509


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
