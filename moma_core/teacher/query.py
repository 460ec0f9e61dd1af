"""A query to a teacher and its answer, as both sides hold them off the wire."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from moma_core.end_to_end.sealed_messages import SEALING_BYTES
from moma_core.errors import ConfigError
from moma_core.teacher.card.card import TeacherCard

REQUEST_ID_BYTES = 16
SESSION_ID_BYTES = 16
LARGEST_REQUEST_BYTES = 32 * 2**20
"""No teacher takes a larger message, whatever the side of its patches."""

Pixels = NDArray[np.uint8] | NDArray[np.float32]

_BYTES_PER_PIXEL = 3
_ENVELOPE_BYTES = 1024 + SEALING_BYTES  # all but the pixels, generously


@dataclass(frozen=True, slots=True)
class PatchQuery:
    """N patches that a site asks a teacher about.

    Args:
        request_id: 16 bytes, made by the site; a repetition keeps it.
        pixels: (N, H, W, 3), uint8 in [0, 255] or float32 in [0, 1].
        session: The momentum session whose copy is asked, 16 bytes; empty: the
            teacher as it is.
        digests: Of the patches, where their owner has them already; empty: made when
            they are asked for.
    """

    request_id: bytes
    pixels: Pixels
    session: bytes = b""
    digests: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def patch_digests(self) -> tuple[bytes, ...]:
        """Returns the SHA-256 of each patch, see the function of this name."""
        return self.digests or patch_digests(self.pixels)

    def digest(self, weights: bytes = b"") -> bytes:
        """Returns the SHA-256 that says what was asked, see `question_digest`."""
        return question_digest(self.patch_digests(), weights)


def patch_digests(pixels: Pixels) -> tuple[bytes, ...]:
    """Returns the SHA-256 of each patch of (N, H, W, 3): format, shape and pixels."""
    head = hashlib.sha256(
        struct.pack("<c3Q", pixels.dtype.char.encode(), *pixels.shape[1:])
    )
    digests = []
    for patch in pixels:
        hasher = head.copy()
        hasher.update(np.ascontiguousarray(patch).data)
        digests.append(hasher.digest())
    return tuple(digests)


def question_digest(digests: Sequence[bytes], weights: bytes = b"") -> bytes:
    """Returns the SHA-256 of what is asked.

    Args:
        digests: Of the patches, in their order.
        weights: Names those that are asked, where they are not the teacher's own:
            what they answer today is another answer than yesterday's.
    """
    return hashlib.sha256(b"".join(digests) + weights).digest()


@dataclass(frozen=True, slots=True)
class PatchAnswer:
    """What a teacher says to a query.

    Args:
        request_id: The query's.
        embedding: (N, D).
        logits: (N, C) over the teacher's classes.
    """

    request_id: bytes
    embedding: NDArray[np.float32]
    logits: NDArray[np.float32]


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
    """What a teacher tells first: its card, and what a request may hold."""

    card: TeacherCard
    bounds: RequestBounds


def largest_answer_bytes(card: TeacherCard, bounds: RequestBounds) -> int:
    """Returns the size of an answer to the largest request, as a message."""
    values = bounds.max_patches * (card.embedding_length + len(card.class_names))
    return values * 4 + _ENVELOPE_BYTES
