"""What a party is called in its certificate: `spiffe://<federation>/<kind>/<name>`."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, get_args

from moma_core.errors import CertificateError

PeerKind = Literal["site", "teacher", "coordinator"]
PEER_KINDS: tuple[PeerKind, ...] = get_args(PeerKind)

NAME_PATTERN = r"^[a-z][a-z0-9-]{1,62}$"
FEDERATION_PATTERN = r"^[a-z][a-z0-9.-]{1,62}$"

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)
_LONGEST_HOST = 253


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
            raise CertificateError(f"{self.kind!r} is no kind of party")
        if not re.fullmatch(NAME_PATTERN, self.name):
            raise CertificateError(f"{self.name!r} is no name of a party")

    def __str__(self) -> str:
        return f"spiffe://{self.federation}/{self.kind}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> "PeerName":
        """Reads a URI.

        Raises:
            CertificateError: It is not of the form that this module names.
        """
        match uri.split("/"):
            case ["spiffe:", "", federation, kind, name]:
                return cls(federation, _kind_of(kind), name)
            case _:
                raise CertificateError(f"{uri!r} is no name of a party")


def check_federation(federation: str) -> None:
    """Checks the name of a federation.

    Raises:
        CertificateError: It does not match FEDERATION_PATTERN.
    """
    if not re.fullmatch(FEDERATION_PATTERN, federation):
        raise CertificateError(f"{federation!r} is no name of a federation")


def check_host(host: str) -> None:
    """Checks the form of a host name or an IP address, without a port.

    A name may hold an underscore, which networks of containers give out.

    Source: RFC 1123, section 2.1.

    Raises:
        CertificateError: It is neither; a wildcard is not, either.
    """
    if is_address(host):
        return
    is_name = len(host) <= _LONGEST_HOST and _HOST.fullmatch(host)
    if not is_name or host.rpartition(".")[2].isdecimal():
        raise CertificateError(f"{host!r} is no host name and no IP address")


def is_address(host: str) -> bool:
    """Whether it is an IP address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _kind_of(text: str) -> PeerKind:
    for kind in PEER_KINDS:
        if kind == text:
            return kind
    raise CertificateError(f"{text!r} is no kind of party")
