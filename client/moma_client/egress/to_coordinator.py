"""What leaves a site for its coordinator: reports, and refusals in fixed sentences.

A report holds the newest signed state of a teacher's log that the site was shown, for
other sites to compare: name, size, root and time of the log, and nothing of the site.
Of several teachers each has its turn.
"""

import logging
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from moma_client.audit.log_monitor import newest_seen
from moma_client.audit.receipts import receipts_path
from moma_client.config.site import SiteConfig
from moma_client.config.teacher import RemoteTeacherSection
from moma_client.egress.disclosed import (
    DisclosedCohort,
    DisclosureFile,
    DisclosureState,
    added,
    disclosure_path,
)
from moma_client.egress.log import EgressLog, log_path
from moma_client.egress.masked_update import MaskedWeights
from moma_client.egress.outcome import StudentOutcome
from moma_client.metrics import ClientMetrics
from moma_core.audit.checkpoint import Checkpoint
from moma_core.distillation.methods.names import Method
from moma_core.errors import DiskError, FederationError
from moma_core.federation.disclosure import (
    Cohort,
    CoordinatorHistory,
    RoundBounds,
    RoundRefusal,
    figure_name,
    figure_rule,
    round_refusal,
    rounded_patch_count,
)
from moma_core.federation.messages import report_header
from moma_core.federation.task import RoundReport, RoundTask

MOST_KEYS: Final = 1000
"""Tries of sums in a run, of all its rounds."""

_logger = logging.getLogger(__name__)


class ReportSender(Protocol):
    """Carries reports to the coordinator."""

    def report(self, task: RoundTask, report: RoundReport) -> None:
        """Sends the report on a task."""
        ...

    def fail(self, task: RoundTask) -> None:
        """Reports that a task was not done."""
        ...


class Measured(NamedTuple):
    """A figure that has passed nothing yet."""

    value: float
    cohort: Cohort | None


class CoordinatorEgress:
    """The one way out for all that a coordinator receives; used by one thread.

    Args:
        config: Settings of this site.
        metrics: Counts what leaves and what is suppressed.

    Raises:
        ConfigError: What was disclosed so far cannot be read.
        CertificateError: Weights may leave masked, and the signing key cannot be read.
    """

    def __init__(self, config: SiteConfig, metrics: ClientMetrics) -> None:
        self._policy = config.egress.figure_policy()
        self._most_patches = config.egress.max_patches_told
        self._bounds = round_bounds(config)
        self._masked = MaskedWeights.of(config)
        self._runs = config.state_dir / "runs"
        self._receipts = [
            receipts_path(config.state_dir, each.teacher.name)
            for each in config.each_teacher
            if isinstance(each.teacher, RemoteTeacherSection)
        ]
        self._metrics = metrics
        self._log = EgressLog(log_path(config.state_dir))
        self._file = DisclosureFile(disclosure_path(config.state_dir))
        self._disclosed = self._file.read()
        for rule, count in self._disclosed.blocked.items():
            metrics.egress_blocked.labels(rule=rule).inc(count)

    def refusal(self, task: RoundTask) -> RoundRefusal | None:
        """Returns why the site's policy refuses a round, if it does."""
        runs = frozenset(path.name for path in self._runs.glob("*/"))
        evaluations = self._disclosed.evaluations.get(task.run, 0)
        history = CoordinatorHistory(runs, evaluations)
        return round_refusal(task, self._bounds, history)

    def refuse(
        self, node: ReportSender, task: RoundTask, refusal: RoundRefusal
    ) -> None:
        """Reports that the site refuses a task."""
        if refusal.rule != "failure":
            self._block(refusal.rule, f"round {task.key}")
            self._file.write(self._disclosed)
        self._send(node, task, RoundReport(refusal=refusal.sentence), [])

    def fail(self, node: ReportSender, task: RoundTask) -> None:
        """Reports that the site could not do a task this time; nothing says why.

        It says nothing of the site, so it leaves where the disk takes no record of it.
        """
        try:
            self._log.add("coordinator", "refused", f"failure of {task.key}")
        except DiskError as error:
            _logger.error("%s", error)
        node.fail(task)

    def report(
        self,
        node: ReportSender,
        task: RoundTask,
        outcomes: Mapping[Method, StudentOutcome],
    ) -> dict[str, float]:
        """Reports what may leave of the students' rounds.

        Args:
            node: Carries the report.
            task: The task that the report is on.
            outcomes: What each student's round gave, by method, `moma` among them.

        Returns:
            The figures that were disclosed.

        Raises:
            AuditError: What was seen of the teacher's log cannot be read.
        """
        measured = measured_figures(outcomes)
        disclosed = self._figures(measured)
        _log_suppressed(measured, disclosed)
        _log_absent(measured, self._policy.allowed)
        evaluations = added(self._disclosed.evaluations, task.run)
        state = _with_disclosed(self._disclosed, disclosed, measured)
        self._disclosed = state.model_copy(update={"evaluations": evaluations})
        self._file.write(self._disclosed)  # before anything leaves
        student = outcomes["moma"]
        if self._masked is not None:
            self._masked.keep(task, student)
        wants_weights = task.mode == "fedavg" and self._bounds.weights_may_leave
        report = RoundReport(
            patches=rounded_patch_count(student.patches, self._most_patches),
            metrics=disclosed,
            weights=student.weights if wants_weights else None,
            model=student.model,
            checkpoint=self._checkpoint(task),
        )
        self._send(node, task, report, sorted(disclosed))
        return disclosed

    def settles(self, node: ReportSender, task: RoundTask) -> bool:
        """Answers a task that is refused, or that needs no training; False: it does."""
        refusal = self.refusal(task)
        if refusal is not None:
            why = refusal.own_sentence
            _logger.warning("round %d is refused: %s", task.round, why)
            self.refuse(node, task, refusal)
        elif task.kind in ("keys", "update") and self._masked is not None:
            self._join_sum(node, task, self._masked)
        else:
            return False
        return True

    def _join_sum(
        self, node: ReportSender, task: RoundTask, masked_weights: MaskedWeights
    ) -> None:
        """Reports this site's key of a try, or its masked update, or a refusal."""
        try:
            if task.kind == "keys":
                report = RoundReport(round_key=masked_weights.new_key(task))
                self._count_key(task.run)
            else:
                weights, group = masked_weights.update(task, self._disclosed)
                self._disclosed = self._disclosed.with_masked(task.run, group)
                self._file.write(self._disclosed)  # before anything leaves
                report = RoundReport(weights=weights)
        except FederationError as error:
            _logger.warning("round %d, %s: %s", task.round, task.kind, error)
            self.refuse(node, task, RoundRefusal("group", str(error)))
        else:
            self._send(node, task, report, [])

    def _count_key(self, run: str) -> None:
        """Ends tries without an end: their lines would roll away those before them."""
        keys = added(self._disclosed.keys, run)
        if keys[run] > MOST_KEYS:
            raise FederationError(f"more than {MOST_KEYS} tries of a sum a run")
        self._disclosed = self._disclosed.model_copy(update={"keys": keys})
        self._file.write(self._disclosed)

    def _checkpoint(self, task: RoundTask) -> Checkpoint | None:
        if not self._receipts:
            return None
        turn = task.round + (task.kind == "close")
        return newest_seen(self._receipts[turn % len(self._receipts)])

    def _figures(self, measured: Mapping[str, Measured]) -> dict[str, float]:
        disclosed: dict[str, float] = {}
        cohorts = {
            split: known.digest for split, known in self._disclosed.cohorts.items()
        }
        for key, (value, cohort) in measured.items():
            name = figure_name(key)
            before = None if name is None else cohorts.get(name.split)
            rule = figure_rule(key, value, cohort, before, self._policy)
            if rule is not None:
                self._block(rule, key, counted=cohort.counted if cohort else "")
            elif name is not None and cohort is not None:
                cohorts[name.split] = cohort.digest  # also for the rest of this report
                disclosed[key] = round(value, self._policy.decimals)
        return disclosed

    def _block(self, rule: str, item: str, **details: object) -> None:
        blocked = added(self._disclosed.blocked, rule)
        self._disclosed = self._disclosed.model_copy(update={"blocked": blocked})
        self._metrics.egress_blocked.labels(rule=rule).inc()
        self._log.add("coordinator", "blocked", item, rule=rule, **details)

    def _send(
        self,
        node: ReportSender,
        task: RoundTask,
        report: RoundReport,
        figures: list[str],
    ) -> None:
        weights = report.weights or {}
        size = len(report_header(report)) + sum(w.nbytes for w in weights.values())
        self._log.add(
            "coordinator",
            "refused" if report.refusal else "sent",
            f"report on {task.key}",
            bytes=size,
            figures=figures,
            patches=report.patches,
            weights=report.weights is not None,
            masked=task.kind == "update",
            checkpoint=_state(report.checkpoint),
            refusal=report.refusal,
        )
        self._metrics.egress_bytes.labels(channel="coordinator").inc(size)
        node.report(task, report)


def _state(checkpoint: Checkpoint | None) -> str | None:
    if checkpoint is None:
        return None
    return f"{checkpoint.origin} at {checkpoint.size} entries"


def _log_suppressed(
    measured: Mapping[str, Measured], disclosed: Mapping[str, float]
) -> None:
    counted = {
        f"{name.split}: {cohort.counted}"
        for key, (_, cohort) in measured.items()
        if cohort is not None and (name := figure_name(key)) is not None
    }
    _logger.info("measured on %s", "; ".join(sorted(counted)) or "nobody")
    if count := len(measured) - len(disclosed):
        _logger.info("%d figures stay here, `moma-client egress --log` says why", count)


def _log_absent(measured: Mapping[str, Measured], allowed: frozenset[str]) -> None:
    """Says which figures may leave and were not measured, on splits that were."""
    splits = {key.split for name in measured if (key := figure_name(name)) is not None}
    absent = [
        key
        for key in sorted(allowed - measured.keys())
        if (name := figure_name(key)) is not None and name.split in splits
    ]
    if absent:
        _logger.info("egress.metrics names what has no value: %s", ", ".join(absent))


def round_bounds(config: SiteConfig) -> RoundBounds:
    """Returns what the site lets its coordinator request."""
    section = config.coordinator
    masked = section.masked_weights
    return RoundBounds(
        epochs_per_round=section.max_epochs_per_round,
        epochs_per_run=section.max_epochs_per_run,
        rounds_per_run=section.max_rounds_per_run,
        runs=section.max_runs,
        evaluations_per_run=section.max_evaluations_per_run,
        weights_may_leave=section.weights_may_leave,
        max_update_norm=None if masked is None else masked.max_update_norm,
    )


def measured_figures(
    outcomes: Mapping[Method, StudentOutcome],
) -> dict[str, Measured]:
    """Returns all figures by key; a baseline's key begins with its name."""
    return {
        name if method == "moma" else f"{method}_{name}": Measured(
            value, outcome.cohorts.get(name.partition("_")[0])
        )
        for method, outcome in outcomes.items()
        for name, value in outcome.figures.items()
    }


def _with_disclosed(
    disclosed: DisclosureState,
    figures: Mapping[str, float],
    measured: Mapping[str, Measured],
) -> DisclosureState:
    """Adds figures, and the people on whom they were measured."""
    cohorts = dict(disclosed.cohorts)
    for key, value in figures.items():
        name, cohort = figure_name(key), measured[key].cohort
        if name is None or cohort is None:
            raise ValueError(f"{key} was measured on nobody")
        before = cohorts.get(name.split)
        values = {**(before.values if before else {}), key: value}
        cohorts[name.split] = DisclosedCohort(
            digest=cohort.digest, counted=cohort.counted, values=values
        )
    return disclosed.model_copy(update={"cohorts": cohorts})
