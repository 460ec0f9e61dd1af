"""The federation's CA, the short-lived certificates it signs, and the checks of both.

A party makes its key where it lives and sends a signing request; the CA looks at every
claim in it and signs those that it expects. Keys are ECDSA P-256 throughout: beside an
RSA-only TLS 1.2 cipher list they leave TLS 1.3 as the only way in.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moma_core.errors import CertificateError, NotAuthorizedError, quoted
from moma_core.pki.identity import (
    UNREADABLE,
    PeerKind,
    PeerName,
    check_federation,
    check_host,
    is_address,
    load_certificate,
    read_peer,
)

AUTHORITY_LIFETIME = timedelta(days=3650)

CERTIFICATE_LIFETIME = timedelta(days=30)

LONGEST_LIFETIME = timedelta(days=90)

CLOCK_SKEW = timedelta(minutes=5)  # a site's clock may be this late

_LONGEST_REQUEST_BYTES = 16 * 1024

_Extension = x509.Extension[x509.ExtensionType]

_PURPOSES: dict[PeerKind, list[x509.ObjectIdentifier]] = {
    "site": [ExtendedKeyUsageOID.CLIENT_AUTH],
    # a teacher behind a firewall dials out, so it is a client as well
    "teacher": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    "coordinator": [ExtendedKeyUsageOID.SERVER_AUTH],
}


class Credential(NamedTuple):
    """A certificate and the key that belongs to it, both PEM."""

    certificate_pem: bytes
    key_pem: bytes


def create_authority(federation: str, *, now: datetime) -> Credential:
    """Makes the CA of a new federation; done once in its life.

    Args:
        federation: The federation's name, the trust domain of every certificate.
        now: The present, with a time zone; the CA lives for ten years from here.

    Raises:
        CertificateError: `federation` is no name of a federation.
    """
    check_federation(federation)
    key_pem = create_key()
    key = load_key(key_pem)
    name = common_name(federation)
    certificate = (
        certificate_builder(
            name, name, key.public_key(), now=now, lifetime=AUTHORITY_LIFETIME
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Credential(certificate.public_bytes(Encoding.PEM), key_pem)


def create_key() -> bytes:
    """Returns a fresh ECDSA P-256 private key, PEM; keep it with `write_private`."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def create_request(key_pem: bytes, uri: str, hosts: Sequence[str] = ()) -> bytes:
    """Returns a signing request, PEM, for a key that stays where it is.

    Args:
        key_pem: The party's own key.
        uri: The party's name in the federation, see `PeerName`.
        hosts: Host names and IP addresses under which the party can be reached.

    Raises:
        CertificateError: The key or the name is not acceptable.
    """
    peer = PeerName.parse(uri)
    names = x509.SubjectAlternativeName(_alternative_names(peer, hosts))
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(common_name(peer.name))
        .add_extension(names, critical=False)
        .sign(load_key(key_pem), hashes.SHA256())
    )
    return request.public_bytes(Encoding.PEM)


def sign_request(
    csr_pem: bytes,
    authority: Credential,
    *,
    expected_uri: str,
    hosts: Sequence[str] = (),
    lifetime: timedelta = CERTIFICATE_LIFETIME,
    now: datetime,
) -> bytes:
    """Returns the certificate, PEM, of a request that claims what was expected.

    Args:
        csr_pem: The request as the party sent it; nothing in it is believed.
        authority: The federation's CA certificate and key.
        expected_uri: The one name that the request may carry.
        hosts: Host names and addresses; the request may name these and no others.
        lifetime: How long the certificate is good, at most 90 days.
        now: The present, with a time zone.

    Raises:
        CertificateError: The request is unsound, or claims what was not expected.
        ValueError: `lifetime` is not in (0, 90 days].
    """
    if not timedelta(0) < lifetime <= LONGEST_LIFETIME:
        raise ValueError(f"lifetime must be in (0, 90 days], got {lifetime}")
    peer = PeerName.parse(expected_uri)
    issuer = load_certificate(authority.certificate_pem)
    _check_issuer(issuer, peer, until=now + lifetime)
    names = _alternative_names(peer, hosts)
    subject, key = common_name(peer.name), _requested_key(csr_pem, names)
    certificate = (
        certificate_builder(subject, issuer.subject, key, now=now, lifetime=lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_PURPOSES[peer.kind]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_issuer_key(issuer), critical=False)
        .sign(load_key(authority.key_pem), hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def check_issued(certificate_pem: bytes, authority_pem: bytes) -> None:
    """Checks that the CA signed a certificate; says nothing of its time.

    Raises:
        CertificateError: It did not, or one of them cannot be read.
    """
    certificate = load_certificate(certificate_pem)
    try:
        certificate.verify_directly_issued_by(load_certificate(authority_pem))
    except (*UNREADABLE, InvalidSignature) as error:
        message = "the certificate is not signed by the federation's authority"
        raise CertificateError(message) from error


def check_own_certificate(
    certificate_pem: bytes,
    *,
    authority_pem: bytes,
    own: PeerName,
    key_pem: bytes,
    now: datetime,
) -> None:
    """Checks that a certificate is what its owner requested, before it is used.

    Args:
        certificate_pem: The certificate as the coordinator returned it.
        authority_pem: The CA certificate that is known to be ours.
        own: The owner's name.
        key_pem: The owner's key, unencrypted.
        now: The present, with a time zone.

    Raises:
        CertificateError: It is of another CA, name or key, or lives too long, or not
            now.
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
    begin, end = life(certificate_pem)
    if not begin - CLOCK_SKEW <= now < end:
        raise CertificateError(
            f"the certificate that was returned lives from {begin.isoformat()} to "
            f"{end.isoformat()}, it is {now.isoformat()}: is the clock right?"
        )
    if end - begin > LONGEST_LIFETIME:
        days = (end - begin).days
        raise CertificateError(f"a certificate of {days} days lives too long")


def check_pair(certificate_pem: bytes, key_pem: bytes) -> None:
    """Checks that a certificate is of a key.

    Raises:
        CertificateError: It is of another, or one of them cannot be read.
    """
    try:
        key = load_pem_private_key(key_pem, None)
    except UNREADABLE:
        raise CertificateError("the private key cannot be read") from None
    if load_certificate(certificate_pem).public_key() != key.public_key():
        raise CertificateError("the certificate does not belong to the key")


def life(certificate_pem: bytes) -> tuple[datetime, datetime]:
    """Returns when a certificate was signed, and when it ends.

    Raises:
        CertificateError: It cannot be read.
    """
    certificate = load_certificate(certificate_pem)
    begin = certificate.not_valid_before_utc + CLOCK_SKEW
    return begin, certificate.not_valid_after_utc


def read_authority(pem: bytes) -> x509.Certificate:
    """Returns the CA certificate that a PEM file holds.

    Raises:
        CertificateError: It cannot be read, or is not one.
    """
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except UNREADABLE:
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


def _check_issuer(issuer: x509.Certificate, peer: PeerName, *, until: datetime) -> None:
    federation = issuer.subject.rfc4514_string().removeprefix("CN=")
    if federation != peer.federation:
        raise CertificateError(f"the authority of {federation!r} cannot sign {peer}")
    if until > issuer.not_valid_after_utc:
        end = issuer.not_valid_after_utc.isoformat()
        raise CertificateError(f"the certificate would outlive its authority, {end}")


def _requested_key(
    csr_pem: bytes, expected: Sequence[x509.GeneralName]
) -> ec.EllipticCurvePublicKey:
    """Returns a request's key if it claims its name, expected names, and no more."""
    if len(csr_pem) > _LONGEST_REQUEST_BYTES:
        raise CertificateError(f"a signing request of {len(csr_pem)} bytes is too long")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        signed = request.is_signature_valid
        extensions = list(request.extensions)
        key = request.public_key()
    except UNREADABLE as error:
        raise CertificateError("the signing request cannot be read") from error
    if not signed:
        raise CertificateError("the signing request is not signed by its own key")
    _check_claims(extensions, expected)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return key
    raise CertificateError("the key of a signing request must be ECDSA P-256")


def _check_claims(
    extensions: Sequence[_Extension], expected: Sequence[x509.GeneralName]
) -> None:
    claimed: list[x509.GeneralName] = []
    for extension in extensions:
        if not isinstance(extension.value, x509.SubjectAlternativeName):
            oid = extension.oid.dotted_string
            raise CertificateError(f"the signing request asks for extension {oid}")
        claimed.extend(extension.value)
    if expected[0] not in claimed:
        raise CertificateError(f"the signing request is not for {expected[0].value}")
    for name in claimed:
        if name not in expected:
            raise CertificateError(
                f"the signing request also claims {quoted(str(name.value))}"
            )


def _alternative_names(peer: PeerName, hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Returns the party's URI, then its hosts."""
    return [x509.UniformResourceIdentifier(str(peer)), *map(_host_name, hosts)]


def _host_name(host: str) -> x509.GeneralName:
    if is_address(host):
        return x509.IPAddress(ip_address(host))
    check_host(host)
    return x509.DNSName(host)


def common_name(name: str) -> x509.Name:
    """Returns a subject or issuer that has a common name and nothing else."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certificate_builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    """Returns what all our certificates begin with; extensions and signature follow."""
    identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(identifier, critical=False)
    )


def _issuer_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def load_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Reads an unencrypted private key.

    Raises:
        CertificateError: It cannot be read, or is not ECDSA P-256.
    """
    try:
        key = load_pem_private_key(key_pem, password=None)
    except UNREADABLE as error:
        raise CertificateError("the private key cannot be read") from error
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1":
        return key
    raise CertificateError("the private key must be ECDSA P-256")
