"""What one end of the relay takes from the other, and what may be called through it."""

import re
from dataclasses import dataclass

from moma_core.errors import TeacherBusyError
from moma_core.teacher.card.bounds import LARGEST_REQUEST_BYTES

RELAYED_SERVICES = ("moma.v1.TeacherService", "moma.v1.AuditService")

CHUNK_COST_BYTES = 1024
"""What a chunk costs beside its bytes, so that empty ones are not free."""

_METHOD = re.compile(
    "/(?:" + "|".join(map(re.escape, RELAYED_SERVICES)) + ")/[A-Za-z]{1,64}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayBounds:
    """Sizes, counts and times of one end; the defaults are the wire contract's.

    Args:
        chunk_bytes: Of a message at once, so that others have their turn.
        window_bytes: Under way in one direction of a call.
        message_bytes: Of one message; it is whole in memory while it passes.
        request_bytes: Of one message of a site. gRPC holds what has come of it before
            the relay is told, so that so much is counted for each that is awaited.
        call_bytes: Held for one caller, over all of its calls.
        held_bytes: Held for all callers.
        calls: Open at once on one stream.
        keep_alive_seconds: Of having nothing to say, after which it is said.
        silence_seconds: Of the other end, after which it counts as gone.
    """

    chunk_bytes: int = 2**20
    window_bytes: int = 2**22
    message_bytes: int = 2**26
    request_bytes: int = LARGEST_REQUEST_BYTES
    call_bytes: int = 2**29
    held_bytes: int = 2**32
    calls: int = 64
    keep_alive_seconds: float = 10.0
    silence_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.window_bytes < 2 * (self.chunk_bytes + CHUNK_COST_BYTES):
            raise ValueError(f"a window holds two chunks at least, got {self}")
        if self.keep_alive_seconds >= self.silence_seconds:
            raise ValueError(f"silence is longer than a pause, got {self}")


def is_relayed(method: str) -> bool:
    """Says whether a gRPC method, `/service/name`, may be called through the relay."""
    return _METHOD.fullmatch(method) is not None


_RETRY_SECONDS = 2.0


class HeldBytes:
    """An account with a ceiling, and perhaps one above it that is shared.

    It refuses and never waits: half a message that waited for room could be what
    keeps the room from others.

    Args:
        limit: Bytes at once.
        shared: Is charged as well.

    Attributes:
        now: Bytes held at the moment.
        most: Bytes held at the worst moment so far.
    """

    def __init__(self, limit: int, shared: "HeldBytes | None" = None) -> None:
        self._limit = limit
        self._shared = shared
        self.now = 0
        self.most = 0

    def take(self, count: int) -> None:
        """Notes that bytes have come.

        Raises:
            TeacherBusyError: There is no room for them; nothing was noted.
        """
        if self.now + count > self._limit:
            raise TeacherBusyError("the relay holds too much", _RETRY_SECONDS)
        if self._shared is not None:
            self._shared.take(count)
        self.now += count
        self.most = max(self.most, self.now)

    def give(self, count: int) -> None:
        """Notes that bytes have gone."""
        self.now -= count
        if self._shared is not None:
            self._shared.give(count)
