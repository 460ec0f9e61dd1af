"""Messages that act at once are accepted once: what a carrier kept is of no use later.

A query needs none of this: the budget ledger knows its id, and a repetition is free.
The other calls name the time at which they were signed, and have an id that is
remembered for as long as that time would still do.

Ids do not outlive the process, so after a restart nothing is accepted that was signed
before it. A site whose clock is ahead signs for a time that comes after the restart, so
the latest such time of each site is kept on the disk: that site alone waits for it.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from moma_core.errors import (
    NotAuthorizedError,
    ReplayError,
    TeacherBusyError,
    TeacherUnavailableError,
)
from moma_core.runtime.files import locked, make_folder, write_private

_logger = logging.getLogger(__name__)

WINDOW = timedelta(minutes=5)
MOST_REMEMBERED = 10_000  # of one site

_RETRY_SECONDS = 30.0
_STEP_MS = 10_000.0  # so long one write serves a site whose clock is ahead
_TIMES = TypeAdapter(dict[str, float])


class ReplayGuard:
    """Remembers which messages were accepted; safe to use from several threads.

    Only what a site signed gets here, so no one fills another site's memory.

    Args:
        clock: Gives the time, with a time zone.
        kept: File of the times that lay ahead; its folder is the teacher's own.
        window: How far a message's time may be from ours.
        most: Messages of one site that are remembered at once.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        kept: Path,
        *,
        window: timedelta = WINDOW,
        most: int = MOST_REMEMBERED,
    ) -> None:
        self._clock = clock
        self._window_ms = window / timedelta(milliseconds=1)
        self._most = most
        self._began_ms = self._seen_ms = self._now_ms()
        self._kept, self._before = kept, _read(kept)
        self._ahead: dict[str, float] = {}  # on the disk, of this process
        self._accepted: dict[str, OrderedDict[bytes, float]] = {}
        self._lock = threading.Lock()

    def accept_once(self, site: str, request_id: bytes, issued_ms: int) -> None:
        """Accepts a message, once.

        Raises:
            NotAuthorizedError: Its time is too far from ours.
            ReplayError: It was accepted before.
            TeacherUnavailableError: It may have been accepted before the process began.
            TeacherBusyError: The site has sent too many.
        """
        now = self._now_ms()
        self._notice_a_step_back(now)
        if abs(now - issued_ms) > self._window_ms:
            raise NotAuthorizedError(
                f"the message was signed {(now - issued_ms) / 1000:.0f} seconds ago by "
                f"the teacher's clock, at most {self._window_ms / 1000:.0f} are taken"
            )
        if issued_ms <= max(self._began_ms, self._ahead_before(site)):
            raise TeacherUnavailableError(
                "the message was signed before the teacher began to serve"
            )
        with self._lock:
            accepted = self._accepted.setdefault(site, OrderedDict())
            while accepted and next(iter(accepted.values())) < now:
                accepted.popitem(last=False)
            if request_id in accepted:
                raise ReplayError("the message was sent before")
            if len(accepted) >= self._most:
                raise TeacherBusyError("too many messages came", _RETRY_SECONDS)
            if issued_ms > max(now, self._ahead.get(site, 0.0)):
                self._keep(site, issued_ms + _STEP_MS)
            accepted[request_id] = now + 2 * self._window_ms  # its time may lie ahead

    def _notice_a_step_back(self, now: float) -> None:
        """Begins anew where the clock was ahead, instead of waiting for that time.

        What was remembered may have been forgotten by the wrong clock, so the longest
        time is waited for.
        """
        with self._lock:
            if now < self._seen_ms - self._window_ms:
                self._began_ms = now + self._window_ms
            self._seen_ms = now

    def _ahead_before(self, site: str) -> float:
        """Returns a time after which no message of the site was accepted before."""
        longest = self._began_ms + self._window_ms + _STEP_MS
        if self._before is None:  # then nobody knows, and the longest is waited for
            return longest
        # a later one is of a clock that was wrong, as nobody signs so far ahead
        return min(self._before.get(site, 0.0), longest)

    def _keep(self, site: str, ahead_ms: float) -> None:
        """Notes, durably, up to which time a site's messages may have been accepted."""
        make_folder(self._kept.parent)
        with locked(self._kept.parent):  # another replica may keep others
            known = _read(self._kept) or {}
            known[site] = max(ahead_ms, known.get(site, 0.0))
            write_private(self._kept, _TIMES.dump_json(known))
        self._ahead[site] = ahead_ms

    def _now_ms(self) -> float:
        return self._clock().timestamp() * 1000


def _read(path: Path) -> dict[str, float] | None:
    """Returns what was kept, None where it is damaged."""
    try:
        return _TIMES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        _logger.warning("the times in %s cannot be read: %s", path, error)
        return None
