"""Whether the card of a teacher elsewhere can be true: checked before it is used.

A new field of the card gets its bounds here, and nowhere else.
"""

import math
import re

from moma_core.errors import TeacherUnavailableError
from moma_core.teacher.card.card import TeacherCard

LONGEST_EMBEDDING = 65_536
MOST_CLASSES = 10_000
LARGEST_INPUT_PX = 4_096
LONGEST_TEXT = 200

_LARGEST_STD = 1e6
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


def check_foreign_card(card: TeacherCard) -> None:
    """Checks the values of a card whose types are in order.

    Raises:
        TeacherUnavailableError: A field is out of range.
    """
    _check_sizes(card)
    _check_texts(card)
    spreads = all(0 < std < _LARGEST_STD for std in card.std)
    if not all(map(math.isfinite, card.mean)) or not spreads:
        raise TeacherUnavailableError("the card's mean or std is out of range")
    advantage = card.membership_advantage
    if advantage is not None and not -1 <= advantage <= 1:  # NaN is never so
        raise TeacherUnavailableError(
            f"the card's membership_advantage is from -1 to 1, got {advantage}"
        )


def _check_sizes(card: TeacherCard) -> None:
    for name, value, largest in (
        ("embedding_length", card.embedding_length, LONGEST_EMBEDDING),
        ("class_names", len(card.class_names), MOST_CLASSES),
        ("input_size_px", card.input_size_px, LARGEST_INPUT_PX),
    ):
        if not 1 <= value <= largest:
            raise TeacherUnavailableError(
                f"the card's {name} is 1 to {largest}, got {value}"
            )


def _check_texts(card: TeacherCard) -> None:
    if not _SHA256_HEX.fullmatch(card.digest):
        raise TeacherUnavailableError("the card's digest is no SHA-256 in hex")
    if len(set(card.class_names)) != len(card.class_names):
        raise TeacherUnavailableError("the card names a class twice")
    labels = (card.name, card.architecture, card.organ, card.task, card.precision)
    if not all(
        0 < len(text) <= LONGEST_TEXT and text.isprintable()
        for text in (*labels, *card.class_names)
    ):
        raise TeacherUnavailableError("the card has an empty or overlong text")
