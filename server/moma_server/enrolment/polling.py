"""A teacher at another institution follows what the coordinator revokes.

The authority's signed list is fetched every few seconds and added to this server's own
`revoked.json`, where the gate sees it at the next call. The newest list is kept beside
it: after a restart it says how old the knowledge is, and an older one is not believed.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from moma_core.errors import CertificateError, MomaError
from moma_core.trust import revocations
from moma_core.trust.files import write_private
from moma_core.trust.revocation_list import RevocationList, read_list

_logger = logging.getLogger(__name__)

_SOURCE = "the coordinator's list"
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSettings:
    """How a server follows the coordinator's revocations.

    Args:
        revoked: Its own list, which it adds to.
        newest: Where the newest signed list is kept.
        authority: The federation's CA certificate.
        seconds: Between two questions.
        warn_after: Without an answer for so long, every failure is an error.
        most_age: Without an answer for so long, nobody is admitted; None: never so.
    """

    revoked: Path
    newest: Path
    authority: Path
    seconds: float
    warn_after: timedelta
    most_age: timedelta | None


class FollowedRevocations:
    """The serials that are refused: this server's list, which follows another's.

    Args:
        settings: How to follow.
        fetch: Returns the coordinator's signed list, DER.
        clock: The present, with a time zone.
        on_list: Is told of when the newest list is.
    """

    def __init__(
        self,
        settings: PollSettings,
        fetch: Callable[[], bytes],
        *,
        clock: Callable[[], datetime],
        on_list: Callable[[datetime], None],
    ) -> None:
        self._settings, self._fetch = settings, fetch
        self._clock, self._on_list = clock, on_list
        self._own = revocations.Revocations(settings.revoked)
        self._newest = self._kept()

    def __contains__(self, serial: object) -> bool:
        """Says whether a certificate is refused: all are, when the list is too old."""
        return self._is_too_old() or serial in self._own

    async def follow(self, stop: asyncio.Event) -> None:
        """Asks for the list until `stop`, from a thread that holds up no ending.

        Raises:
            RuntimeError: The thread ended; without it the knowledge would grow old.
        """
        over = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(over,), name="revocations", daemon=True
        )
        thread.start()
        try:
            while not stop.is_set():
                if not thread.is_alive():
                    raise RuntimeError("the coordinator's revocations are not followed")
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _LOOK_SECONDS)
        finally:
            over.set()

    def _run(self, over: threading.Event) -> None:
        self.look()
        while not over.wait(self._settings.seconds):
            self.look()

    def look(self) -> None:
        """Fetches the list once; what goes wrong is logged."""
        try:
            der = self._fetch()
            found = read_list(der, self._authority(), now=self._clock())
            self._take(found, der)
        except (MomaError, OSError) as error:
            self._complain(error)

    def _take(self, found: RevocationList, der: bytes) -> None:
        if self._newest is not None and found.number < self._newest.number:
            raise CertificateError("an older revocation list than the last was sent")
        new = revocations.learn(
            self._settings.revoked, found.serials, name=_SOURCE, now=self._clock()
        )
        if new:
            _logger.warning("%d more certificate(s) were revoked by the authority", new)
        if self._newest is None or found.number > self._newest.number:
            write_private(self._settings.newest, der)
        self._newest = found
        self._on_list(found.made_at)

    def _kept(self) -> RevocationList | None:
        """Returns the list of before the restart; of how long ago, it says itself."""
        path = self._settings.newest
        try:
            der = path.read_bytes()
            found = read_list(der, self._authority(), now=None)
        except FileNotFoundError:
            return None
        except (CertificateError, OSError) as error:
            _logger.warning("the kept revocation list is not used: %s", error)
            return None
        self._on_list(found.made_at)
        return found

    def _age(self) -> timedelta:
        if self._newest is None:
            return timedelta.max
        return self._clock() - self._newest.made_at

    def _is_too_old(self) -> bool:
        most = self._settings.most_age
        return most is not None and self._age() > most

    def _complain(self, error: Exception) -> None:
        if self._is_too_old():
            text = "nobody is admitted, the newest revocation list is too old: %s"
            _logger.error(text, error)
        elif self._age() > self._settings.warn_after:
            since = self._newest.made_at.isoformat() if self._newest else "ever"
            text = "no revocation list since %s, who was revoked is not known here: %s"
            _logger.error(text, since, error)
        else:
            _logger.warning("no revocation list: %s", error)

    def _authority(self) -> bytes:
        return self._settings.authority.read_bytes()
