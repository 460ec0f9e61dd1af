"""Counts the bytes that the relay holds, and says no before they are too many."""

from moma_core.errors import TeacherBusyError

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
