"""What a site says to its teacher: sealed and signed, whoever carries it."""

import hashlib
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from moma_client.identity.peers import PinnedTeacher
from moma_core.end_to_end.hpke import SUITES, is_as_strong
from moma_core.end_to_end.sealed_messages import (
    EXCHANGE_ID_BYTES,
    MessageContext,
    Parties,
    PendingResponse,
    seal_request,
)
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import CertificateError, NotAuthorizedError
from moma_core.runtime.files import locked, write_private
from moma_core.teacher.card.card import TeacherCard
from moma_core.teacher.card.signed import IssuedCard, SealingOffer, SignedCard
from moma_proto.convert import sealed as convert_sealed
from moma_proto.v1.sealed_pb2 import SealedRequest, SealedResponse


class RequestSealer:
    """Seals questions to the keys of a card, and opens their answers.

    Safe to use from several threads once a card was loaded.

    Args:
        end_to_end: Who both are.
        now: The present, with a time zone.
    """

    def __init__(self, end_to_end: PinnedTeacher, now: Callable[[], datetime]) -> None:
        self._ends = end_to_end
        self._memory = CardMemory(end_to_end.card_memory)
        self._now = now
        self._signing: SigningKey | None = None
        self._asked: tuple[Parties, SealingOffer] | None = None
        self._card: TeacherCard | None = None

    @property
    def card(self) -> TeacherCard:
        """The card that was loaded last; all questions and answers are about it."""
        if self._card is None:
            raise ValueError("no card was loaded")
        return self._card

    @property
    def site(self) -> str:
        """Who asks."""
        return self._ends.site

    @property
    def is_ready(self) -> bool:
        """Whether there is a key whose time is not over."""
        return self._asked is not None and self._now() < self._asked[1].not_after

    def load(self, signed: SignedCard) -> IssuedCard:
        """Returns a card after every check; questions are sealed to its keys.

        Raises:
            NotAuthorizedError: It is not the pinned teacher's, not of this federation,
                older than one that was seen, or has no key that is strong enough.
            TeacherUnavailableError: It cannot be true.
            CertificateError: The site's own signing key cannot be read.
        """
        ends = self._ends
        card = IssuedCard.opened(signed, ends.teacher_key)
        found = (card.federation, card.description.card.name)
        if found != (ends.federation, ends.teacher):
            raise NotAuthorizedError(
                f"the card is of teacher {found[1]} in {found[0]}, not {ends.teacher} "
                f"in {ends.federation}"
            )
        offer = self._strongest(card)
        self._memory.note(card, ends.teacher_key)
        if self._signing is None:
            self._signing = SigningKey.load(ends.signing_key, ends.passphrase_file)
        parties = Parties(
            federation=ends.federation,
            site=ends.site,
            teacher=ends.teacher,
            card_digest=card.card_digest,
        )
        self._asked, self._card = (parties, offer), card.description.card
        return card

    def forget(self) -> None:
        """Drops the card, so that the next question needs a new one."""
        self._asked = None

    def seal(
        self,
        method: str,
        message: Sequence[bytes | memoryview],
        request_id: bytes | None = None,
        position: int = 0,
    ) -> tuple[SealedRequest, PendingResponse]:
        """Returns a question as it travels, and what opens its answer.

        Args:
            method: By which it is asked.
            message: Its parts.
            request_id: By default one that was never used.
            position: In its call.
        """
        if self._asked is None or self._signing is None:
            raise ValueError("no card was loaded")
        parties, offer = self._asked
        place = MessageContext(
            method=method,
            request_id=request_id or os.urandom(EXCHANGE_ID_BYTES),
            position=position,
            issued_ms=int(self._now().timestamp() * 1000),
        )
        sealed, pending = seal_request(
            place, parties, message, offer.key, self._signing
        )
        request = convert_sealed.sealed_request_to_wire(
            parties.site, place, offer.key.key_id, sealed
        )
        return request, pending

    def open(self, response: SealedResponse, pending: PendingResponse) -> bytes:
        """Returns the teacher's answer.

        Raises:
            NotAuthorizedError: It is not the teacher's, or of another question.
        """
        answer = convert_sealed.response_from_wire(response)
        return pending.open(answer, self._ends.teacher_key)

    def _strongest(self, card: IssuedCard) -> SealingOffer:
        floor, now = self._ends.floor, self._now()
        usable = [
            offer
            for offer in card.offers
            if now < offer.not_after and is_as_strong(offer.key.suite, floor)
        ]
        if not usable:
            raise NotAuthorizedError(
                f"the teacher's card has no sealing key of suite {floor} or stronger "
                f"whose time is not over"
            )
        return max(usable, key=_preference)


def _preference(offer: SealingOffer) -> tuple[int, datetime]:
    return SUITES.index(offer.key.suite), offer.not_after


class _SeenCard(BaseModel):
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
            NotAuthorizedError: It is older than one that was seen, or another one of
                the same issue.
            CertificateError: The file is damaged.
        """
        digest = hashlib.sha256(card.to_json()).hexdigest()
        found = _SeenCard(key=str(key), issued=card.issued, digest=digest)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._path.parent):
            seen = self._read()
            if seen == found:
                return
            if seen is not None and seen.key == found.key:
                _check_newer(found, seen)
            write_private(self._path, found.model_dump_json().encode())

    def _read(self) -> _SeenCard | None:
        try:
            return _SeenCard.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise CertificateError(
                f"cannot read which teacher's card was seen last: {self._path}"
            ) from None


def _check_newer(found: _SeenCard, seen: _SeenCard) -> None:
    if found.issued == seen.issued:
        raise NotAuthorizedError(
            f"the teacher has two cards of one issue, {seen.issued}"
        )
    if found.issued < seen.issued:
        raise NotAuthorizedError(
            f"the teacher's card is of issue {found.issued}, older than {seen.issued}, "
            f"which was seen before"
        )
