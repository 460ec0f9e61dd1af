"""Issues the signed card: anew only when something on it changed.

The last issue is kept, so that a restart, or another replica in the same state folder,
gives the same one, and each further one has a greater number whatever the clock says: a
site refuses a card that is older than the newest that it has seen.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import TeacherError
from moma_core.runtime.files import locked, write_private
from moma_core.teacher.card.bounds import Description
from moma_core.teacher.card.signed import IssuedCard, SignedCard
from moma_server.teacher.end_to_end.sealing_keys import SealingKeys

_KEPT = TypeAdapter(tuple[str, str])


class CardIssuer:
    """Says what the teacher's card is now.

    Args:
        path: Where the last issue is kept.
        federation: In which the teacher serves.
        signing: The teacher's key.
        sealing: Its sealing keys.
        clock: Gives the time, with a time zone.
    """

    def __init__(
        self,
        path: Path,
        federation: str,
        signing: SigningKey,
        sealing: SealingKeys,
        clock: Callable[[], datetime],
    ) -> None:
        self._path = path
        self._federation = federation
        self._signing = signing
        self._sealing = sealing
        self._clock = clock
        self._last: tuple[IssuedCard, SignedCard] | None = None

    def issue(self, description: Description) -> SignedCard:
        """Returns the card as it is now, signed."""
        now = int(self._clock().timestamp())
        wanted = IssuedCard(self._federation, now, description, self._sealing.offers())
        if self._last is None or not _is_same(self._last[0], wanted):
            self._last = self._issued(wanted)
        return self._last[1]

    def _issued(self, wanted: IssuedCard) -> tuple[IssuedCard, SignedCard]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._path.parent):
            kept = self._kept()
            if kept is not None and _is_same(kept[0], wanted):
                return kept
            if kept is not None and kept[0].issued >= wanted.issued:
                wanted = replace(wanted, issued=kept[0].issued + 1)
            signed = wanted.signed(self._signing)
            texts = (signed.content.decode("ascii"), signed.signature.hex())
            write_private(self._path, _KEPT.dump_json(texts))
        return wanted, signed

    def _kept(self) -> tuple[IssuedCard, SignedCard] | None:
        """Reads the last issue; one that another key signed does not count."""
        try:
            content, signature = _KEPT.validate_json(self._path.read_bytes())
            signed = SignedCard(content.encode(), bytes.fromhex(signature))
            return IssuedCard.opened(signed, self._signing.public), signed
        except (OSError, ValidationError, ValueError, TeacherError):
            return None


def _is_same(one: IssuedCard, other: IssuedCard) -> bool:
    return replace(one, issued=other.issued) == other
