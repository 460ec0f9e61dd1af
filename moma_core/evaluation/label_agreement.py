"""Does a teacher agree with a site's labels, or would it with classes exchanged.

Which classes are exchanged is chosen on half of the patients and judged on the others:
of many classes some exchange always fits chance better than the labels do.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.evaluation.agreement import above_chance
from moma_core.evaluation.grouping import Grouping
from moma_core.evaluation.statistics import Floats, Integers

FEWEST_PATCHES = 20
"""Labelled patches, below which nothing is said."""

_FEWEST_GROUPS = 4  # two to choose by, two to judge by
_EXCHANGE_DEVIATES = 2.58  # of a gain above 0: an error in 200 with each exchange
_INTERVAL_DEVIATES = 1.96  # 95 %
_TIE = 1e-9

Cycle = tuple[int, ...]


class LabelAgreement(NamedTuple):
    """How often a teacher's most likely class is the label.

    Args:
        patches: Labelled patches that it was shown.
        hits: Of how many its most likely class is the label.
        interval: 95 %, of the share of hits, by patient.
        is_above_chance: Whether the mean recall is shown to be above one over the
            number of classes.
        cycles: Classes that seem exchanged: patches of each are called the next, those
            of the last the first. Empty: none are.
        exchanged_hits: Of how many its most likely class would be the label then.
    """

    patches: int
    hits: int
    interval: tuple[float, float]
    is_above_chance: bool
    cycles: tuple[Cycle, ...]
    exchanged_hits: int


def compare_with_labels(
    said: Integers, labels: Integers, grouping: Grouping
) -> LabelAgreement | None:
    """Returns how far a teacher agrees with labels; None: of too few patches.

    Args:
        said: (N,) its most likely class, by the site's class indices.
        labels: (N,) class indices.
        grouping: Of the patches, by patient.
    """
    if len(labels) < FEWEST_PATCHES:
        return None
    hits = said == labels
    error = math.sqrt(
        _variance(hits.astype(np.float64), np.zeros_like(labels), grouping)
    )
    low, high = hits.mean() + np.array([-1, 1]) * _INTERVAL_DEVIATES * error
    cycles = _exchanged(said, labels, grouping.codes)
    renamed = labels.copy()
    for cycle in cycles:
        for place, label in enumerate(cycle):
            renamed[labels == label] = cycle[(place + 1) % len(cycle)]
    return LabelAgreement(
        len(labels),
        int(hits.sum()),
        (max(0.0, float(low)), min(1.0, float(high))),
        above_chance(said, labels) > 0,
        cycles,
        int((said == renamed).sum()),
    )


def _exchanged(said: Integers, labels: Integers, codes: Integers) -> tuple[Cycle, ...]:
    """Returns exchanges that half of the patients show, and the others confirm."""
    chooses = _first_half(labels, codes)
    both = np.intersect1d(labels[chooses], labels[~chooses])
    if len(np.unique(codes)) < _FEWEST_GROUPS or len(both) < 2:
        return ()
    counts = np.zeros((len(both), len(both)))
    for row, label in enumerate(both):
        own = said[chooses & (labels == label)]
        counts[row] = (own[:, None] == both).mean(axis=0)
    cycles = (
        tuple(int(both[place]) for place in cycle) for cycle in _cycles(_best(counts))
    )
    rest = ~chooses
    return tuple(
        cycle
        for cycle in cycles
        if _is_confirmed(cycle, said[rest], labels[rest], codes[rest])
    )


def _first_half(labels: Integers, codes: Integers) -> NDArray[np.bool_]:
    """Returns (N,) every second group of each class."""
    names, first, groups = np.unique(codes, return_index=True, return_inverse=True)
    turn = np.empty(len(names), np.int64)
    turn[np.argsort(labels[first], kind="stable")] = np.arange(len(names))
    half: NDArray[np.bool_] = turn[groups] % 2 == 0
    return half


def _best(recalls: Floats) -> Integers:
    """Returns (K,) another class for each, the surest first; a tie leaves it its own.

    Args:
        recalls: (K, K), share of a class's patches that are called each class.
    """
    left = recalls + _TIE * np.eye(len(recalls))
    found = np.arange(len(recalls))
    for _ in range(len(recalls)):
        row, column = np.unravel_index(left.argmax(), left.shape)
        found[row] = column
        left[row], left[:, column] = -1, -1
    return found


def _cycles(assigned: Integers) -> list[Cycle]:
    """Returns the cycles of a permutation, without classes that keep their place."""
    found, seen = list[Cycle](), set[int]()
    for start in range(len(assigned)):
        cycle = [start] if start not in seen else []
        while cycle and (target := int(assigned[cycle[-1]])) != start:
            cycle.append(target)
        seen.update(cycle)
        if len(cycle) > 1:
            found.append(tuple(cycle))
    return found


def _is_confirmed(
    cycle: Cycle, said: Integers, labels: Integers, codes: Integers
) -> bool:
    """Whether recalls with the exchange are above those without, chance excluded.

    An output that says the same of all classes gains nothing by any exchange, however
    many patches a class has: each class has the same part in the sum.
    """
    gains = np.zeros(len(labels))
    for place, label in enumerate(cycle):
        own = labels == label
        other = cycle[(place + 1) % len(cycle)]
        gains[own] = (said[own] == other).astype(float) - (said[own] == label)
    within = np.isin(labels, cycle)
    gains, labels, codes = gains[within], labels[within], codes[within]
    total = sum(float(gains[labels == label].mean()) for label in cycle)
    variance = _variance(gains, labels, Grouping(codes, ""), lowest=-1.0)
    return total > _EXCHANGE_DEVIATES * math.sqrt(variance)


def _variance(
    values: Floats, strata: Integers, grouping: Grouping, *, lowest: float = 0.0
) -> float:
    """Returns the variance of the sum of the strata's means, patients drawn whole.

    No less than that of single patches whose values are the lowest or 1, as in
    `above_chance`: of few that are all alike the spread says nothing.

    Args:
        values: (N,), from `lowest` to 1.
        strata: (N,) codes.
        grouping: Of the patches, by patient.
        lowest: Of the values.
    """
    parts, least, span = np.zeros(len(values)), 0.0, 1 - lowest
    for code in np.unique(strata):
        own = strata == code
        count, some = int(own.sum()), values[own]
        parts[own] = (some - some.mean()) / count
        smoothed = (float(((some - lowest) / span).sum()) + 1) / (count + 2)
        least += span**2 * smoothed * (1 - smoothed) / count
    _, groups = np.unique(grouping.codes, return_inverse=True)
    sums = np.bincount(groups, parts)
    several = len(sums) / max(1, len(sums) - 1)
    return max(least, several * float((sums**2).sum()))
