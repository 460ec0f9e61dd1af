"""The newest card that a site has seen of a teacher: an older one is refused.

Who can put an old card in the way could bring back a sealing key that was given up.
"""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from moma_core.end_to_end.signatures import VerifyingKey
from moma_core.errors import CertificateError, NotAdmittedError
from moma_core.runtime.files import locked, write_private
from moma_core.teacher.card.signed import IssuedCard


class _Seen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    issued: int
    digest: str


class CardMemory:
    """Remembers one teacher's newest card; processes of one site share the file.

    Args:
        path: The file, made when a first card is seen.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, card: IssuedCard, key: VerifyingKey) -> None:
        """Takes a card that is the newest seen, or the same.

        Args:
            card: Whose signature was checked.
            key: That it was checked with; another key's cards are another series.

        Raises:
            NotAdmittedError: It is older than one that was seen, or another one of
                the same issue.
            CertificateError: The file is damaged.
        """
        digest = hashlib.sha256(card.to_json()).hexdigest()
        found = _Seen(key=str(key), issued=card.issued, digest=digest)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._path.parent):
            seen = self._read()
            if seen == found:
                return
            if seen is not None and seen.key == found.key:
                _check_newer(found, seen)
            write_private(self._path, found.model_dump_json().encode())

    def _read(self) -> _Seen | None:
        try:
            return _Seen.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise CertificateError(
                f"cannot read which teacher's card was seen last: {self._path}"
            ) from None


def _check_newer(found: _Seen, seen: _Seen) -> None:
    if found.issued == seen.issued:
        raise NotAdmittedError(f"the teacher has two cards of one issue, {seen.issued}")
    if found.issued < seen.issued:
        raise NotAdmittedError(
            f"the teacher's card is of issue {found.issued}, older than {seen.issued}, "
            f"which was seen before"
        )
