"""A run from its first round to its closing task; every step leaves a record."""

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from moma_core.errors import CheckpointError, DiskError, UpdateRejectedError
from moma_core.federation.task import Kind, RoundReport, RoundTask
from moma_core.federation.weights import load_with_metadata, save_weights
from moma_server.config.federation_plan import RunOrder
from moma_server.federation.run.gossip import SeenCheckpoints
from moma_server.federation.run.records import (
    Outcome,
    RecordFile,
    RoundRecord,
    SiteEntry,
)
from moma_server.federation.run.round import (
    Accept,
    Clock,
    Round,
    RoundRules,
    RoundStand,
    Sites,
)
from moma_server.federation.run.secure import MaskedRound, TryResult
from moma_server.federation.run.updates import GlobalStudent, RoundUpdates
from moma_server.federation.run.watch import RoundProgress

_logger = logging.getLogger(__name__)


class FederatedRun:
    """Runs what an order says.

    Args:
        order: The plan, and where its run stands.
        sites: Sends messages to the sites.
        registered: Names the sites that belong to the federation now.
        clock: Gives the time.

    Raises:
        CheckpointError: The weights of the round before the first are missing, or a
            record is damaged.
    """

    def __init__(
        self,
        order: RunOrder,
        *,
        sites: Sites,
        registered: Callable[[], list[str]],
        clock: Clock,
    ) -> None:
        self._order = order
        self._plan = order.plan
        self._sites = sites
        self._registered = registered
        self._clock = clock
        self._records = RecordFile(order.records)
        self._seen = SeenCheckpoints()
        for record in self._records.read():
            self._seen.add(record)
        self._student: GlobalStudent | None = None  # of the last completed round
        self._masked: MaskedRound | None = None  # where `aggregation` is `secure`
        self._has_lost_sum = False  # in the round before
        if self._plan.mode == "fedavg" and order.first_round > 1:
            self._go_on_from(order.first_round - 1)

    def run(self) -> None:
        """Goes on from the order's first round to the end of the run.

        A run that is over is closed for the sites that were away at its end.
        """
        if self._order.closing:
            self._attempt("close", self._plan.rounds, 1)
            return
        started_at = self._clock.time()
        for number in range(self._order.first_round, self._plan.rounds + 1):
            if not self._train(number):
                self._end("stopped", number, started_at)
                return
        self._attempt("close", self._plan.rounds, 1)
        self._end("finished", self._plan.rounds, started_at)

    def _train(self, number: int) -> bool:
        """Tries a round until it has its quorum; False when the run must end.

        A round that was trained and whose sum is lost is left behind: sites give its
        update to no other group, and to that of the next round what they train then.
        """
        if any(
            self._attempt("train", number, attempt)
            for attempt in range(1, self._plan.retries + 2)
        ):
            self._has_lost_sum = False
            return True
        is_lost = self._masked is not None and self._masked.has_trained
        goes_on = is_lost and not self._has_lost_sum and number < self._plan.rounds
        self._has_lost_sum = is_lost
        return goes_on

    def _attempt(self, kind: Kind, number: int, attempt: int) -> bool:
        started_at, start = self._clock.time(), self._clock.monotonic()
        result = self._try(kind, number)
        record = RoundRecord(
            kind=kind,
            run=self._order.run,
            round=number,
            attempt=attempt,
            outcome="completed" if result.is_complete else "missed_quorum",
            started_at=started_at,
            seconds=self._clock.monotonic() - start,
            sites=dict(result.entries),
        )
        if result.student is not None:
            self._keep(number, result.student)
        self._write_down(record)
        return result.is_complete

    def _try(self, kind: Kind, number: int) -> TryResult:
        plan, rule, task = self._plan, self._plan.aggregation, self._task(kind, number)
        if kind == "close" or plan.mode == "independent":
            accept = _accept_any if kind == "close" else _accept_figures
            entries = self._send(task, self._invited(), accept)
            return TryResult(entries, self._has_quorum(kind, entries))
        if rule == "secure":
            if self._masked is None or self._masked.number != number:
                self._masked = MaskedRound(
                    task, plan=plan, start=self._student, send=self._send
                )
            return self._masked.attempt(self._invited())
        folder = self._order.weights / "updates"
        with RoundUpdates(folder, start=self._student) as updates:
            entries = self._send(task, self._invited(), updates.add)
            entries = _judged(entries, updates)
            if not self._has_quorum(kind, entries):
                return TryResult(entries, is_complete=False)
            student = updates.combined(rule, max_patches=plan.max_patches)
            return TryResult(entries, is_complete=True, student=student)

    def _send(
        self,
        task: RoundTask,
        names: Collection[str],
        accept: Accept,
        *,
        quorum: int | None = None,
    ) -> dict[str, SiteEntry]:
        """Sends a task to sites and takes their reports; see `Round`."""
        plan = self._plan
        seconds = {"train": plan.deadline_seconds, "close": plan.close_seconds}
        rules = RoundRules(
            deadline_seconds=seconds.get(task.kind, plan.sum_seconds),
            poll_seconds=plan.poll_seconds,
            tries=plan.asks,
            quorum=self._quorum(task.kind) if quorum is None else quorum,
            grace_seconds=plan.grace_seconds,
        )
        ends_at = self._clock.time() + rules.deadline_seconds
        return Round(
            task,
            sites=self._sites,
            rules=rules,
            clock=self._clock,
            accept=accept,
            on_progress=lambda stand: self._note(task, stand, ends_at),
        ).run(names)

    def _write_down(self, record: RoundRecord) -> None:
        self._records.append(record)
        self._seen.add(record)
        _logger.info(
            "%s %d/%d, try %d: %s, took part: %s",
            record.kind,
            record.round,
            self._plan.rounds,
            record.attempt,
            record.outcome,
            ", ".join(record.took_part) or "nobody",
        )

    def _note(self, task: RoundTask, stand: RoundStand, ends_at: float) -> None:
        """Says how far a round is; a run goes on where that cannot be written."""
        progress = RoundProgress(
            run=task.run,
            kind=task.kind,
            round=task.round,
            done=stand.done,
            asked=stand.asked,
            own=dict(stand.own),
            ends_at=ends_at,
        )
        with suppress(DiskError):
            progress.keep(self._order.records)

    def _invited(self) -> list[str]:
        closing = self._order.closing
        return [site for site in self._registered() if not closing or site in closing]

    def _task(self, kind: Kind, number: int) -> RoundTask:
        return RoundTask(
            kind=kind,
            run=self._order.run,
            round=number,
            rounds=self._plan.rounds,
            local_epochs=self._plan.local_epochs,
            local_steps=self._plan.local_steps,
            mode=self._plan.mode,
            weights=None if self._student is None else self._student.weights,
            checkpoints=self._seen.newest_checkpoints(number),
            masking=self._plan.masking,
        )

    def _quorum(self, kind: Kind) -> int:
        return self._plan.quorum if kind == "train" else 0

    def _has_quorum(self, kind: Kind, entries: Mapping[str, SiteEntry]) -> bool:
        took_part = sum(entry.state == "took_part" for entry in entries.values())
        return took_part >= self._quorum(kind)

    def _end(self, outcome: Outcome, number: int, started_at: float) -> None:
        self._records.append(
            RoundRecord(
                kind="run",
                run=self._order.run,
                round=number,
                outcome=outcome,
                started_at=started_at,
                seconds=self._clock.time() - started_at,
            )
        )

    def _keep(self, number: int, student: GlobalStudent) -> None:
        """Saves the global student before the record says that there is one."""
        path = self._weights_file(number)
        save_weights(path, student.weights, {"model": student.model})
        self._weights_file(number - 2).unlink(missing_ok=True)
        self._student = student

    def _go_on_from(self, number: int) -> None:
        path = self._weights_file(number)
        if not path.exists():
            raise CheckpointError(f"{path}, the student of round {number}, is missing")
        weights, metadata = load_with_metadata(path)
        self._student = GlobalStudent(weights, metadata.get("model", ""))

    def _weights_file(self, number: int) -> Path:
        return self._order.weights / f"round-{number:06d}.safetensors"


def _judged(
    entries: Mapping[str, SiteEntry], updates: RoundUpdates
) -> dict[str, SiteEntry]:
    """Returns how the sites fared when their updates are held against each other."""
    judged = dict(entries)
    for site, why in updates.judge().items():
        _logger.warning("%s: update rejected: %s", site, why)
        judged[site] = SiteEntry(
            state="failed",
            reason=f"update rejected: {why}",
            answered_at=entries[site].answered_at,
        )
    return judged


def _accept_figures(_site: str, report: RoundReport) -> None:
    if report.weights is not None:
        raise UpdateRejectedError("no weights were asked for")


def _accept_any(_site: str, _report: RoundReport) -> None:
    """A closing report carries nothing that is kept but its metrics."""
