"""Whether a teacher's classes fit the site's labels, from outputs that are here.

Labels that are one off, or names that `task.classes` pairs wrongly, fail no other
check, and then the KL pulls against every label. What is found stays at this site.
"""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from moma_client.student.factory import SiteTeacher
from moma_client.student.teacher_weights import cached_outputs
from moma_core.data.patch import PatchSource
from moma_core.data.view_mask import ViewMask
from moma_core.evaluation.grouping import grouping_of
from moma_core.evaluation.label_agreement import (
    Cycle,
    LabelAgreement,
    compare_with_labels,
)
from moma_core.evaluation.statistics import Integers
from moma_core.runtime.finding import Finding

_MOST_NAMED = 12


def look_at_cached_labels(
    teacher: SiteTeacher, views: ViewMask | None, source: PatchSource
) -> Iterator[Finding]:
    """Yields whether outputs in the teacher's cache agree with the labels.

    Nothing where the teacher has other classes, discloses no logits, or nothing is
    cached.

    Args:
        teacher: One whose outputs are cached.
        views: What is cached; None: nothing is.
        source: Patches of the site.

    Raises:
        DataError: Patches cannot be read.
        ConfigError: The cache cannot be read.
    """
    order = teacher.scenario.class_order
    if order is None or views is None:
        return
    rows, output = cached_outputs(teacher, views, source)
    if len(rows):
        logits = output.logits[:, order]
        yield from look_at_labels(teacher.card.name, logits, rows, source)


def look_at_labels(
    teacher: str, logits: Tensor, rows: Integers, source: PatchSource
) -> Iterator[Finding]:
    """Yields whether a teacher agrees with the labels; nothing of too few patches.

    Args:
        teacher: Name of the teacher.
        logits: (N, C) in the order of the site's classes.
        rows: (N,) of the source, labelled.
        source: Patches of the site.
    """
    said = logits.argmax(dim=1).numpy()
    labels = source.index.labels[rows].astype(np.int64)
    found = compare_with_labels(said, labels, grouping_of(source.index, rows))
    if found is not None:
        yield _finding(teacher, found, source.class_names)


def _finding(teacher: str, found: LabelAgreement, names: tuple[str, ...]) -> Finding:
    low, high = found.interval
    text = (
        f"teacher {teacher} agrees with {found.hits} of {found.patches} labels (95 % "
        f"{100 * low:.0f} to {100 * high:.0f} %)"
    )
    facts: dict[str, object] = {
        "teacher": teacher,
        "patches": found.patches,
        "agreed": found.hits,
        "agreed_if_exchanged": found.exchanged_hits,
    }
    if found.cycles:
        exchanges = "; ".join(_exchange(each, names) for each in found.cycles)
        text += (
            f"; with {exchanges} it would with {found.exchanged_hits}: compare "
            f"task.classes, data.class_names and the labels, for the KL to the "
            f"teacher's class probabilities pulls against them"
        )
        return Finding("labels", "warning", text, facts=facts)
    if not found.is_above_chance:
        text += (
            ", which is not shown to be more than chance: it knows little of these "
            "patches, or task.classes, the labels or the colours of the pictures are "
            "not as it knows them"
        )
        return Finding("labels", "warning", text, facts=facts)
    return Finding("labels", "ok", text, facts=facts)


def _exchange(cycle: Cycle, names: tuple[str, ...]) -> str:
    if len(cycle) == 2:
        return f"{names[cycle[0]]!r} and {names[cycle[1]]!r} exchanged"
    pairs = [
        f"{names[label]!r} taken for {names[cycle[(place + 1) % len(cycle)]]!r}"
        for place, label in enumerate(cycle)
    ]
    rest = len(pairs) - _MOST_NAMED
    return ", ".join(pairs[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
