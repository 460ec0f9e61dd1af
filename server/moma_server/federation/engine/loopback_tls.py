"""A certificate for 127.0.0.1, made at every start and trusted by nobody else.

SuperLink checks its nodes' signatures only behind TLS. What connects to it lives in
this machine, so the federation's own key need not.
"""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moma_core.runtime.files import write_private

_LIFETIME = timedelta(days=3650)  # the key is thrown away at the next start


class LoopbackTls(NamedTuple):
    """Files; the certificate is its own authority."""

    certificate: Path
    key: Path


def make_loopback_tls(folder: Path) -> LoopbackTls:
    """Writes a fresh key and certificate into `folder`, over the last ones."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "superlink loopback")])
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    files = LoopbackTls(folder / "loopback.pem", folder / "loopback.key")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(files.certificate, certificate.public_bytes(Encoding.PEM))
    write_private(files.key, private)
    return files
