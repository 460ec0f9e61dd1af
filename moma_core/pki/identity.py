"""Who a party is: its name, its certificate, and the token that grants it the name.

TLS has checked a certificate's chain, and that once: a connection outlives the
certificate that opened it. So `authorize` is called again at every call. It checks in
this order: one name of the federation's form, our federation, a kind that is served,
not expired, not revoked.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Container
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Final, Literal, get_args

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm

from moma_core.errors import (
    CertificateError,
    ExpiredError,
    NotAuthorizedError,
    RevokedError,
    quoted,
)
from moma_core.network.address import is_wildcard

PeerKind = Literal["site", "teacher", "coordinator"]
PEER_KINDS: tuple[PeerKind, ...] = get_args(PeerKind)

NAME_PATTERN = r"^[a-z][a-z0-9-]{1,62}$"
FEDERATION_PATTERN = r"^[a-z][a-z0-9.-]{1,62}$"

SECRET_BYTES: Final = 32

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)
_LONGEST_HOST = 253

_TOKEN_HEAD = "moma1"  # noqa: S105 - how every token begins, no secret
_TOKEN_ID_BYTES = 8
_LONGEST_TOKEN = 512
_HEX = re.compile(r"[0-9a-f]+")

UNREADABLE: Final = (
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,  # an SSH key whose point is compressed
    InternalError,  # OpenSSL's, of a key that is none of its kind
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,  # such as an X.400 address
)
"""What the library raises over a key, certificate, request or list it cannot read."""


@dataclass(frozen=True, slots=True)
class PeerName:
    """One party's name; as text it is the URI of its certificate.

    Source: SPIFFE-ID, sections 2.1 and 2.2.

    Args:
        federation: The trust domain, matches FEDERATION_PATTERN.
        kind: What the party is.
        name: Its name among those of its kind, matches NAME_PATTERN.

    Raises:
        CertificateError: A part does not match its pattern.
    """

    federation: str
    kind: PeerKind
    name: str

    def __post_init__(self) -> None:
        check_federation(self.federation)
        if self.kind not in PEER_KINDS:
            raise CertificateError(f"{quoted(self.kind)} is no kind of party")
        if not re.fullmatch(NAME_PATTERN, self.name):
            raise CertificateError(
                f"{quoted(self.name)} is no name of a party: write small letters, "
                f"digits and hyphens, such as site-a"
            )

    def __str__(self) -> str:
        return f"spiffe://{self.federation}/{self.kind}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> "PeerName":
        """Reads a URI.

        Raises:
            CertificateError: It is not `spiffe://<federation>/<kind>/<name>`.
        """
        match uri.split("/"):
            case ["spiffe:", "", federation, kind, name]:
                return cls(federation, _kind_of(kind), name)
            case _:
                raise CertificateError(f"{quoted(uri)} is no name of a party")


def _kind_of(text: str) -> PeerKind:
    for kind in PEER_KINDS:
        if kind == text:
            return kind
    raise CertificateError(f"{quoted(text)} is no kind of party")


@dataclass(frozen=True, slots=True)
class Peer:
    """A party as its certificate names it.

    Args:
        kind: What the party is.
        name: Its name among those of its kind.
        federation: The trust domain.
        serial: The certificate's serial number.
        not_after: The certificate's last moment, UTC.
    """

    kind: PeerKind
    name: str
    federation: str
    serial: int
    not_after: datetime

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def load_certificate(pem: bytes) -> x509.Certificate:
    """Reads a certificate, its key and its dates; of a chain, the first one.

    Raises:
        CertificateError: They cannot be read.
    """
    try:
        found = x509.load_pem_x509_certificate(pem)
        _ = found.public_key(), found.not_valid_before_utc, found.not_valid_after_utc
    except UNREADABLE as error:
        raise CertificateError("the certificate cannot be read") from error
    return found


def read_peer(pem: bytes) -> Peer:
    """Returns the party that a certificate names.

    Args:
        pem: The certificate; of a chain, the first one is read.

    Raises:
        NotAuthorizedError: It cannot be read, or does not hold exactly one name of
            the form `spiffe://<federation>/<kind>/<name>`.
    """
    try:
        certificate = load_certificate(pem)
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.UniformResourceIdentifier)
    except (*UNREADABLE, CertificateError) as error:
        raise NotAuthorizedError("the certificate names nobody") from error
    if len(names) != 1:
        raise NotAuthorizedError(
            f"the certificate has {len(names)} names, it needs one"
        )
    try:
        name = PeerName.parse(names[0])
    except CertificateError as error:
        raise NotAuthorizedError(str(error)) from error
    return Peer(
        kind=name.kind,
        name=name.name,
        federation=name.federation,
        serial=certificate.serial_number,
        not_after=certificate.not_valid_after_utc,
    )


def authorize(
    pem: bytes,
    *,
    now: datetime,
    revoked: Container[int],
    federation: str,
    kinds: Collection[PeerKind],
) -> Peer:
    """Returns the party behind a certificate if it may be served at this moment.

    Args:
        pem: The peer's certificate, whose chain TLS has checked.
        now: The present, with a time zone.
        revoked: Serials that were revoked, see `Revocations`.
        federation: The name of our federation.
        kinds: The kinds of party that the caller serves.

    Raises:
        ExpiredError: The certificate's time is over.
        RevokedError: It was revoked.
        NotAuthorizedError: It names nobody, another federation's party, or a kind
            of party that is not served here.
    """
    peer = read_peer(pem)
    if peer.federation != federation:
        raise NotAuthorizedError(f"{peer} is of the federation {peer.federation!r}")
    if peer.kind not in kinds:
        raise NotAuthorizedError(f"{peer} is not served here, a {peer.kind} never is")
    if now >= peer.not_after:
        end = peer.not_after.isoformat()
        raise ExpiredError(f"the certificate of {peer} expired at {end}")
    if peer.serial in revoked:
        raise RevokedError(
            f"the certificate of {peer} is revoked; to return it needs new keys and a "
            f"new token of the coordinator"
        )
    return peer


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """One grant of a place in the federation, handed to a new member as one word.

    It says which federation this is, whose name is granted, and by which CA the
    coordinator is known; and it holds a secret that is good once. All parts are names
    and hexadecimal digits, so that a shell and a double click take it whole.

    Args:
        peer: Who may enrol with it.
        identifier: 8 bytes, hexadecimal; by it operators speak of the token.
        secret: 32 bytes; good once.
        authority: SHA-256 of the federation's CA certificate in DER, hexadecimal.
    """

    peer: PeerName
    identifier: str
    secret: bytes
    authority: str

    def __str__(self) -> str:
        peer = self.peer
        parts = (_TOKEN_HEAD, peer.federation, peer.kind, peer.name)
        return "_".join((*parts, self.identifier, self.secret.hex(), self.authority))

    def __repr__(self) -> str:
        return f"EnrolmentToken({self.peer}, {self.identifier})"  # no secret in a log

    @classmethod
    def create(cls, peer: PeerName, authority: str) -> "EnrolmentToken":
        """Makes a new token for `peer`.

        Args:
            peer: Who may enrol with it.
            authority: SHA-256 of the CA certificate in DER, hexadecimal.
        """
        identifier = secrets.token_hex(_TOKEN_ID_BYTES)
        return cls(peer, identifier, secrets.token_bytes(SECRET_BYTES), authority)

    @classmethod
    def parse(cls, text: str) -> "EnrolmentToken":
        """Reads a token; what is wrong with it is said without showing it.

        Raises:
            CertificateError: It is none.
        """
        parts = text.strip().split("_")
        if len(text) > _LONGEST_TOKEN or len(parts) != 7 or parts[0] != _TOKEN_HEAD:
            raise CertificateError("this is no token; copy all of it, it is one word")
        _, federation, kind, name, identifier, secret, authority = parts
        sizes = ((identifier, _TOKEN_ID_BYTES), (secret, SECRET_BYTES), (authority, 32))
        for value, size in sizes:
            if len(value) != 2 * size or not _HEX.fullmatch(value):
                raise CertificateError("the token is damaged; copy all of it")
        peer = PeerName(federation, _kind_of(kind), name)
        return cls(peer, identifier, bytes.fromhex(secret), authority)


def secret_hash(secret: bytes) -> str:
    """Returns what the server keeps of a token's secret: SHA-256, hexadecimal.

    A plain hash is enough: the secret is random and long, nobody guesses it.
    """
    return hashlib.sha256(secret).hexdigest()


def check_federation(federation: str) -> None:
    """Checks the name of a federation.

    Raises:
        CertificateError: It does not match FEDERATION_PATTERN.
    """
    if not re.fullmatch(FEDERATION_PATTERN, federation):
        raise CertificateError(f"{quoted(federation)} is no name of a federation")


def check_host(host: str) -> None:
    """Checks the form of a host name or an IP address, without a port.

    A name may hold an underscore, which networks of containers give out.

    Source: RFC 1123, section 2.1.

    Raises:
        CertificateError: It is neither; a wildcard is not, either. Or it stands for all
            addresses of a machine: nobody reaches it by that.
    """
    if is_address(host):
        if is_wildcard(host):
            raise CertificateError(
                f"{host} is every address of a machine, and nobody can call it by "
                "that: name the host name or address that the others use"
            )
        return
    is_name = len(host) <= _LONGEST_HOST and _HOST.fullmatch(host)
    if not is_name or host.rpartition(".")[2].isdecimal():
        raise CertificateError(
            f"{quoted(host)} is no host name and no IP address: write it alone, with "
            f"no scheme, port or brackets"
        )


def is_address(host: str) -> bool:
    """Whether it is an IP address; one with a zone is of one machine alone."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # behind it Python takes whatever stands there
