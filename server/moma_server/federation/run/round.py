"""One round: send every site its task, wait for the replies, name who is missing.

Nothing here knows the federation engine: it uses a small `Sites` protocol.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from moma_core.errors import UpdateRejectedError
from moma_core.federation.run_state import OwnState
from moma_core.federation.task import RoundReport, RoundTask
from moma_server.federation.run.records import SiteEntry, SiteState

_logger = logging.getLogger(__name__)

Trouble = Literal["away", "failed", "refused"]
_LONGEST_BACKOFF_SECONDS = 30.0
_MOST_RETURNS = 3  # of one site in one round


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for a message: a report, or why there is none.

    Args:
        message_id: Id of the message that the site replied to.
        report: The site's report, checked against the contract.
        trouble: `away`, the site was lost; `failed`, it could not do the work or
            broke the contract; `refused`, it does not serve this coordinator.
        reason: One sentence of ours, never the site's text.
    """

    message_id: str
    report: RoundReport | None = None
    trouble: Trouble = "failed"
    reason: str = ""


class Sites(Protocol):
    """The registered sites, as far as a round needs them."""

    def available(self) -> Collection[str]:
        """Names the sites that a message can reach now."""

    def connected_at(self) -> Mapping[str, float]:
        """Returns when each site connected last, in seconds since 1970."""

    def send(self, site: str, task: RoundTask, *, seconds: float) -> str | None:
        """Sends `task`, good for `seconds`; None when it could not be sent."""

    def poll(self) -> Sequence[Reply]:
        """Returns the replies that came since the last call."""

    def forget(self) -> None:
        """Drops every message that has no reply yet."""


class Clock(Protocol):
    """Time, as a round sees it."""

    def monotonic(self) -> float:
        """Seconds that never run backwards."""

    def time(self) -> float:
        """Seconds since 1970."""

    def sleep(self, seconds: float) -> None:
        """Waits."""


Accept = Callable[[str, RoundReport], None]


@dataclass(frozen=True, slots=True)
class RoundStand:
    """How far a round is.

    Args:
        done: How many sites are waited for no more.
        asked: How many sites it has.
        own: What of its round each site alone is told.
    """

    done: int
    asked: int
    own: Mapping[str, OwnState]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRules:
    """How long a round waits.

    Args:
        deadline_seconds: The round ends here, whoever is missing.
        poll_seconds: Time between two polls for replies.
        tries: How often one site gets the task in one round, at most; once more each
            time that it connects anew after it refused or failed.
        quorum: Number of sites that the round needs.
        grace_seconds: The round ends so long after its quorum took part when all that
            it still waits for were never connected since it began.
        backoff_seconds: Time before a site gets the task again; doubles every time.
        remind_seconds: Time before a silent site gets the task once more, for Flower
            loses a message whose delivery breaks off; trebles every time. A site that
            works on it already replies to both.
    """

    deadline_seconds: float
    poll_seconds: float
    tries: int
    quorum: int
    grace_seconds: float
    backoff_seconds: float = 1.0
    remind_seconds: float = 30.0


@dataclass(slots=True)
class _Seat:
    """How one site fares in the round that runs."""

    site: str
    state: SiteState = "away"
    reason: str = "the site was not connected"
    message_ids: set[str] = field(default_factory=set)
    tries: int = 0
    reminders: int = 0
    send_at: float = 0.0
    done: bool = False
    entry: SiteEntry | None = None
    is_reached: bool = False  # was sent the task, since it was last asked again
    outcome: SiteEntry | None = None  # its last refusal or failure to train
    returns: int = 0
    returns_after: float | None = None  # since 1970; None: it is not asked again

    def close(self, state: SiteState, reason: str) -> None:
        self.done, self.state, self.reason = True, state, reason
        self.returns_after = None
        self.message_ids.clear()

    def reopen(self, tries: int) -> None:
        """Has it asked again: by the tries that it has left of `tries`, or by one.

        To connect anew costs a site nothing, and so does a link that drops.
        """
        self.done, self.is_reached, self.send_at = False, False, 0.0
        self.tries = min(self.tries, tries - 1)
        self.returns += 1


class Round:
    """Sends one task to every site and takes their reports.

    Args:
        task: The task, the same for all sites.
        sites: Sends messages to the sites.
        rules: How long to wait.
        clock: Gives the time.
        accept: Takes a site's report into the round's result; it raises
            UpdateRejectedError for one that does not fit, and the site has failed.
        on_progress: Takes how far the round is, when that has changed.
    """

    def __init__(
        self,
        task: RoundTask,
        *,
        sites: Sites,
        rules: RoundRules,
        clock: Clock,
        accept: Accept,
        on_progress: Callable[[RoundStand], None] = lambda _stand: None,
    ) -> None:
        self._task = task
        self._sites = sites
        self._rules = rules
        self._clock = clock
        self._accept = accept
        self._on_progress = on_progress

    def run(self, names: Collection[str]) -> dict[str, SiteEntry]:
        """Returns how each of the sites `names` fared; never raises for a site."""
        seats = [_Seat(name) for name in sorted(names)]
        end = self._clock.monotonic() + self._rules.deadline_seconds
        enough_at: float | None = None
        shown: RoundStand | None = None
        while self._open(seats) and self._clock.monotonic() < end:
            if (stand := _stand(seats)) != shown:
                shown = stand
                self._on_progress(stand)
            self._take_back(seats)
            self._send(seats, end)
            for reply in self._sites.poll():
                self._take(reply, seats)
            if enough_at is None and self._has_quorum(seats):
                enough_at = self._clock.monotonic()
            if enough_at is not None and self._waits_in_vain(seats, enough_at):
                break
            if self._open(seats):
                self._clock.sleep(self._rules.poll_seconds)
        self._sites.forget()
        return {seat.site: seat.entry or _entry(seat) for seat in seats}

    @staticmethod
    def _open(seats: Sequence[_Seat]) -> bool:
        return any(not seat.done for seat in seats)

    def _has_quorum(self, seats: Sequence[_Seat]) -> bool:
        return sum(seat.state == "took_part" for seat in seats) >= self._rules.quorum

    def _waits_in_vain(self, seats: Sequence[_Seat], enough_at: float) -> bool:
        """Whether only sites are missing that had their time to connect."""
        waited = self._clock.monotonic() - enough_at
        never_came = all(not seat.is_reached for seat in seats if not seat.done)
        return never_came and waited >= self._rules.grace_seconds

    def _take_back(self, seats: Sequence[_Seat]) -> None:
        """Asks those again that refused or failed, and connected anew since.

        A link that drops and comes back is the same to the engine as a start.
        """
        left = [
            (seat, seat.returns_after)
            for seat in seats
            if seat.done and seat.returns_after is not None
        ]
        if not left:
            return
        connected_at = self._sites.connected_at()
        for seat, after in left:
            if connected_at.get(seat.site, 0.0) > after:
                _logger.info("%s is asked again: it connected anew", seat.site)
                seat.reopen(self._rules.tries)

    def _send(self, seats: Sequence[_Seat], end: float) -> None:
        now = self._clock.monotonic()
        due = [seat for seat in seats if not seat.done and seat.send_at <= now]
        available = self._sites.available() if due else ()
        for seat in due:
            if seat.site not in available:
                if not seat.message_ids:
                    self._wait(seat, "away", "the site was not connected")
                continue
            if seat.message_ids:
                seat.reminders += 1
            else:
                seat.tries, seat.reminders = seat.tries + 1, 0
            seat.send_at = now + self._rules.remind_seconds * 3**seat.reminders
            message_id = self._sites.send(seat.site, self._task, seconds=end - now)
            if message_id is not None:
                seat.is_reached = True
                seat.message_ids.add(message_id)
            elif not seat.message_ids:
                self._retry(seat, "away", "the task could not be sent")

    def _take(self, reply: Reply, seats: Sequence[_Seat]) -> None:
        seat = next((s for s in seats if reply.message_id in s.message_ids), None)
        if seat is None:
            return
        if reply.report is not None:
            self._settle(seat, reply.report)
        elif reply.trouble == "refused":
            self._give_up(seat, "refused", reply.reason)
        else:
            self._retry(seat, reply.trouble, reply.reason)

    def _settle(self, seat: _Seat, report: RoundReport) -> None:
        if report.refusal is not None:
            self._give_up(seat, "refused", report.refusal)
            return
        seat.outcome = None
        try:
            self._accept(seat.site, report)
        except UpdateRejectedError as error:
            _logger.warning("%s: update rejected: %s", seat.site, error)
            seat.close("failed", f"update rejected: {error}")
            return
        seat.close("took_part", "")
        seat.entry = SiteEntry(
            state="took_part",
            patches=report.patches,
            metrics=dict(report.metrics),
            answered_at=self._clock.time(),
            checkpoint=report.checkpoint,
        )

    def _retry(self, seat: _Seat, state: SiteState, reason: str) -> None:
        """Sends the task again later, or gives up after the last try."""
        if seat.tries >= self._rules.tries:
            self._give_up(seat, state, reason)
        else:
            self._wait(seat, state, reason)

    def _give_up(self, seat: _Seat, state: SiteState, reason: str) -> None:
        """Waits for a site no more, unless it connects anew to train."""
        seat.close(state, reason)
        if self._task.kind != "train":
            return
        if state in ("refused", "failed"):
            seat.outcome = SiteEntry(state=state, reason=reason)
        # also where the link of a site that was asked again has dropped
        if seat.outcome is not None and seat.returns < _MOST_RETURNS:
            seat.returns_after = self._clock.time()

    def _wait(self, seat: _Seat, state: SiteState, reason: str) -> None:
        backoff = self._rules.backoff_seconds * 2 ** min(max(seat.tries - 1, 0), 10)
        seat.state, seat.reason = state, reason
        seat.message_ids.clear()
        seat.send_at = self._clock.monotonic() + min(backoff, _LONGEST_BACKOFF_SECONDS)


def _entry(seat: _Seat) -> SiteEntry:
    """Returns how a site fared that has no part; what it said outweighs silence."""
    state, reason = seat.state, seat.reason
    if seat.message_ids:
        state, reason = "late", "no answer before the round's deadline"
    said = seat.outcome
    if said is not None and state in ("away", "late"):
        again = f"{said.reason}; it connected anew, and gave no answer"
        return SiteEntry(state=said.state, reason=again)
    return SiteEntry(state=state, reason=reason)


def _stand(seats: Sequence[_Seat]) -> RoundStand:
    own: dict[str, OwnState] = {}
    for seat in seats:
        if seat.done and seat.outcome is not None:
            own[seat.site] = OwnState(
                became="refused" if seat.outcome.state == "refused" else "failed",
                may_return=seat.returns_after is not None,
            )
    return RoundStand(sum(seat.done for seat in seats), len(seats), own)
