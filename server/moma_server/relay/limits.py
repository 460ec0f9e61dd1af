"""What one end of the relay takes from the other, and what may be called through it."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from moma_core.errors import TeacherBusyError
from moma_core.teacher.card.bounds import LARGEST_REQUEST_BYTES

RELAYED_SERVICES = ("moma.v1.TeacherService", "moma.v1.AuditService")

_METHOD = re.compile(
    "/(?:" + "|".join(map(re.escape, RELAYED_SERVICES)) + ")/[A-Za-z]{1,64}"
)
_RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayBounds:
    """Sizes, counts and times of one end; the defaults are the wire's contract.

    Args:
        frame_bytes: Largest content of one frame of a link.
        window_bytes: Responses that gRPC holds of a call whose site does not read.
        message_bytes: Largest message; it is whole in memory while it passes.
        request_bytes: Largest message of a site. gRPC holds what has come of it before
            the relay sees it, so that so much is counted for each that is awaited.
        site_bytes: Held at once for one site, over all of its calls.
        held_bytes: Held at once for all sites. gRPC assembles a teacher's message
            before it is counted: up to `message_bytes` more for each open call.
        calls: Calls open at once on one link.
        keep_alive_seconds: Who had nothing to send for so long sends an empty frame.
        silence_seconds: Who sent nothing for so long counts as gone.
    """

    frame_bytes: int = 2**20
    window_bytes: int = 2**22
    message_bytes: int = 2**26
    request_bytes: int = LARGEST_REQUEST_BYTES
    site_bytes: int = 2**29
    held_bytes: int = 2**32
    calls: int = 64
    keep_alive_seconds: float = 10.0
    silence_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.keep_alive_seconds >= self.silence_seconds:
            raise ValueError(f"silence is longer than a pause, got {self}")


def is_relayed(method: str) -> bool:
    """Says whether a gRPC method, `/service/name`, may be called through the relay."""
    return _METHOD.fullmatch(method) is not None


class ByteQuota:
    """Bytes that may be held at once, and perhaps a larger quota that is shared.

    It refuses and never waits: half a message that waited for room could be what
    keeps the room from others.

    Args:
        limit: Bytes that may be held at once.
        shared: Quota of all, in which the same bytes are counted.

    Attributes:
        now: Bytes held at the moment.
        most: Bytes held at the worst moment so far.
    """

    def __init__(self, limit: int, shared: "ByteQuota | None" = None) -> None:
        self._limit = limit
        self._shared = shared
        self.now = 0
        self.most = 0

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Counts bytes as held while the block runs.

        Raises:
            TeacherBusyError: There is no room for them; nothing was counted.
        """
        with ExitStack() as stack:
            if self.now + count > self._limit:
                raise TeacherBusyError("the relay holds too much", _RETRY_SECONDS)
            if self._shared is not None:
                stack.enter_context(self._shared.holding(count))
            self.now += count
            self.most = max(self.most, self.now)
            try:
                yield
            finally:
                self.now -= count
