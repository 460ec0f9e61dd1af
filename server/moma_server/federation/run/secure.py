"""One round whose students the coordinator sees as a sum only.

training, as in any round, but no weights come back -> tries of: a key of each site that
trained -> its update, masked for the sites that sent a key -> their mean

Who drops out while it trains, or before it sent its key, is left out. Who drops out
after the keys were handed out leaves masks in the sum, and no seed is ever revealed:
the try is repeated under new keys, with the same sites, since two sums that differ by
one site would show that site's update. Sites refuse anything else.
"""

import logging
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from moma_core.errors import UpdateRejectedError
from moma_core.federation.masked_sum import MaskedSum
from moma_core.federation.task import (
    MOST_MASKED,
    Masking,
    RoundKey,
    RoundReport,
    RoundTask,
)
from moma_server.config.federation_plan import FederationPlan
from moma_server.federation.run.records import SiteEntry
from moma_server.federation.run.round import Accept
from moma_server.federation.run.updates import (
    OTHER_MODEL,
    GlobalStudent,
    other_models,
)

_logger = logging.getLogger(__name__)

Entries = dict[str, SiteEntry]


@dataclass(frozen=True, slots=True)
class TryResult:
    """How one try of a round went.

    Args:
        entries: How each site fared.
        is_complete: Whether the round is done with it.
        student: The student that it made, where it makes one.
    """

    entries: Mapping[str, SiteEntry]
    is_complete: bool
    student: GlobalStudent | None = None


class SendToAll(Protocol):
    """Sends a task to sites and takes their reports, see `Round`."""

    def __call__(
        self, task: RoundTask, names: Collection[str], accept: Accept, *, quorum: int
    ) -> Entries:
        """Returns how each of the sites `names` fared."""


@dataclass(slots=True)
class _Trained:
    """What is known of the sites that have trained in the round."""

    entries: Entries = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)


class MaskedRound:
    """Has the sites train once, and tries to get the sum of their updates.

    Args:
        task: The round's task to train.
        plan: Settings of the run.
        start: Student from which the round goes out; None in the first.
        send: Sends a task and waits for the reports.
    """

    def __init__(
        self,
        task: RoundTask,
        *,
        plan: FederationPlan,
        start: GlobalStudent | None,
        send: SendToAll,
    ) -> None:
        self._task, self._plan, self._start, self._send = task, plan, start, send
        self._trained = _Trained()
        self._group: frozenset[str] = frozenset()  # in whose sum some have sent

    @property
    def number(self) -> int:
        """Number of the round."""
        return self._task.round

    @property
    def has_trained(self) -> bool:
        """Whether the round has its quorum, if not its sum."""
        return len(self._trained.models) >= self._plan.quorum

    def attempt(self, invited: Collection[str]) -> TryResult:
        """Tries to complete the round with some of the sites `invited`."""
        if not self.has_trained:
            self._train(invited)
        whole = self._group or frozenset(sorted(self._trained.models)[:MOST_MASKED])
        if len(whole) < self._plan.quorum:
            return TryResult(self._trained.entries, is_complete=False)
        needed = len(whole) if self._group else self._plan.quorum
        try_id = secrets.token_hex(8)
        keys, without_key = self._keys(try_id, whole, needed)
        if len(keys) < needed:
            return TryResult(self._with(without_key), is_complete=False)
        student, entries = self._sum(try_id, keys)
        beyond = {
            site: SiteEntry(state="failed", reason=f"a sum has {MOST_MASKED} sites")
            for site in self._trained.models.keys() - whole
        }
        everything = self._with({**beyond, **without_key, **entries})
        return TryResult(everything, student is not None, student)

    def _train(self, invited: Collection[str]) -> None:
        """Has those train that have not; a site that has trained is not lost again."""
        models = dict(self._trained.models)
        model = "" if self._start is None else self._start.model

        def accept(site: str, report: RoundReport) -> None:
            if report.weights is not None:
                raise UpdateRejectedError("no weights were wanted without masks")
            if report.model != (model or report.model):
                raise UpdateRejectedError(OTHER_MODEL)
            models[site] = report.model

        missing = set(invited) - models.keys()
        fared = self._send(self._task, missing, accept, quorum=self._plan.quorum)
        entries = {**self._trained.entries, **fared}
        for site, why in other_models(models).items():
            del models[site]
            entries[site] = SiteEntry(
                state="failed",
                reason=f"update rejected: {why}",
                answered_at=entries[site].answered_at,
            )
        self._trained = _Trained(entries, models)

    def _keys(
        self, try_id: str, names: Collection[str], needed: int
    ) -> tuple[dict[str, RoundKey], Entries]:
        """Returns the keys of a try, and how those fared that sent none."""
        keys: dict[str, RoundKey] = {}

        def accept(site: str, report: RoundReport) -> None:
            key = report.round_key
            if key is None or key.site != site or report.weights is not None:
                raise UpdateRejectedError("the report is no key of this site")
            keys[site] = key

        task = replace(self._bare, kind="keys", masking=self._masking(try_id))
        return keys, _dropped(self._send(task, names, accept, quorum=needed))

    def _sum(
        self, try_id: str, keys: Mapping[str, RoundKey]
    ) -> tuple[GlobalStudent | None, Entries]:
        """Returns the mean of a group, and how those fared that are not in it."""
        total = MaskedSum(None if self._start is None else self._start.weights)

        def accept(_site: str, report: RoundReport) -> None:
            total.add(report.weights or {})

        group = tuple(keys[site] for site in sorted(keys))
        task = replace(self._bare, kind="update", masking=self._masking(try_id, group))
        fared = self._send(task, keys, accept, quorum=len(keys))
        dropped = _dropped(fared)
        if any(entry.state not in ("refused", "away") for entry in fared.values()):
            self._group = frozenset(keys)
        if dropped:
            _logger.warning(
                "round %d: a sum is lost, since %s dropped out",
                self.number,
                ", ".join(sorted(dropped)),
            )
            return None, dropped
        try:
            mean = total.mean(self._plan.max_update_norm)
        except UpdateRejectedError as error:
            _logger.warning("round %d: a sum is rejected: %s", self.number, error)
            reason = f"the sum, not this site's part, is rejected: {error}"
            return None, {
                site: SiteEntry(state="failed", reason=reason) for site in keys
            }
        return GlobalStudent(mean, self._trained.models[min(keys)]), {}

    @property
    def _bare(self) -> RoundTask:
        """The round's task without what only training needs."""
        return replace(self._task, weights=None, checkpoints=())

    def _masking(self, try_id: str, keys: tuple[RoundKey, ...] = ()) -> Masking:
        norm = self._plan.max_update_norm
        return Masking(max_update_norm=norm, try_id=try_id, keys=keys)

    def _with(self, changed: Entries) -> Entries:
        return {**self._trained.entries, **changed}


def _dropped(fared: Mapping[str, SiteEntry]) -> Entries:
    return {
        site: SiteEntry(
            state=entry.state,
            reason=f"dropped out of the sum: {entry.reason}",
            answered_at=entry.answered_at,
        )
        for site, entry in fared.items()
        if entry.state != "took_part"
    }
