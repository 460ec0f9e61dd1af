"""Where a teacher is, and who it must be."""

from dataclasses import dataclass
from pathlib import Path

from moma_core.end_to_end.hpke import SuiteName
from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.pki.crl_client import RevocationPoller


@dataclass(frozen=True, slots=True)
class TeacherAddress:
    """Where a teacher is, who it must be, and what the site shows it.

    Args:
        name: Its name in the federation, as in its certificate and its card.
        address: `host:port`; the host is checked against its certificate.
        authority: The federation's CA certificate.
        certificate: The site's own.
        key: The site's own.
        passphrase_file: With which the key is encrypted; None: it is not.
        connect_deadline_seconds: For the handshake, and for calls that ask for no
            embedding.
        is_relayed: The address is the coordinator's relay, whose certificate is
            expected there; that the teacher is behind it, its signed card proves.
        revocations: What the authority takes back; None: nobody asks it.
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
        host, port = self.endpoint
        if not host or not 1 <= port <= 65535:
            raise ValueError(f"{self.address!r} is no address of the form host:port")

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.address.rpartition(":")
        return host, int(port)


@dataclass(frozen=True, slots=True)
class PinnedTeacher:
    """What site and teacher know of each other, whoever is between them.

    Args:
        federation: Of both.
        site: The site's name.
        signing_key: The file of its key, which the teacher's owner approved.
        teacher: The teacher's name.
        teacher_key: Its key, as it was pinned.
        floor: The weakest suite that is accepted.
        card_memory: Where the newest card that was seen is noted.
        passphrase_file: With which the site's key is encrypted; None: it is not.
        receipts: Where the receipts of answers are kept; None: nowhere.
        former_keys: The teacher's before this one: they sign nothing new.
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

    @property
    def teacher_keys(self) -> tuple[VerifyingKey, ...]:
        """All that ever signed the teacher's log, the present one first."""
        return (self.teacher_key, *self.former_keys)
