"""On which class a student may be trusted, in sentences made of its figures."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.evaluation.figures import (
    RECALL,
    Evaluation,
    Figure,
    class_keys,
    count_of_groups,
    of_groups,
)
from moma_core.evaluation.metrics import SplitOutputs
from moma_core.evaluation.statistics import FEWEST_GROUPS
from moma_core.report_page.page import percent

State = Literal["relied", "not", "undecided", "untested"]

WORDS: dict[State, str] = {
    "relied": "may be relied on",
    "undecided": "cannot be said",
    "not": "not to be relied on",
    "untested": "was not tested",
}
FEWEST_PATCHES = 20

_CONCLUSIONS: dict[State, str] = {
    "relied": "{name} may be relied on",
    "undecided": "Whether {name} may be relied on cannot be said",
    "not": "{name} is not to be relied on",
    "untested": "{name} was not tested",
}


class Confusion(NamedTuple):
    """What a class is most often taken for.

    Args:
        name: The other class.
        patches: How many of the class's patches were called that.
    """

    name: str
    patches: int


class ClassTrust(NamedTuple):
    """What may be thought of a student's word on one class.

    Args:
        name: Of the class.
        state: The conclusion.
        recall: Share of its patches that the student finds; None: it has no patch.
        precision: Share of what it calls so that is so; None: it calls nothing so.
        f1: Of both; None: neither is there.
        confused_with: What missed patches are most often taken for; None: none missed.
        sentence: The conclusion and where it comes from.
    """

    name: str
    state: State
    recall: Figure | None
    precision: Figure | None
    f1: float | None
    confused_with: Confusion | None
    sentence: str


def confusion_counts(outputs: SplitOutputs) -> NDArray[np.int64]:
    """Returns (C, C) numbers of patches, truth by prediction."""
    classes = len(outputs.class_names)
    counts = np.zeros((classes, classes), np.int64)
    if len(outputs.labels):
        said = outputs.logits.argmax(dim=1).numpy()
        np.add.at(counts, (outputs.labels.numpy(), said), 1)
    return counts


def trust_by_class(
    outputs: SplitOutputs, measured: Evaluation, least: float
) -> tuple[ClassTrust, ...]:
    """Returns what may be thought of each class, in the classes' order.

    Args:
        outputs: Of patches of patients who are not in training.
        measured: The figures on them.
        least: Share that recall and precision must reach with all of their interval.
    """
    counts = confusion_counts(outputs)
    keys = class_keys(outputs.class_names)
    return tuple(
        _class_trust(
            name,
            measured.figures.get(f"{RECALL}{key}"),
            measured.precision.get(key),
            _confusion(counts[label], label, outputs.class_names),
            _Rule(least, measured.counted),
        )
        for label, (name, key) in enumerate(zip(outputs.class_names, keys, strict=True))
    )


class _Rule(NamedTuple):
    least: float
    counted: str


def _confusion(
    said: NDArray[np.int64], label: int, names: Sequence[str]
) -> Confusion | None:
    others = said.copy()
    others[label] = 0
    most = int(others.argmax())
    return Confusion(names[most], int(others[most])) if others[most] else None


def _class_trust(
    name: str,
    recall: Figure | None,
    precision: Figure | None,
    confusion: Confusion | None,
    rule: _Rule,
) -> ClassTrust:
    state, why = _state(recall, precision, rule)
    parts = [f"{_CONCLUSIONS[state].replace('{name}', name)}: {why}."]
    if recall is not None and recall.value is not None:
        parts.append(_found(name, recall, rule.counted))
        parts.append(_right(name, precision))
        if confusion is not None:
            missed = recall.patches - round(recall.value * recall.patches)
            parts.append(
                f"Of the {missed} that it misses it calls {confusion.patches} "
                f"{confusion.name}."
            )
    f1 = _f1(recall, precision)
    return ClassTrust(name, state, recall, precision, f1, confusion, " ".join(parts))


def _state(
    recall: Figure | None, precision: Figure | None, rule: _Rule
) -> tuple[State, str]:
    """Returns the conclusion, and why."""
    if recall is None or recall.value is None:
        return "untested", "no patch of it was there to test on"
    known = [each for each in (recall, precision) if each is not None and each.interval]
    for each in known:
        if each.interval is not None and each.interval[1] < rule.least:
            which = "finds" if each is recall else "says rightly"
            return "not", (
                f"what it {which} stays below {percent(rule.least)} even at the upper "
                f"end of the interval"
            )
    if recall.groups < FEWEST_GROUPS or recall.patches < FEWEST_PATCHES:
        return "undecided", (
            f"only {_of_groups(recall.patches, recall.groups, rule.counted)}, at least "
            f"{_of_groups(FEWEST_PATCHES, FEWEST_GROUPS, rule.counted)} are needed"
        )
    if precision is None:
        return "undecided", "the student never says it"
    if len(known) < 2:
        reason = next(each.reason for each in (recall, precision) if not each.interval)
        return "undecided", f"there is no interval: {reason}"
    if all(each.interval and each.interval[0] >= rule.least for each in known):
        return "relied", (
            f"what it finds and what it says rightly are both at "
            f"{percent(rule.least)} or above with all of their interval"
        )
    return "undecided", (
        f"an interval reaches across {percent(rule.least)}; more patches would decide"
    )


def _of_groups(patches: int, groups: int, counted: str) -> str:
    return f"{_patches(patches)}{of_groups(groups, counted)}"


def _patches(number: int) -> str:
    return count_of_groups(number, "patches")


def _found(name: str, recall: Figure, counted: str) -> str:
    of = of_groups(recall.groups, counted)
    return (
        f"Of {_patches(recall.patches)} of {name}{of} it finds "
        f"{percent(recall.value or 0.0)}{_range(recall)}."
    )


def _right(name: str, precision: Figure | None) -> str:
    if precision is None or precision.value is None:
        return f"It calls no patch {name}."
    return (
        f"When it says {name}, it is right in "
        f"{percent(precision.value)}{_range(precision)}."
    )


def _range(figure: Figure) -> str:
    if figure.interval is None:
        return ""
    low, high = figure.interval
    return f" (95 % interval {percent(low)} to {percent(high)})"


def _f1(recall: Figure | None, precision: Figure | None) -> float | None:
    if recall is None or recall.value is None:
        return None
    found, right = recall.value, 0.0 if precision is None else precision.value or 0.0
    return 2 * found * right / (found + right) if found + right else 0.0
