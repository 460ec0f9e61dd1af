"""Who a party says it is: certificates, requests, lists, tokens, keys."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.datastructures import Headers

from moma_core.end_to_end.pinned_sites import read_pinned_sites
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.pki.certificates import (
    Credential,
    authority_fingerprint,
    check_issued,
    check_own_certificate,
    check_pair,
    create_authority,
    create_key,
    create_request,
    life,
    load_key,
    sign_request,
)
from moma_core.pki.identity import (
    EnrolmentToken,
    PeerName,
    authorize,
    check_host,
    read_peer,
)
from moma_core.pki.key_files import (
    create_node_key,
    load_node_key,
    load_public_node_key,
    open_key,
)
from moma_core.pki.revocations import Revocation, read_list, read_revocations, sign_list
from moma_server.federation.edge.authentication import Callers, KnownNode
from moma_server.membership.renewal import certificate_hosts
from moma_server.membership.tokens import TokenStore
from tests.fuzz.target import Target, by_first_byte, from_file, is_taken
from tests.support.teacher.sealed import key_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
_OWN = PeerName("moma", "site", "site-a")
_TEACHER = PeerName("moma", "teacher", "teacher-a")
_HOSTS = ("teacher.example", "127.0.0.1")


def _in_turn(*readers: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """Returns what lets every reader look; each takes bytes, or says why not."""

    def read(content: bytes) -> object:
        return [is_taken(Target(reader, ()), content) for reader in readers]

    return read


def der_of(pem: bytes) -> bytes:
    """Returns what a PEM text holds."""
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def pem_of(der: bytes, name: str) -> bytes:
    """Returns bytes as PEM, whatever they are."""
    text = base64.encodebytes(der)
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (
        name.encode(),
        text,
        name.encode(),
    )


def certificates() -> Target:
    """Certificates, requests and lists of revocations, as a party sends them."""
    authority, key = create_authority("moma", now=NOW), create_key()
    request = create_request(key, str(_OWN))
    good = sign_request(request, authority, expected_uri=str(_OWN), now=NOW)
    served = create_request(key, str(_TEACHER), _HOSTS)
    listed = sign_list((Revocation(5, "site-a", NOW),), authority, now=NOW)
    look = _certificate_readers(authority, good, key)

    def sign(csr: bytes) -> object:
        return sign_request(
            csr, authority, expected_uri=str(_TEACHER), hosts=_HOSTS, now=NOW
        )

    def read(der: bytes) -> object:
        return read_list(der, authority.certificate_pem, now=NOW)

    return Target(
        by_first_byte(
            lambda der: look(pem_of(der, "CERTIFICATE")),
            look,
            lambda der: sign(pem_of(der, "CERTIFICATE REQUEST")),
            sign,
            read,
        ),
        (
            b"\0" + der_of(good),
            b"\1" + good,
            b"\2" + der_of(served),
            b"\3" + served,
            b"\4" + listed,
        ),
    )


def _certificate_readers(
    authority: Credential, good: bytes, key: bytes
) -> Callable[[bytes], object]:
    """Returns all that look at a certificate, as one."""
    return _in_turn(
        read_peer,
        life,
        authority_fingerprint,
        certificate_hosts,
        lambda pem: check_issued(pem, authority.certificate_pem),
        lambda pem: check_issued(good, pem),
        lambda pem: check_pair(pem, key),
        lambda pem: authorize(
            pem, now=NOW, revoked=(), federation="moma", kinds=("site",)
        ),
        lambda pem: check_own_certificate(
            pem,
            authority_pem=authority.certificate_pem,
            own=_OWN,
            key_pem=key,
            now=NOW,
        ),
    )


def names() -> Target:
    """Tokens, fingerprints, names and hosts, as an operator or a party writes them."""
    token = EnrolmentToken(_OWN, "0" * 16, bytes(32), "a" * 64)

    def text(read: Callable[[str], object]) -> Callable[[bytes], object]:
        return lambda content: read(content.decode("utf-8", "replace"))

    return Target(
        by_first_byte(
            text(EnrolmentToken.parse),
            text(VerifyingKey.parse),
            text(PeerName.parse),
            text(check_host),
        ),
        (
            b"\0" + str(token).encode(),
            b"\1" + str(key_of("site-a").public).encode(),
            b"\2" + str(_OWN).encode(),
            b"\3teacher.example",
        ),
    )


def keys() -> Target:
    """Keys on the disk, and the node key that a site sends."""
    node, pem = create_node_key(), create_key()

    return Target(
        by_first_byte(
            from_file(open_key, "a.key"),
            from_file(SigningKey.load, "signing.key"),
            load_key,
            load_node_key,
            load_public_node_key,
            _signed,
        ),
        (
            b"\0" + pem,
            b"\1" + key_of("site-a").to_pem(),
            b"\2" + pem,
            b"\3" + node.private,
            b"\4" + node.public,
            b"\5" + key_of("site-a").public.raw + bytes(64),
        ),
    )


def _signed(content: bytes) -> object:
    """Checks a signature; key and signature are anybody's to choose."""
    return VerifyingKey(content[:32]).check("checkpoint", b"", content[32:])


def lists() -> Target:
    """Approvals, revocations and tokens in the files that a restart reads."""
    approved = (
        b'[{"site": "site-a", "key": "%b", "approved_at": "2026-03-01T12:00:00Z"}]'
        % str(key_of("site-a").public).encode()
    )
    revoked = (
        b'[{"serial": "5", "name": "site-a", "revoked_at": "2026-03-01T12:00:00Z"}]'
    )
    token = (
        b'[{"identifier": "00", "kind": "site", "name": "site-a", "hosts": [], '
        b'"secret_hash": "aa", "created_at": "2026-03-01T12:00:00Z", '
        b'"expires_at": "2026-03-02T12:00:00Z"}]'
    )

    def tokens(path: Path) -> object:
        return TokenStore(path).records()

    return Target(
        by_first_byte(
            from_file(read_pinned_sites, "approved.json"),
            from_file(read_revocations, "revoked.json"),
            from_file(tokens, "tokens.json"),
        ),
        (b"\0" + approved, b"\1" + revoked, b"\2" + token),
    )


def edge_headers() -> Target:
    """The headers of a call at the edge, one a line, names before a colon."""
    private = ec.derive_private_key(7, ec.SECP384R1())
    public = private.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    time = "2026-03-01T12:00:00.000000+00:00"
    signature = private.sign(time.encode(), ec.ECDSA(hashes.SHA256()))

    def read(content: bytes) -> object:
        callers = Callers(clock=NOW.timestamp)
        callers.know([KnownNode("site-a", 7, public)])
        pairs = [line.partition(b":") for line in content.split(b"\n")]
        return callers.caller(Headers(raw=[(name, value) for name, _, value in pairs]))

    lines = {
        b"flwr-public-key": base64.b64encode(public),
        b"flwr-timestamp": time.encode(),
        b"flwr-signature": base64.b64encode(signature),
    }
    return Target(read, (b"\n".join(b"%b:%b" % pair for pair in lines.items()),))
