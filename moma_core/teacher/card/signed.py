"""The teacher card as it travels: with bounds and sealing keys, and signed.

What is signed is canonical JSON: keys sorted, no spaces, ASCII. Any other spelling of
the same values is refused, so that one issue has one digest.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from moma_core.end_to_end.hpke import SealingPublicKey, SuiteName
from moma_core.end_to_end.signatures import SigningKey, VerifyingKey
from moma_core.errors import (
    CertificateError,
    NotAuthorizedError,
    TeacherUnavailableError,
    printable_line,
)
from moma_core.pki.identity import FEDERATION_PATTERN
from moma_core.runtime.canonical_json import canonical_json
from moma_core.teacher.card.bounds import Description, RequestBounds
from moma_core.teacher.card.card import TeacherCard, check_remote_card
from moma_core.teacher.card.licence import card_values

LARGEST_CARD_BYTES = 4 * 2**20
"""Of a card as it travels."""

_PURPOSE = "teacher card"
_MOST_PATCHES = 2**20
_MOST_OFFERS = 64
_LONGEST_KEY = 100
_LATEST = 2**40  # seconds since 1970


class SignedCard(NamedTuple):
    """What a teacher sends.

    Args:
        content: Canonical JSON.
        signature: Of it, by the teacher's signing key.
    """

    content: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class SealingOffer:
    """A key that requests may be sealed to.

    Args:
        key: The teacher's.
        not_after: Its last moment, with a time zone.
    """

    key: SealingPublicKey
    not_after: datetime


@dataclass(frozen=True, slots=True)
class IssuedCard:
    """A card as its teacher issues it, with bounds and keys.

    Args:
        federation: Where the teacher serves.
        issued: Grows with every issue, also over restarts: when it was made, in
            seconds since 1970.
        description: Card and bounds.
        offers: Keys that requests may be sealed to.
    """

    federation: str
    issued: int
    description: Description
    offers: tuple[SealingOffer, ...]

    @property
    def card_digest(self) -> bytes:
        """SHA-256 of card and bounds: what a request and its response are about."""
        card, bounds = self.description
        return hashlib.sha256(canonical_json(_described(card, bounds))).digest()

    def to_json(self) -> bytes:
        """Returns what is signed."""
        card, bounds = self.description
        return canonical_json(
            {
                "federation": self.federation,
                "issued": self.issued,
                **_described(card, bounds),
                "sealing": [
                    {
                        "suite": offer.key.suite,
                        "public": offer.key.raw.hex(),
                        "not_after": int(offer.not_after.timestamp()),
                    }
                    for offer in self.offers
                ],
            }
        )

    def signed(self, key: SigningKey) -> SignedCard:
        """Returns the card as it travels."""
        content = self.to_json()
        return SignedCard(content, key.sign(_PURPOSE, content))

    @classmethod
    def opened(cls, signed: SignedCard, key: VerifyingKey) -> "IssuedCard":
        """Reads a card from a teacher elsewhere.

        Args:
            signed: As it came.
            key: The teacher's, as it was pinned.

        Raises:
            NotAuthorizedError: Another key signed it.
            TeacherUnavailableError: It cannot be true.
        """
        if len(signed.content) > LARGEST_CARD_BYTES:
            raise TeacherUnavailableError(
                f"the card has {len(signed.content)} bytes, at most "
                f"{LARGEST_CARD_BYTES} are read"
            )
        try:
            key.check(_PURPOSE, signed.content, signed.signature)
        except CertificateError as error:
            raise NotAuthorizedError(
                f"{error}: check teacher.key with the teacher's owner, by telephone"
            ) from None
        return cls._read(signed.content)

    @classmethod
    def _read(cls, content: bytes) -> "IssuedCard":
        try:
            found = _Issue.model_validate_json(content)
            offers = tuple(map(_offer, found.sealing))
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, fault["loc"])) or "(all)"
            where = printable_line(key, _LONGEST_KEY)  # any key that was sent
            message = f"the card's {where} is not as it should be: {fault['msg']}"
            raise TeacherUnavailableError(message) from None
        except CertificateError as error:
            raise TeacherUnavailableError(f"the card: {error}") from None
        check_remote_card(found.card)
        patches = found.bounds.max_patches_per_request
        bounds = RequestBounds(found.card.input_size_px, patches)
        issue = cls(
            found.federation, found.issued, Description(found.card, bounds), offers
        )
        if issue.to_json() != content:
            raise TeacherUnavailableError("the card is no canonical JSON")
        return issue


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Bounds(_Strict):
    max_patches_per_request: int = Field(ge=1, le=_MOST_PATCHES)


class _Offer(_Strict):
    suite: SuiteName
    public: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})+$")]
    not_after: int = Field(ge=0, le=_LATEST)


class _Issue(_Strict):
    federation: str = Field(pattern=FEDERATION_PATTERN)
    issued: int = Field(ge=0, le=_LATEST)
    card: TeacherCard
    bounds: _Bounds
    sealing: tuple[_Offer, ...] = Field(max_length=_MOST_OFFERS)


def _offer(offer: _Offer) -> SealingOffer:
    key = SealingPublicKey(offer.suite, bytes.fromhex(offer.public))
    return SealingOffer(key, datetime.fromtimestamp(offer.not_after, UTC))


def _described(card: TeacherCard, bounds: RequestBounds) -> dict[str, Any]:
    return {
        "card": card_values(card),
        "bounds": {"max_patches_per_request": bounds.max_patches},
    }
