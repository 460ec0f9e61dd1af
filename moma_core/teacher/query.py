"""A query to a teacher and its result, as both sides hold them off the wire."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REQUEST_ID_BYTES = 16
SESSION_ID_BYTES = 16

Pixels = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PatchQuery:
    """N patches for which a site wants a teacher's outputs.

    Args:
        request_id: 16 bytes, made by the site; a repetition keeps it.
        pixels: (N, H, W, 3), uint8 in [0, 255] or float32 in [0, 1].
        session: The momentum session whose model computes, 16 bytes; empty: the
            teacher as it is.
        digests: Of the patches, where their owner has them already; empty: computed
            when they are needed.
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
        """Returns the SHA-256 that names the query's content, see `query_digest`."""
        return query_digest(self.patch_digests(), weights)


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


def query_digest(digests: Sequence[bytes], weights: bytes = b"") -> bytes:
    """Returns the SHA-256 of a query's content.

    Args:
        digests: Of the patches, in their order.
        weights: Names those that compute, where they are not the teacher's own: their
            outputs of today are others than yesterday's.
    """
    return hashlib.sha256(b"".join(digests) + weights).digest()


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """A teacher's outputs for a query.

    Args:
        request_id: The query's.
        embedding: (N, D).
        logits: (N, C) over the teacher's classes.
    """

    request_id: bytes
    embedding: NDArray[np.float32]
    logits: NDArray[np.float32]
