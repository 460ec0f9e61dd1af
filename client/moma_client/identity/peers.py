"""A site's teacher: its address, and the keys by which both know each other."""

from dataclasses import dataclass
from pathlib import Path

from moma_core.end_to_end.hpke import SuiteName
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import FederationError
from moma_core.pki.crl_client import RevocationPoller
from moma_core.pki.tls_probe import endpoint_of


@dataclass(frozen=True, slots=True)
class TeacherAddress:
    """Where a teacher is, who it must be, and what the site shows it.

    Args:
        name: The teacher's name in the federation, as in its certificate and card.
        address: `host:port`; the host is checked against the teacher's certificate.
        authority: File of the federation's CA certificate.
        certificate: File of the site's own certificate.
        key: File of the site's own TLS key.
        connect_deadline_seconds: Deadline of the handshake, and of calls that request
            no embedding.
        passphrase_file: The passphrase of the key; None: it is not encrypted.
        is_relayed: The address is the coordinator's relay, whose certificate is
            expected there; that the teacher is behind it, its signed card proves.
        revocations: Certificates that the CA revoked; None: nobody fetches them.
    """

    name: str
    address: str
    authority: Path
    certificate: Path
    key: Path
    connect_deadline_seconds: float = 10.0
    passphrase_file: Path | None = None
    is_relayed: bool = False
    revocations: RevocationPoller | None = None

    def __post_init__(self) -> None:
        try:
            endpoint_of(self.address)
        except FederationError as error:
            raise ValueError(str(error)) from None


@dataclass(frozen=True, slots=True)
class PinnedTeacher:
    """What site and teacher know of each other, whoever is between them.

    Args:
        federation: Name of the federation of both.
        site: The site's name.
        signing_key: File of the site's signing key, which the teacher's owner approved.
        teacher: The teacher's name.
        teacher_key: The teacher's key, as it was pinned.
        floor: The weakest suite that is accepted.
        card_memory: File that notes the newest card that was seen.
        passphrase_file: The passphrase of the signing key; None: it is not encrypted.
        receipts: File of the receipts; None: they are not kept.
        former_keys: Keys that were pinned before this one: they sign nothing new.
    """

    federation: str
    site: str
    signing_key: Path
    teacher: str
    teacher_key: VerifyingKey
    floor: SuiteName
    card_memory: Path
    passphrase_file: Path | None = None
    receipts: Path | None = None
    former_keys: tuple[VerifyingKey, ...] = ()
