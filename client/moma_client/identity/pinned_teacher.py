"""What a site knows of the teacher that it pinned, whoever is between them."""

from dataclasses import dataclass
from pathlib import Path

from moma_core.end_to_end.hpke import SuiteName
from moma_core.end_to_end.signatures import VerifyingKey


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
