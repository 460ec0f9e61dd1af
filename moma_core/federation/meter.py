"""How much of a message is taken, whatever the other party says it holds."""

import threading

from moma_core.errors import FederationError
from moma_core.federation.messages import MAX_HEADER_BYTES

_CHUNK_BYTES = 5 << 20  # Flower's
_FURTHER_PARTS = 16  # the message, its records and its array, and some to spare


def most_bytes(max_weights_bytes: int) -> int:
    """Returns how long a message may be that carries such weights, or 0."""
    return max_weights_bytes + 2 * MAX_HEADER_BYTES


def most_parts(max_weights_bytes: int) -> int:
    """Returns of how many objects a message consists that carries such weights."""
    return most_bytes(max_weights_bytes) // _CHUNK_BYTES + _FURTHER_PARTS


class Meter:
    """Counts what is pulled, from several threads, and stops at a limit.

    Args:
        limit: In bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._lock = threading.Lock()

    def count(self, content: bytes) -> bytes:
        """Returns `content`.

        Raises:
            FederationError: With it, more came than the limit.
        """
        with self._lock:
            self._taken += len(content)
            if self._taken > self._limit:
                raise FederationError(f"more than {self._limit} bytes are not taken")
        return content
