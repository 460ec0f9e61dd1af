"""All that a student's report says, gathered once: measured, read, and compared."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moma_client.config.site import SiteConfig
from moma_client.reports.student_report.embeddings import EmbeddingMap, embedding_map
from moma_client.reports.student_report.hardest import HardPatch, hardest_patches
from moma_client.reports.student_report.history import (
    LossCurves,
    RoundFigure,
    loss_curves,
    round_figures,
)
from moma_client.reports.student_report.readers import ReaderKappa, reader_kappa
from moma_client.reports.student_report.trust import ClassTrust, trust_by_class
from moma_client.student.evaluate import StudentEvaluation, evaluate_students
from moma_client.student.runs import RunFolder, find_run, list_runs
from moma_client.teacher.usage import Queries, read_all_queries
from moma_core.data.checks.census import Census
from moma_core.data.patch import UNSEEN, VALIDATION
from moma_core.data.sources.factory import open_source
from moma_core.evaluation.calibration import Temperature, fit_temperature
from moma_core.evaluation.comparison import Difference, paired_difference
from moma_core.evaluation.figures import Evaluation, Figure

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report is to say.

    Args:
        run: Name of the run, or of its folder; None for the newest.
        with_patches: Whether it shows patches, with their names.
        least: Share above which a class may be relied on, in (0, 1).
    """

    run: str | None = None
    with_patches: bool = False
    least: float = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """How sure a student is, and what a temperature makes of it.

    Args:
        temperature: That of the card, or one that was fitted now.
        is_on_card: Whether `predict` uses it.
        before: The figure `ece` by split, as trained.
        after: The same with the temperature; empty where there is none.
    """

    temperature: Temperature
    is_on_card: bool
    before: Mapping[str, Figure]
    after: Mapping[str, Figure]


@dataclass(frozen=True, slots=True, eq=False)
class ReportFacts:
    """What the report says.

    Args:
        config: Settings of this site.
        options: What was wanted.
        run: The run.
        students: By method, MoMA's first.
        subject: Method of the student that the report is about.
        split: On which it is judged: unseen, or validation where nothing is unseen.
        trust: What may be thought of the subject's word, by class.
        calibrations: By method.
        differences: Of the subject to each other student, by method and figure.
        map: Its embeddings; None: there are too few.
        readers: Kappa against two readers; None: there are no two.
        curves: Losses by method.
        rounds: By figure, then by method, the figures on validation over the rounds.
        queries: What the run has asked each teacher, by its name, as far as known.
        census: How many patches there are.
        hardest: Patches that are wrong; None: they are not shown.
    """

    config: SiteConfig
    options: ReportOptions
    run: RunFolder
    students: Mapping[str, StudentEvaluation]
    subject: str
    split: str
    trust: tuple[ClassTrust, ...]
    calibrations: Mapping[str, Calibration]
    differences: Mapping[str, Mapping[str, Difference]]
    map: EmbeddingMap | None
    readers: ReaderKappa | None
    curves: Mapping[str, LossCurves]
    rounds: Mapping[str, Mapping[str, list[RoundFigure]]]
    queries: Mapping[str, Queries]
    census: Census
    hardest: list[HardPatch] | None

    @property
    def student(self) -> StudentEvaluation:
        """The student that the report is about."""
        return self.students[self.subject]

    @property
    def measured(self) -> Evaluation:
        """Its figures on the split by which it is judged."""
        return self.student.splits[self.split]

    def majority(self) -> float:
        """Returns how often it would be right to say the most frequent class."""
        counts = np.bincount(self.student.outputs[self.split].labels.numpy())
        return float(counts.max() / counts.sum()) if len(counts) else 0.0


def gather_facts(config: SiteConfig, options: ReportOptions) -> ReportFacts:
    """Returns what a report says; measures every student of the run anew.

    Raises:
        ConfigError: There is no such run or student, or its classes differ.
        DataError: Patches cannot be read.
    """
    folder = find_run(config, options.run)
    students = evaluate_students(config, run=folder.name, method=None, split=None)
    _logger.info("measured: %s", ", ".join(students))
    subject = next(iter(students))
    chosen = students[subject]
    split = UNSEEN if chosen.splits[UNSEEN].patches else VALIDATION
    outputs, source = chosen.outputs[split], open_source(config.data)
    calibrations = {name: _calibration(each) for name, each in students.items()}
    temperature = calibrations[subject].temperature.value
    return ReportFacts(
        config=config,
        options=options,
        run=_run_folder(config, folder),
        students=students,
        subject=subject,
        split=split,
        trust=trust_by_class(outputs, chosen.splits[split], options.least),
        calibrations=calibrations,
        differences=_differences(students, subject, split),
        map=embedding_map(config, chosen, source),
        readers=reader_kappa(config, outputs) if split == UNSEEN else None,
        curves={name: loss_curves(each.folder) for name, each in students.items()},
        rounds={
            name: round_figures(folder, list(students), name, VALIDATION)
            for name in ("accuracy", "macro_f1")
        },
        queries=read_all_queries(config, folder) if chosen.card.teacher else {},
        census=Census(source.class_names, source.index),
        hardest=hardest_patches(config, source, outputs, temperature)
        if options.with_patches
        else None,
    )


def _run_folder(config: SiteConfig, folder: Path) -> RunFolder:
    (found,) = [run for run in list_runs(config) if run.folder == folder]
    return found


def _calibration(student: StudentEvaluation) -> Calibration:
    own = student.card.temperature
    found = (
        fit_temperature(student.outputs[VALIDATION])
        if own is None
        else Temperature(own)
    )
    before = {name: each.figures["ece"] for name, each in student.splits.items()}
    after = {}
    if found.value is not None:
        after = {
            name: each.softened(found.value).measure().figures["ece"]
            for name, each in student.outputs.items()
        }
    return Calibration(found, own is not None, before, after)


def _differences(
    students: Mapping[str, StudentEvaluation], subject: str, split: str
) -> dict[str, dict[str, Difference]]:
    own = students[subject].outputs[split]
    found: dict[str, dict[str, Difference]] = {}
    for method, other in students.items():
        if method == subject:
            continue
        each = {
            "accuracy": paired_difference(own, other.outputs[split], "accuracy"),
            "macro_f1": paired_difference(own, other.outputs[split], "macro_f1"),
        }
        found[method] = {name: it for name, it in each.items() if it is not None}
    return found
