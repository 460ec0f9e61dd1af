from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from moma_core.errors import ExpiredError, NotAuthorizedError, RevokedError
from moma_core.pki.identity import authorize, read_peer
from moma_core.pki.names import PeerKind
from tests.support.federation.pki import Pki

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def certificate_named(*uris: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), serial_number=7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    if uris:
        names = map(x509.UniformResourceIdentifier, uris)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_site_with_a_good_certificate_is_admitted_by_its_name(pki: Pki) -> None:
    pem, _ = pki.site("site-a", now=NOW)

    peer = authorize(
        pem, now=NOW, revoked=(), federation=pki.federation, kinds=("site", "teacher")
    )

    assert (peer.kind, peer.name) == ("site", "site-a")
    assert peer.federation == pki.federation
    assert peer.not_after == NOW + timedelta(days=30)
    assert peer.serial == x509.load_pem_x509_certificate(pem).serial_number


def test_a_certificate_is_over_at_its_last_moment(pki: Pki) -> None:
    pem, _ = pki.site("site-a", now=NOW, lifetime=timedelta(hours=1))
    last = NOW + timedelta(hours=1)
    before = last - timedelta(seconds=1)

    authorize(pem, now=before, revoked=(), federation=pki.federation, kinds=("site",))

    with pytest.raises(ExpiredError, match="site site-a expired at 2026-03-01T13:00"):
        authorize(pem, now=last, revoked=(), federation=pki.federation, kinds=("site",))


def test_a_revoked_certificate_is_refused(pki: Pki) -> None:
    pem, _ = pki.site("site-a", now=NOW)
    revoked = {read_peer(pem).serial}

    with pytest.raises(RevokedError, match="site site-a is revoked"):
        authorize(
            pem, now=NOW, revoked=revoked, federation=pki.federation, kinds=("site",)
        )


@pytest.mark.parametrize(
    ("federation", "kinds", "reason"),
    [
        ("other-study", ("site",), "is of the federation"),
        ("test-federation", ("teacher", "coordinator"), "is not served here"),
        ("test-federation", (), "is not served here"),
    ],
)
def test_a_party_that_is_not_for_us_is_refused(
    pki: Pki, federation: str, kinds: tuple[PeerKind, ...], reason: str
) -> None:
    pem, _ = pki.site("site-a", now=NOW)

    with pytest.raises(NotAuthorizedError, match=reason) as refusal:
        authorize(pem, now=NOW, revoked=(), federation=federation, kinds=kinds)

    assert type(refusal.value) is NotAuthorizedError


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://example.org",),
        ("spiffe://study/site/site-a", "spiffe://study/site/site-b"),
    ],
    ids=["none", "foreign", "two"],
)
def test_a_certificate_without_exactly_one_name_is_refused(
    uris: tuple[str, ...],
) -> None:
    with pytest.raises(NotAuthorizedError):
        read_peer(certificate_named(*uris))


def test_junk_names_nobody() -> None:
    with pytest.raises(NotAuthorizedError, match="names nobody"):
        read_peer(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
