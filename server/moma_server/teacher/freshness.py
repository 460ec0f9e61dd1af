"""Messages that act at once are taken once: what a carrier kept is of no use later.

A query needs none of this: the budget ledger knows its id, and a repetition is free.
The other calls name the time at which they were signed, and have an id that is
remembered for as long as that time would still do.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta

from moma_core.errors import (
    NotAdmittedError,
    ReplayError,
    TeacherBusyError,
    TeacherUnavailableError,
)

WINDOW = timedelta(minutes=5)
MOST_REMEMBERED = 10_000  # of one site

_RETRY_SECONDS = 30.0


class Freshness:
    """Remembers which messages were taken; safe to ask from several threads.

    Only what a site signed gets here, so no one fills another site's memory. Nothing
    outlives the process: what was signed before it began must be signed anew.

    Args:
        clock: Gives the time, with a time zone.
        window: How far a message's time may be from ours.
        most: Messages of one site remembered at once.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        *,
        window: timedelta = WINDOW,
        most: int = MOST_REMEMBERED,
    ) -> None:
        self._clock = clock
        self._window_ms = window / timedelta(milliseconds=1)
        self._most = most
        self._began_ms = self._now_ms()
        self._taken: dict[str, OrderedDict[bytes, float]] = {}
        self._lock = threading.Lock()

    def take(self, site: str, request_id: bytes, issued_ms: int) -> None:
        """Takes a message, once.

        Raises:
            NotAdmittedError: Its time is too far from ours.
            ReplayError: It was taken before.
            TeacherUnavailableError: It is older than this process.
            TeacherBusyError: The site has sent too many.
        """
        now = self._now_ms()
        if abs(now - issued_ms) > self._window_ms:
            raise NotAdmittedError(
                f"the message was signed {(now - issued_ms) / 1000:.0f} seconds ago by "
                f"the teacher's clock, at most {self._window_ms / 1000:.0f} are taken"
            )
        if issued_ms < self._began_ms:
            raise TeacherUnavailableError(
                "the message was signed before the teacher began to serve"
            )
        with self._lock:
            taken = self._taken.setdefault(site, OrderedDict())
            while taken and next(iter(taken.values())) < now:
                taken.popitem(last=False)
            if request_id in taken:
                raise ReplayError("the message was sent before")
            if len(taken) >= self._most:
                raise TeacherBusyError("too many messages came", _RETRY_SECONDS)
            taken[request_id] = now + 2 * self._window_ms  # its time may lie ahead

    def _now_ms(self) -> float:
        return self._clock().timestamp() * 1000
