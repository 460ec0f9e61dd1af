"""The charts of a student's report."""

from collections.abc import Iterator, Mapping, Sequence
from math import nan

import numpy as np
from numpy.typing import NDArray

from moma_client.reports.student_report.embeddings import EmbeddingMap, split_masks
from moma_client.reports.student_report.history import (
    LossCurves,
    RoundFigure,
    outputs_of_first_round_alone,
)
from moma_client.reports.student_report.trust import confusion_counts
from moma_client.student.evaluate import StudentEvaluation
from moma_core.evaluation.calibration import ReliabilityBin, reliability
from moma_core.evaluation.metrics import SplitOutputs
from moma_core.report_page.charts import (
    Chart,
    Interval,
    Line,
    interval_chart,
    line_chart,
    matrix_chart,
    reliability_chart,
    scatter_chart,
)

COMPARED = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
_TERMS = {
    "classification": "Cross-entropy on the labels",
    "contrastive": "Contrast with the teacher's embeddings",
    "distillation": "KL with the teacher's classes",
    "total": "The whole loss",
}
_LOWER_IS_BETTER = "Of single steps, before its weight; the lower, the better learned."
_TEXTS = {
    "contrastive": "Of single steps, before its weight. It may rise while the student "
    "learns: it is told from the outputs in the memory bank, which fills and changes.",
    "total": "Of single steps: the terms times their weights.",
}
_MOST_POINTS = 300  # of a line


def confusion_chart(method: str, split: str, outputs: SplitOutputs) -> Chart:
    """Returns the confusion matrix of a student on a split."""
    order = "of the grades" if outputs.is_ordered else "that the data give"
    return Chart(
        f"confusion-{method}-{split}",
        f"{method} on the {split} patches",
        f"Each row is a class as labelled, in the order {order}: above the share of "
        f"the row, below the number of patches. On the diagonal the student is right.",
        matrix_chart(confusion_counts(outputs), outputs.class_names),
    )


def calibration_chart(
    method: str, split: str, outputs: SplitOutputs, temperature: float | None
) -> Chart | None:
    """Returns the reliability diagram, before and after scaling; None: no patch."""
    bins = {"as trained": reliability(outputs)}
    if temperature is not None:
        scaled = outputs.softened(temperature)
        bins[f"with temperature {temperature:.2f}"] = reliability(scaled)
    if not any(bins.values()):
        return None
    return Chart(
        f"reliability-{method}-{split}",
        f"How sure {method} is, {split} patches",
        "On the line the student is right as often as it says. Below it, it is too "
        "sure. Larger marks stand for more patches.",
        reliability_chart({name: _columns(found) for name, found in bins.items()}),
    )


def comparison_chart(
    students: Mapping[str, StudentEvaluation], split: str
) -> Chart | None:
    """Returns the students beside each other; None: there is no figure of any."""
    panels = {}
    for key, title in COMPARED.items():
        rows = []
        for method, student in students.items():
            figure = student.splits[split].figures[key]
            if figure.value is not None:
                low, high = figure.interval or (None, None)
                rows.append(Interval(method, figure.value, low, high))
        if rows:
            panels[title] = rows
    if not panels:
        return None
    return Chart(
        f"students-{split}",
        f"The students on the {split} patches",
        "Dots are figures, lines their 95 % intervals.",
        interval_chart(panels),
    )


def loss_charts(curves: Mapping[str, LossCurves]) -> list[Chart]:
    """Returns a chart for each loss term that any student had."""
    charts = []
    for term, title in _TERMS.items():
        lines = [
            _curve(method, found[term])
            for method, found in curves.items()
            if term in found
        ]
        if lines:
            charts.append(
                Chart(
                    f"loss-{term}",
                    title,
                    _TEXTS.get(term, _LOWER_IS_BETTER),
                    line_chart(lines, across="optimiser steps", up="loss"),
                )
            )
    return charts


def rounds_chart(figures: Mapping[str, Sequence[RoundFigure]]) -> Chart | None:
    """Returns macro-F1 over the rounds; None: no round left a figure."""
    lines = [
        _line(method, [each.round for each in found], found)
        for method, found in figures.items()
        if found
    ]
    if not lines:
        return None
    return Chart(
        "rounds",
        "Macro-F1 over the rounds",
        "On the validation patches after each round; the bands are 95 % intervals.",
        line_chart(lines, across="round", up="macro-F1", is_share=True),
    )


def queries_chart(
    figures: Mapping[str, Sequence[RoundFigure]], asking: Sequence[str]
) -> Chart | None:
    """Returns accuracy against outputs asked of the teacher.

    None: it is not known, or the first round asked all, which is a vertical line.

    Args:
        figures: Accuracy after each round, by method.
        asking: Methods that ask a teacher; the best of the others is a level.
    """
    if outputs_of_first_round_alone(figures, asking) is not None:
        return None
    lines, most = [], 0
    for method in asking:
        known = [each for each in figures.get(method, ()) if each.asked is not None]
        if known:
            asked = [each.asked or 0 for each in known]
            lines.append(_line(method, asked, known))
            most = max(most, *asked)
    if not lines:
        return None
    for method, found in figures.items():
        if method not in asking and found:
            level = found[-1].value
            name = f"{method}, asks nothing"
            lines.append(Line(name, [0, most], [level, level]))
    return Chart(
        "accuracy-against-outputs",
        "Accuracy against what was asked",
        "On the validation patches, against all outputs that this site had asked of "
        "the teacher by then, for all students together. With a teacher cache the "
        "first round asks most, and later ones learn from what is kept.",
        line_chart(
            lines, across="outputs asked of the teacher", up="accuracy", is_share=True
        ),
    )


def map_charts(found: EmbeddingMap, class_names: Sequence[str]) -> list[Chart]:
    """Returns the map by class, and by where the patches come from."""
    first, second = (f"{100 * share:.0f} % of the variance" for share in found.shares)
    axes = {"across": f"first direction, {first}", "up": f"second, {second}"}
    by_class = {
        name: found.labels == label
        for label, name in enumerate(class_names)
        if (found.labels == label).any()
    }
    charts = [
        Chart(
            "map-by-class",
            "Embeddings by class",
            f"{len(found.labels)} of {found.of} validation and unseen patches, on the "
            f"two directions in which they differ most. Clouds that lie apart are "
            f"classes that the student tells apart.",
            scatter_chart(found.places, by_class, **axes),
        )
    ]
    return charts + [
        Chart(name, title, text, scatter_chart(found.places, masks, **axes))
        for name, title, text, masks in _origins(found)
        if len(masks) > 1
    ]


def _origins(
    found: EmbeddingMap,
) -> Iterator[tuple[str, str, str, dict[str, NDArray[np.bool_]]]]:
    """Yields name, title, text and masks of each map by where patches come from."""
    yield (
        "map-by-split",
        "The same, by split",
        "Clouds that lie apart here would say that the student sees where a patch is "
        "from.",
        split_masks(found),
    )
    if found.centres is not None:
        yield (
            "map-by-centre",
            "The same, by centre",
            "The centres that the manifest names, without their names. Clouds that lie "
            "apart would say that the student sees the scanner or the stain.",
            _numbered(found.centres),
        )
    yield (
        "map-by-slide",
        f"The same, by {found.slides_are}",
        f"The {found.slides_are} with most patches, without their names.",
        _numbered(found.slides),
    )


def _numbered(codes: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Returns which patches are of which slide, by a number in place of its name."""
    masks = {
        f"no. {number}": codes == code
        for number, code in enumerate(np.unique(codes[codes >= 0]), start=1)
    }
    if len(masks) > 1 and (codes < 0).any():
        masks["all others"] = codes < 0
    return masks


def _columns(
    bins: Sequence[ReliabilityBin],
) -> tuple[list[float], list[float], list[int]]:
    return (
        [each.confidence for each in bins],
        [each.accuracy for each in bins],
        [each.patches for each in bins],
    )


def _curve(name: str, points: Sequence[tuple[int, float]]) -> Line:
    """Returns a curve, thinned to the means of neighbours where it is long."""
    steps, values = np.array(points, float).T
    if len(steps) > _MOST_POINTS:
        parts = np.array_split(np.arange(len(steps)), _MOST_POINTS)
        steps = np.array([steps[part].mean() for part in parts])
        values = np.array([values[part].mean() for part in parts])
    return Line(name, steps.tolist(), values.tolist())


def _line(name: str, x: Sequence[float], figures: Sequence[RoundFigure]) -> Line:
    return Line(
        name,
        x,
        [each.value for each in figures],
        [nan if each.low is None else each.low for each in figures],
        [nan if each.high is None else each.high for each in figures],
    )
