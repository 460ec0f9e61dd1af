from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from moma_core.errors import CertificateError
from moma_core.pki.certificates import (
    Credential,
    check_issued,
    create_authority,
    create_key,
    create_request,
    sign_request,
)
from moma_core.pki.names import PeerName

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SITE = str(PeerName("colon-study", "site", "site-a"))
TEACHER = str(PeerName("colon-study", "teacher", "teacher-a"))


@pytest.fixture(scope="module")
def authority() -> Credential:
    return create_authority("colon-study", now=NOW)


def request_with(
    names: Sequence[x509.GeneralName],
    *others: x509.ExtensionType,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in others:
        builder = builder.add_extension(extension, critical=False)
    key = key or ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def sign(csr_pem: bytes, authority: Credential, uri: str = SITE) -> x509.Certificate:
    pem = sign_request(csr_pem, authority, expected_uri=uri, now=NOW)
    return x509.load_pem_x509_certificate(pem)


def test_the_authority_signs_leaves_and_no_further_authority(
    authority: Credential,
) -> None:
    certificate = x509.load_pem_x509_certificate(authority.certificate_pem)

    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)

    assert constraints.critical
    assert constraints.value.ca
    assert constraints.value.path_length == 0
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    lifetime = certificate.not_valid_after_utc - NOW
    assert lifetime == timedelta(days=3650)


def test_a_site_gets_a_short_certificate_for_calling_only(
    authority: Credential,
) -> None:
    key_pem = create_key()

    certificate = sign(create_request(key_pem, SITE), authority)

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert list(names.value) == [x509.UniformResourceIdentifier(SITE)]
    assert list(usage.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not constraints.value.ca
    assert certificate.not_valid_after_utc == NOW + timedelta(days=30)
    own_key = load_pem_private_key(key_pem, password=None).public_key()
    assert certificate.public_key() == own_key
    check_issued(certificate.public_bytes(Encoding.PEM), authority.certificate_pem)


def test_a_teacher_gets_the_hosts_that_the_signer_grants(authority: Credential) -> None:
    hosts = ("teacher.example.org", "127.0.0.1")

    pem = sign_request(
        create_request(create_key(), TEACHER, hosts),
        authority,
        expected_uri=TEACHER,
        hosts=hosts,
        now=NOW,
    )

    names = (
        x509.load_pem_x509_certificate(pem)
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    assert names.get_values_for_type(x509.DNSName) == ["teacher.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == [hosts[1]]


@pytest.mark.parametrize(
    "smuggled",
    [
        x509.UniformResourceIdentifier("spiffe://colon-study/coordinator/boss"),
        x509.DNSName("teacher.example.org"),
        x509.RFC822Name("boss@example.org"),
    ],
)
def test_a_request_that_claims_a_further_name_is_refused(
    authority: Credential, smuggled: x509.GeneralName
) -> None:
    csr_pem = request_with([x509.UniformResourceIdentifier(SITE), smuggled])

    with pytest.raises(CertificateError, match="also claims"):
        sign(csr_pem, authority)


@pytest.mark.parametrize(
    "smuggled",
    [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    ],
)
def test_a_request_that_asks_for_a_further_power_is_refused(
    authority: Credential, smuggled: x509.ExtensionType
) -> None:
    csr_pem = request_with([x509.UniformResourceIdentifier(SITE)], smuggled)

    with pytest.raises(CertificateError, match=r"asks for extension 2\.5\.29"):
        sign(csr_pem, authority)


def test_a_request_for_another_name_is_refused(authority: Credential) -> None:
    csr_pem = create_request(create_key(), TEACHER)

    with pytest.raises(CertificateError, match=r"is not for .*site-a"):
        sign(csr_pem, authority)


def test_a_request_without_any_name_is_refused(authority: Credential) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    bare = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    csr_pem = bare.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)

    with pytest.raises(CertificateError, match=r"is not for .*site-a"):
        sign(csr_pem, authority)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ],
    ids=["P-384", "RSA"],
)
def test_a_key_of_another_type_is_refused(
    authority: Credential, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> None:
    names = [x509.UniformResourceIdentifier(SITE)]

    with pytest.raises(CertificateError, match="must be ECDSA P-256"):
        sign(request_with(names, key=key), authority)

    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(CertificateError, match="must be ECDSA P-256"):
        create_request(pem, SITE)


def test_a_request_that_another_key_signed_is_refused(authority: Credential) -> None:
    honest = x509.load_pem_x509_csr(create_request(create_key(), SITE))
    damaged = bytearray(honest.public_bytes(Encoding.DER))
    signature_at = damaged.rindex(honest.signature)
    damaged[signature_at + 10] ^= 1  # inside the first number of the signature
    csr = x509.load_der_x509_csr(bytes(damaged))

    with pytest.raises(CertificateError, match="not signed by its own key"):
        sign(csr.public_bytes(Encoding.PEM), authority)


@pytest.mark.parametrize(
    "junk",
    [b"", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", b"x" * 20_000],
    ids=["empty", "cut", "long"],
)
def test_junk_is_refused(authority: Credential, junk: bytes) -> None:
    with pytest.raises(CertificateError, match="signing request"):
        sign(junk, authority)


def test_an_authority_signs_for_its_own_federation_only(authority: Credential) -> None:
    foreign = str(PeerName("other-study", "site", "site-a"))

    with pytest.raises(CertificateError, match="authority of 'colon-study'"):
        sign(create_request(create_key(), foreign), authority, foreign)


def test_no_certificate_outlives_its_authority(authority: Credential) -> None:
    late = NOW + timedelta(days=3649)

    with pytest.raises(CertificateError, match="outlive"):
        sign_request(
            create_request(create_key(), SITE), authority, expected_uri=SITE, now=late
        )


@pytest.mark.parametrize("days", [0, -1, 91])
def test_a_lifetime_out_of_range_is_a_programmers_mistake(
    authority: Credential, days: int
) -> None:
    with pytest.raises(ValueError, match="lifetime"):
        sign_request(
            create_request(create_key(), SITE),
            authority,
            expected_uri=SITE,
            lifetime=timedelta(days=days),
            now=NOW,
        )


def test_a_certificate_of_another_authority_is_found(authority: Credential) -> None:
    impostor = create_authority("colon-study", now=NOW)
    certificate = sign(create_request(create_key(), SITE), impostor)
    pem = certificate.public_bytes(Encoding.PEM)

    with pytest.raises(CertificateError, match="not signed by"):
        check_issued(pem, authority.certificate_pem)
