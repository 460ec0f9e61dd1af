"""A federation's authority is one certificate, never a bundle of several.

Whoever verifies a chain trusts every certificate in the file that it is given, but a
fingerprint is of one. So whatever is compared with a fingerprint, written to a disk or
trusted is first read here.
"""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from moma_core.errors import CertificateError


def read_authority(pem: bytes) -> x509.Certificate:
    """Returns the CA certificate that a PEM file holds.

    Raises:
        CertificateError: It cannot be read, or is not one.
    """
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CertificateError("the authority's certificate cannot be read") from None
    if len(certificates) != 1:
        raise CertificateError(
            f"an authority is one certificate, not {len(certificates)} in one file"
        )
    return certificates[0]


def only_authority(pem: bytes) -> bytes:
    """Returns the CA certificate, PEM, and nothing that stood beside it.

    Raises:
        CertificateError: As `read_authority`.
    """
    return read_authority(pem).public_bytes(Encoding.PEM)


def authority_fingerprint(pem: bytes) -> str:
    """Returns SHA-256 of the CA certificate in DER, hexadecimal.

    Raises:
        CertificateError: As `read_authority`.
    """
    return read_authority(pem).fingerprint(hashes.SHA256()).hex()
