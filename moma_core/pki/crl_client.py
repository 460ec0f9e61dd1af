"""Polls the CRL, for a party that has no part of the coordinator's disk.

The CA's signed list is fetched every few seconds and added to the party's own
`revoked.json`, where it is seen at the next connection or call. The newest list is kept
beside it: after a restart, and to the party's other processes, it says how old the
knowledge is, and an older one is not believed.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import Field

from moma_core.config import Section
from moma_core.errors import CertificateError, MomaError, NotAuthorizedError
from moma_core.pki import revocations
from moma_core.pki.certificates import CLOCK_SKEW
from moma_core.pki.revocations import RevocationList, read_list
from moma_core.runtime.files import WatchedFile, write_private

_logger = logging.getLogger(__name__)

_SOURCE = "the coordinator's list"


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSettings:
    """How a party polls the coordinator's revocations.

    Args:
        revoked: The party's own list, which it adds to.
        newest: Where the newest signed list is kept.
        authority: File of the federation's CA certificate.
        seconds: Time between two fetches.
        warn_after: Without a list for so long, every failure is an error.
        most_age: Without a list for so long, everybody is refused; None: never so.
    """

    revoked: Path
    newest: Path
    authority: Path
    seconds: float
    warn_after: timedelta
    most_age: timedelta | None


class RevocationsSection(Section):
    """How a party polls the coordinator's list of revoked certificates."""

    revocations_poll_seconds: float = Field(
        default=5, gt=0, le=3600, description="Time between two fetches of the list."
    )
    revocations_warn_minutes: float = Field(
        default=10,
        gt=0,
        description="Without a list for so long, the log has errors.",
    )
    revocations_max_age_hours: float | None = Field(
        default=None,
        gt=0,
        description="Without a list for so long, nobody is authorized; null: never.",
    )

    def poll_settings(
        self, revoked: Path, newest: Path, authority: Path
    ) -> PollSettings:
        """Returns the settings for these files."""
        most = self.revocations_max_age_hours
        return PollSettings(
            revoked=revoked,
            newest=newest,
            authority=authority,
            seconds=self.revocations_poll_seconds,
            warn_after=timedelta(minutes=self.revocations_warn_minutes),
            most_age=None if most is None else timedelta(hours=most),
        )


class RevocationPoller:
    """The serials that are refused: one's own list, kept up to the coordinator's.

    Of several over the same files, also in other processes, one has to poll.

    Args:
        settings: What to poll, and how often.
        fetch: Returns the coordinator's signed list, DER.
        clock: Returns the present, with a time zone.
        on_list: Called with the time of the newest list.

    Attributes:
        has_looked: Set after the first look of `start`, whatever came of it.
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
        self._newest = WatchedFile(settings.newest, self._kept)
        self._complaint: tuple[int, str] | None = None
        self._began_at = clock()
        self.has_looked = threading.Event()
        if (kept := self._newest.content()) is not None:
            on_list(kept.made_at)

    def __contains__(self, serial: object) -> bool:
        """Says whether a certificate is refused: all are, when the list is too old."""
        return self._is_too_old() or serial in self._own

    def check_age(self) -> None:
        """Refuses everybody while the newest list is too old.

        Raises:
            NotAuthorizedError: It is; who was revoked since is not known.
        """
        if self._is_too_old():
            since = self._since()
            raise NotAuthorizedError(
                f"nobody is admitted, there is no revocation list since {since}"
            )

    def start(self, over: threading.Event) -> threading.Thread:
        """Looks until `over`, from a thread that holds up no ending."""
        thread = threading.Thread(
            target=self._run, args=(over,), name="revocations", daemon=True
        )
        thread.start()
        return thread

    def _run(self, over: threading.Event) -> None:
        self.look()
        self.has_looked.set()
        while not over.wait(self._settings.seconds):
            self.look()

    def look(self) -> None:
        """Fetches the list once; what goes wrong is logged."""
        try:
            der = self._fetch()
            found = read_list(der, self._authority(), now=self._clock())
            self._take(found, der)
            self._complaint = None
        except (MomaError, OSError) as error:
            self._complain(error)

    def _take(self, found: RevocationList, der: bytes) -> None:
        newest = self._newest.content()
        if newest is not None and newest.made_at > self._clock() + CLOCK_SKEW:
            newest = None  # of a clock that was wrong: it holds back no later list
        if newest is not None and found.number < newest.number:
            raise CertificateError("an older revocation list than the last was sent")
        new = revocations.learn(
            self._settings.revoked, found.serials, name=_SOURCE, now=self._clock()
        )
        if new:
            _logger.warning("%d more certificate(s) were revoked by the authority", new)
        if newest is None or found.number > newest.number:
            write_private(self._settings.newest, der)
        self._on_list(found.made_at)

    def _kept(self, path: Path) -> RevocationList | None:
        """Returns the newest list; of how long ago, it says itself."""
        try:
            return read_list(path.read_bytes(), self._authority(), now=None)
        except FileNotFoundError:
            return None
        except (CertificateError, OSError) as error:
            _logger.warning("the kept revocation list is not used: %s", error)
            return None

    def _age(self) -> timedelta:
        """Returns how far the newest list is from now; a clock may have been ahead."""
        newest = self._newest.content()
        return timedelta.max if newest is None else abs(self._clock() - newest.made_at)

    def _since(self) -> str:
        newest = self._newest.content()
        return "ever" if newest is None else newest.made_at.isoformat()

    def _is_too_old(self) -> bool:
        most = self._settings.most_age
        return most is not None and self._age() > most

    def _complain(self, error: Exception) -> None:
        """Logs what is wrong, and the same thing once: an outage may last for days."""
        level, text = logging.ERROR, f"no revocation list: {error}"
        if self._is_too_old():
            text = f"nobody is admitted, the newest revocation list is too old: {error}"
        elif self._age() > self._settings.warn_after:
            text = (
                f"no revocation list since {self._since()}, "
                f"who was revoked is not known here: {error}"
            )
            if self._is_fresh():
                level = logging.WARNING
        else:
            level = logging.WARNING
        if (level, text) != self._complaint:
            _logger.log(level, "%s", text)
        self._complaint = (level, text)

    def _is_fresh(self) -> bool:
        """Whether a first list may still come: that there is none yet is no fault."""
        waited = self._clock() - self._began_at
        return self._newest.content() is None and waited <= self._settings.warn_after

    def _authority(self) -> bytes:
        return self._settings.authority.read_bytes()
