"""How large a request and its response may be, by the teacher's card."""

from dataclasses import dataclass
from typing import NamedTuple, Self

from moma_core.end_to_end.sealed_messages import SEALING_BYTES
from moma_core.errors import ConfigError
from moma_core.teacher.card.card import TeacherCard

LARGEST_REQUEST_BYTES = 32 * 2**20
"""No teacher takes a larger message, whatever the side of its patches."""

_BYTES_PER_PIXEL = 3
_ENVELOPE_BYTES = 1024 + SEALING_BYTES  # all but the pixels, generously


@dataclass(frozen=True, slots=True)
class RequestBounds:
    """What one request may hold.

    Args:
        input_size_px: Side of every patch, neither more nor less.
        max_patches: N at most.
    """

    input_size_px: int
    max_patches: int

    def __post_init__(self) -> None:
        if self.input_size_px < 1 or self.max_patches < 1:
            raise ValueError(f"bounds must be positive, got {self}")

    @classmethod
    def within(cls, message_bytes: int, *, side_px: int, max_patches: int) -> Self:
        """Returns bounds under which no message is larger than `message_bytes`.

        Args:
            message_bytes: More than LARGEST_REQUEST_BYTES is cut to it.
            side_px: Of every patch.
            max_patches: Fewer are allowed where the message holds no more.

        Raises:
            ConfigError: Not one patch fits.
        """
        room = min(message_bytes, LARGEST_REQUEST_BYTES) - _ENVELOPE_BYTES
        fitting = room // (side_px**2 * _BYTES_PER_PIXEL)
        if fitting < 1:
            raise ConfigError(f"{room} bytes hold no patch of {side_px} x {side_px} px")
        return cls(side_px, min(max_patches, fitting))

    @property
    def max_message_bytes(self) -> int:
        """Size of the largest request of uint8 pixels, as a message.

        Float32 pixels take four times the bytes, so a quarter of the patches fits.
        """
        pixels = self.max_patches * self.input_size_px**2
        return pixels * _BYTES_PER_PIXEL + _ENVELOPE_BYTES


class Description(NamedTuple):
    """What a teacher shows first: its card, and what a request may hold."""

    card: TeacherCard
    bounds: RequestBounds


def largest_response_bytes(card: TeacherCard, bounds: RequestBounds) -> int:
    """Returns the size of the response to the largest request, as a message."""
    values = bounds.max_patches * (card.embedding_length + len(card.class_names))
    return values * 4 + _ENVELOPE_BYTES
