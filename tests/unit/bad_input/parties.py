"""Certificates, requests, lists, tokens and keys of the parties."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from moma_core.end_to_end.pinned_sites import read_pinned_sites
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.pki.certificates import (
    Credential,
    authority_fingerprint,
    check_issued,
    check_pair,
    create_authority,
    create_key,
    create_request,
    sign_request,
)
from moma_core.pki.identity import EnrolmentToken, PeerName, authorize, check_host
from moma_core.pki.key_files import load_public_node_key, open_key, read_passphrase
from moma_core.pki.revocations import read_list, read_revocations, sign_list
from moma_server.membership.tokens import TokenStore
from tests.unit.bad_input.table import BadInput, written

_NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
_SITE = PeerName("moma", "site", "site-a")
_KEY = create_key()


def _authority(federation: str = "moma") -> Credential:
    return create_authority(federation, now=_NOW)


def _certificate(peer: PeerName = _SITE) -> bytes:
    return sign_request(
        create_request(_KEY, str(peer)),
        _authority(peer.federation),
        expected_uri=str(peer),
        now=_NOW,
    )


def _authorized(pem: bytes, **settings: Any) -> object:
    given = {"now": _NOW, "revoked": (), "federation": "moma", "kinds": ("site",)}
    return authorize(pem, **{**given, **settings})


def _compressed_node_key() -> bytes:
    """Returns a public key as RFC 5656 allows it, and the library does not."""
    point = (
        ec.generate_private_key(ec.SECP384R1())
        .public_key()
        .public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    )
    parts = (b"ecdsa-sha2-nistp384", b"nistp384", point)
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return b"ecdsa-sha2-nistp384 " + base64.b64encode(framed)


def _expired(_: Path) -> object:
    return _authorized(_certificate(), now=_NOW + timedelta(days=31))


def _revoked(_: Path) -> object:
    pem = _certificate()
    serial = x509.load_pem_x509_certificate(pem).serial_number
    return _authorized(pem, revoked=(serial,))


def _request(*names: str, key: ec.EllipticCurve | None = None) -> bytes:
    uris = [x509.UniformResourceIdentifier(name) for name in names]
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site-a")])
    )
    if uris:
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), False)
    signer = ec.generate_private_key(key or ec.SECP256R1())
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


def _signed(request: Callable[[], bytes]) -> Callable[[Path], object]:
    return lambda _: sign_request(
        request(), _authority(), expected_uri=str(_SITE), now=_NOW
    )


def _list(of: str, made: datetime, now: datetime = _NOW) -> object:
    ours = _authority()
    signer = ours if of == "ours" else _authority()
    return read_list(sign_list((), signer, now=made), ours.certificate_pem, now=now)


CERTIFICATES = (
    BadInput(
        "a certificate that is none",
        lambda _: _authorized(b"certificate"),
        "the certificate names nobody",
    ),
    BadInput(
        "a certificate without a name",
        lambda _: _authorized(_authority().certificate_pem),
        "the certificate names nobody",
    ),
    BadInput(
        "a certificate of another federation",
        lambda _: _authorized(_certificate(PeerName("other", "site", "site-a"))),
        "site site-a is of the federation 'other'",
    ),
    BadInput(
        "a teacher where sites are served",
        lambda _: _authorized(_certificate(PeerName("moma", "teacher", "site-a"))),
        "teacher site-a is not served here, a teacher never is",
    ),
    BadInput(
        "an expired certificate",
        _expired,
        "the certificate of site site-a expired at 2026-03-31T12:00:00+00:00",
    ),
    BadInput(
        "a revoked certificate",
        _revoked,
        "the certificate of site site-a is revoked; to return it needs new keys"
        " and a new token of the coordinator",
    ),
    BadInput(
        "a certificate of another authority",
        lambda _: check_issued(_certificate(), _authority().certificate_pem),
        "the certificate is not signed by the federation's authority",
    ),
    BadInput(
        "a certificate of another key",
        lambda _: check_pair(_certificate(), create_key()),
        "the certificate does not belong to the key",
    ),
    BadInput(
        "two authorities in one file",
        lambda _: authority_fingerprint(_authority().certificate_pem * 2),
        "an authority is one certificate, not 2 in one file",
    ),
    BadInput(
        "a signing request that is none",
        _signed(lambda: b"request"),
        "the signing request cannot be read",
    ),
    BadInput(
        "a signing request of nobody",
        _signed(_request),
        "the signing request is not for spiffe://moma/site/site-a",
    ),
    BadInput(
        "a signing request of another name",
        _signed(lambda: _request("spiffe://moma/site/site-b")),
        "the signing request is not for spiffe://moma/site/site-a",
    ),
    BadInput(
        "a signing request that also wants another name",
        _signed(lambda: _request(str(_SITE), "spiffe://moma/teacher/t1")),
        "the signing request also claims 'spiffe://moma/teacher/t1'",
    ),
    BadInput(
        "a signing request of another curve",
        _signed(lambda: _request(str(_SITE), key=ec.SECP384R1())),
        "the key of a signing request must be ECDSA P-256",
    ),
    BadInput(
        "a signing request of a megabyte",
        _signed(lambda: bytes(1 << 20)),
        "a signing request of 1048576 bytes is too long",
    ),
    BadInput(
        "a list of revocations that is none",
        lambda _: read_list(b"list", _authority().certificate_pem, now=_NOW),
        "the revocation list cannot be read",
    ),
    BadInput(
        "a list of another authority",
        lambda _: _list("theirs", _NOW),
        "the revocation list is not signed by our authority",
    ),
    BadInput(
        "a list of yesterday",
        lambda _: _list("ours", _NOW - timedelta(days=1)),
        "the revocation list is of 2026-02-28T12:00:00+00:00, which is not now",
    ),
)


def _encrypted(path: Path) -> object:
    return open_key(path, None)


def _seen_by_others(folder: Path) -> object:
    path = folder / "site.key"
    path.write_bytes(_KEY)
    path.chmod(0o644)
    return open_key(path)


def _locked_key() -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        load_pem_private_key,
    )

    key = load_pem_private_key(_KEY, None)
    return key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )


def _tokens(path: Path) -> object:
    return TokenStore(path).records()


_TOKEN = str(EnrolmentToken(_SITE, "0" * 16, bytes(32), "a" * 64))

KEYS = (
    BadInput(
        "half a token",
        lambda _: EnrolmentToken.parse(_TOKEN[:60]),
        "this is no token; copy all of it, it is one word",
    ),
    BadInput(
        "a token with a letter wrong",
        lambda _: EnrolmentToken.parse(_TOKEN[:-1] + "z"),
        "the token is damaged; copy all of it",
    ),
    BadInput(
        "a fingerprint of another form",
        lambda _: VerifyingKey.parse("sha256:00"),
        "'sha256:00' is no fingerprint of a key",
    ),
    BadInput(
        "a fingerprint of a key that proves nothing",
        lambda _: VerifyingKey.parse("ed25519:" + "0" * 64),
        "ed25519:0000000000000000000000000000000000000000000000000000000000000000"
        " is no key that anybody should trust",
    ),
    BadInput(
        "a host that is none",
        lambda _: check_host("*.example"),
        "'*.example' is no host name and no IP address: write it alone, with no "
        "scheme, port or brackets",
    ),
    BadInput(
        "a key that others can read",
        _seen_by_others,
        "./site.key has mode 0644, so others can read it; make it 0600, and "
        "replace the key if it may have been seen",
    ),
    BadInput(
        "a key that is none",
        written(open_key, "a.key", "key"),
        "the key ./a.key cannot be read: it is none, or of another passphrase",
    ),
    BadInput(
        "a key under a passphrase that nobody named",
        written(_encrypted, "a.key", _locked_key()),
        "the key ./a.key is encrypted, name its passphrase file",
    ),
    BadInput(
        "a key that is not there",
        lambda folder: open_key(folder / "a.key"),
        "cannot read ./a.key: No such file or directory",
    ),
    BadInput(
        "an empty passphrase",
        written(read_passphrase, "p", "\n"),
        "the passphrase file ./p is empty",
    ),
    BadInput(
        "a node key that is none",
        lambda _: load_public_node_key(b"ssh-rsa AAAA"),
        "the node key is not in OpenSSH form",
    ),
    BadInput(
        "a node key whose point is compressed",
        lambda _: load_public_node_key(_compressed_node_key()),
        "the node key is not in OpenSSH form",
    ),
    BadInput(
        "damaged approvals",
        written(read_pinned_sites, "approved.json", "[{}]"),
        "the approvals ./approved.json are damaged: Field required",
    ),
    BadInput(
        "damaged revocations",
        written(read_revocations, "revoked.json", "{"),
        "the revocations ./revoked.json are damaged: Expecting property name "
        "enclosed in double quotes: line 1 column 2 (char 1)",
    ),
    BadInput(
        "damaged tokens",
        written(_tokens, "tokens.json", "[1]"),
        "the tokens ./tokens.json are damaged: Input should be an object",
    ),
)
