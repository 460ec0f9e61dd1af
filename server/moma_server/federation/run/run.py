"""A run from its first round to its closing task; every step leaves a record."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from moma_core.errors import CheckpointError, UpdateRejectedError
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
from moma_server.federation.run.round import Accept, Clock, Round, RoundRules, Sites
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
        """Tries a round until it has its quorum; False when it never had."""
        return any(
            self._attempt("train", number, attempt)
            for attempt in range(1, self._plan.retries + 2)
        )

    def _attempt(self, kind: Kind, number: int, attempt: int) -> bool:
        if kind == "close" or self._plan.mode == "independent":
            accept = _accept_any if kind == "close" else _accept_figures
            return self._try(kind, number, attempt, accept)
        folder = self._order.weights / "updates"
        with RoundUpdates(folder, start=self._student) as updates:
            return self._try(kind, number, attempt, updates.add, updates)

    def _try(
        self,
        kind: Kind,
        number: int,
        attempt: int,
        accept: Accept,
        updates: RoundUpdates | None = None,
    ) -> bool:
        started_at, start = self._clock.time(), self._clock.monotonic()
        round_ = Round(
            self._task(kind, number),
            sites=self._sites,
            rules=self._rules(kind),
            clock=self._clock,
            accept=accept,
            on_progress=lambda done, asked: self._note(kind, number, done, asked),
        )
        entries = round_.run(self._invited())
        if updates is not None:
            entries = _judged(entries, updates)
        record = RoundRecord(
            kind=kind,
            run=self._order.run,
            round=number,
            attempt=attempt,
            outcome=self._outcome(kind, entries),
            started_at=started_at,
            seconds=self._clock.monotonic() - start,
            sites=entries,
        )
        completed = record.outcome == "completed"
        if completed and updates is not None:
            self._keep(number, self._combined(updates))
        self._write_down(record)
        return completed

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

    def _note(self, kind: Kind, number: int, done: int, asked: int) -> None:
        """Says how far a round is; a run goes on where that cannot be written."""
        progress = RoundProgress(
            run=self._order.run, kind=kind, round=number, done=done, asked=asked
        )
        with suppress(OSError):
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
        )

    def _rules(self, kind: Kind) -> RoundRules:
        plan = self._plan
        return RoundRules(
            deadline_seconds=(
                plan.deadline_seconds if kind == "train" else plan.close_seconds
            ),
            poll_seconds=plan.poll_seconds,
            tries=plan.asks,
            quorum=self._quorum(kind),
            grace_seconds=plan.grace_seconds,
        )

    def _quorum(self, kind: Kind) -> int:
        return self._plan.quorum if kind == "train" else 0

    def _combined(self, updates: RoundUpdates) -> GlobalStudent:
        plan = self._plan
        return updates.combined(plan.aggregation, max_patches=plan.max_patches)

    def _outcome(self, kind: Kind, entries: Mapping[str, SiteEntry]) -> Outcome:
        took_part = sum(entry.state == "took_part" for entry in entries.values())
        return "completed" if took_part >= self._quorum(kind) else "missed_quorum"

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
