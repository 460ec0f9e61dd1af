"""What a party is called in its certificate: `spiffe://<federation>/<kind>/<name>`."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from moma_core.errors import CertificateError

PeerKind = Literal["site", "teacher", "coordinator"]
PEER_KINDS: tuple[PeerKind, ...] = get_args(PeerKind)

NAME_PATTERN = r"^[a-z][a-z0-9-]{1,62}$"
FEDERATION_PATTERN = r"^[a-z][a-z0-9.-]{1,62}$"


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


def _kind_of(text: str) -> PeerKind:
    for kind in PEER_KINDS:
        if kind == text:
            return kind
    raise CertificateError(f"{text!r} is no kind of party")
