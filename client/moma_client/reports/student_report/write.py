"""Writes a student's report: one HTML page, its numbers as JSON, charts as PNG."""

import platform
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moma_client.config.site import SiteConfig
from moma_client.reports.student_report import charts, conclusions, sentences
from moma_client.reports.student_report.facts import (
    ReportFacts,
    ReportOptions,
    gather_facts,
)
from moma_client.reports.student_report.history import outputs_of_first_round_alone
from moma_client.reports.student_report.trust import WORDS
from moma_core.data.patch import SPLITS, UNSEEN, VALIDATION
from moma_core.evaluation.figures import RECALL, class_keys, of_groups
from moma_core.report_page.charts import Chart
from moma_core.report_page.page import named_run, render_page, write_report
from moma_core.runtime.files import make_empty_folder
from moma_core.teacher.card.licence import terms_digest

_TEMPLATE = Path(__file__).with_name("report.html")
_TOOLS = ("moma-service", "torch", "timm", "numpy", "matplotlib")
_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "kappa_quadratic": "kappa, quadratic weights",
    "kappa_unweighted": "kappa, no weights",
    "auroc": "AUROC",
    "ece": "ECE",
}


def write_student_report(
    config: SiteConfig, out: Path, options: ReportOptions, *, now: datetime
) -> list[Path]:
    """Returns the files that it wrote.

    Args:
        config: Settings of this site.
        out: Folder to write to; it must be empty.
        options: What the report is to say.
        now: Date that it bears.

    Raises:
        ConfigError: There is no such run or student, its classes differ, or the
            folder holds something.
        DataError: Patches cannot be read.
    """
    make_empty_folder(out)  # to say so before minutes of work
    facts = gather_facts(config, options)
    groups = _charts(facts)
    page = render_page(_TEMPLATE, {**_values(facts), "charts": groups, "now": now})
    drawn = [chart for group in groups.values() for chart in group]
    return write_report(out, page, drawn, numbers(facts))


def numbers(facts: ReportFacts) -> dict[str, Any]:
    """Returns the report for a script; `students` is what `evaluate --json` prints.

    But for the places of the weights: no path of this machine stands in a report.
    """
    return {
        "site": facts.config.site,
        "run": facts.run.folder.name,
        "subject": facts.subject,
        "split": facts.split,
        "threshold": facts.options.least,
        "students": {
            method: {
                **each.values(),
                "details": {k: v for k, v in each.details().items() if k != "weights"},
            }
            for method, each in facts.students.items()
        },
        "trust": {each.name: each.state for each in facts.trust},
        "temperature": {
            method: each.temperature.value
            for method, each in facts.calibrations.items()
        },
        "ece_with_temperature": {
            method: {split: figure.value for split, figure in each.after.items()}
            for method, each in facts.calibrations.items()
        },
        "differences": {
            method: {name: each._asdict() for name, each in found.items()}
            for method, found in facts.differences.items()
        },
        "leak": _leaks(facts),
        "readers": _readers(facts),
    }


def _leaks(facts: ReportFacts) -> dict[str, Any]:
    if facts.map is None:
        return {}
    slide, centre = facts.map.leak_of_slide, facts.map.leak_of_centre
    return {
        "split": facts.map.leak_of_split._asdict(),
        **({"centre": centre._asdict()} if centre else {}),
        facts.map.slides_are or "slides": slide and slide._asdict(),
    }


def _readers(facts: ReportFacts) -> dict[str, Any] | None:
    found = facts.readers
    if found is None:
        return None
    return {
        "figure": found.name,
        "patches": found.patches,
        f"reader_{found.reader}": found.own.as_json(),
        f"reader_{3 - found.reader}": found.other.as_json(),
        "between": found.between.as_json(),
    }


def _charts(facts: ReportFacts) -> dict[str, list[Chart]]:
    """Returns the charts by the section that they stand in."""
    subject, splits = facts.student, [UNSEEN, VALIDATION]
    there = [split for split in splits if subject.splits[split].patches]
    temperature = facts.calibrations[facts.subject].temperature.value
    compared = [charts.comparison_chart(facts.students, split) for split in there]
    groups: dict[str, list[Chart | None]] = {
        "confusion": [
            charts.confusion_chart(facts.subject, split, subject.outputs[split])
            for split in there
        ],
        "calibration": [
            charts.calibration_chart(
                facts.subject, split, subject.outputs[split], temperature
            )
            for split in there
        ],
        "students": [
            *(compared if len(facts.students) > 1 else []),
            *(
                charts.confusion_chart(method, facts.split, each.outputs[facts.split])
                for method, each in facts.students.items()
                if method != facts.subject and each.splits[facts.split].patches
            ),
        ],
        "losses": [*charts.loss_charts(facts.curves)],
        "rounds": [
            charts.rounds_chart(facts.rounds["macro_f1"]),
            charts.queries_chart(facts.rounds["accuracy"], _asking(facts)),
        ],
        "map": []
        if facts.map is None
        else [*charts.map_charts(facts.map, subject.card.class_names)],
    }
    return {
        name: [chart for chart in found if chart is not None]
        for name, found in groups.items()
    }


def _asking(facts: ReportFacts) -> list[str]:
    return [name for name, each in facts.students.items() if each.card.teacher]


def _values(facts: ReportFacts) -> dict[str, Any]:
    """Returns what the template names."""
    card = facts.student.card
    return {
        "facts": facts,
        "card": card,
        "words": WORDS,
        "of_groups": of_groups,
        "figure_names": {
            key: name for key, name in _NAMES.items() if key in facts.measured.figures
        },
        "classes": dict(
            zip(
                card.class_names,
                (f"{RECALL}{key}" for key in class_keys(card.class_names)),
                strict=True,
            )
        ),
        "splits": [
            split
            for split in (UNSEEN, VALIDATION)
            if facts.student.splits[split].patches
        ],
        **_sentences(facts),
        "run": named_run(facts.run.name or facts.run.folder.name),
        "outputs_of_first_round_alone": outputs_of_first_round_alone(
            facts.rounds["accuracy"], _asking(facts)
        ),
        "provenance": _provenance(facts),
        "census": _census(facts),
        "versions": {
            "Python": platform.python_version(),
            **{name: version(name) for name in _TOOLS},
        },
    }


def _sentences(facts: ReportFacts) -> dict[str, Any]:
    """Returns what the template says in words."""
    return {
        "trained": list(sentences.trained(facts)),
        "in_short": list(conclusions.in_short(facts)),
        "cautions": list(sentences.cautions(facts)),
        "rule": sentences.rule(facts),
        "splits_differ": sentences.splits_differ(facts.measured.counted),
        "interval_means": sentences.interval_means(facts.measured.counted),
        "leaks": _leak_sentences(facts),
    }


def _leak_sentences(facts: ReportFacts) -> list[str]:
    found = facts.map
    if found is None:
        return ["There are too few patches for a map."]
    said = [sentences.origin(found.leak_of_split)]
    if found.leak_of_centre is not None:
        said.append(sentences.origin(found.leak_of_centre, sentences.BY_CENTRE))
    if found.leak_of_slide is not None:
        said.append(sentences.slide(found.leak_of_slide, found.slides_are))
    return said


def _census(facts: ReportFacts) -> Mapping[str, list[str]]:
    """Returns patches, patients and slides of each class, a cell a split."""
    census = facts.census
    rows = {
        name: [str(census.count(split, label)) for split in SPLITS]
        for label, name in enumerate(census.class_names)
    }
    return {**rows, "all": [str(census.count(split, None)) for split in SPLITS]}


def _provenance(facts: ReportFacts) -> dict[str, str]:
    config, card = facts.config, facts.student.card
    rows = {
        "federation": config.federation,
        "site": config.site,
        "run": facts.run.folder.name,
        "rounds that this site reported on": str(facts.run.rounds),
        "state of the run": "finished" if facts.run.is_over else "not finished",
        "student": f"{card.method}, {card.architecture}, {card.view_size_px} px",
        "microns a pixel": "not known"
        if card.resolution_mpp is None
        else f"{card.resolution_mpp:g}",
        "stain normalisation": "none"
        if card.stain_normalisation is None
        else card.stain_normalisation.method,
        "optimiser steps": str(card.steps),
        "which student was kept": f"{card.kept} {card.kept_by}".strip(),
        "steps that were left out": str(card.skipped_steps),
        "weights (SHA-256)": card.digest,
    }
    if card.teacher:
        rows |= {
            "teacher": card.teacher,
            "teacher's weights (SHA-256)": card.teacher_digest,
            "scenario": card.scenario,
        }
    for each in card.teachers:
        rows[f"weight of {each.name} in the last round"] = f"{each.weight:.3f}"
    for section in (each.teacher for each in config.each_teacher if card.teacher):
        if section.is_remote:
            rows[f"key of {section.name}"] = section.key or "none was pinned"
    rows |= _queried(facts)
    if card.teacher_licence is not None:
        digest = terms_digest(card.teacher, card.teacher_licence)
        rows["digest of the teacher's terms"] = digest
    return rows


def _queried(facts: ReportFacts) -> dict[str, str]:
    """Returns what was asked of each teacher, and charged by it."""
    rows = {}
    for name, queries in facts.queries.items():
        charged = "not known" if queries.charged is None else str(queries.charged)
        rows[f"outputs asked of {name} in this run"] = str(queries.asked)
        # before a run a site asks a patch that the teacher's card has the answer to
        rows[f"patches charged by {name}, in all runs and for its reference patch"] = (
            charged
        )
    return rows
