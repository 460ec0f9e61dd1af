"""Two students on the same patches: the difference, and what chance makes of it."""

from typing import Literal, NamedTuple

import numpy as np

from moma_core.evaluation.metrics import FEWEST_PATCHES, INTERVAL_SEED, SplitOutputs
from moma_core.evaluation.statistics import (
    FEWEST_GROUPS,
    Floats,
    Outputs,
    WeightedFigures,
    bootstrap,
    percentile_interval,
)


class Difference(NamedTuple):
    """By how much one student is better than another.

    Args:
        value: Figure of the one minus figure of the other.
        interval: Its 95 % interval by a bootstrap over the same patients for both;
            None: there is none.
    """

    value: float
    interval: tuple[float, float] | None

    @property
    def is_decided(self) -> bool:
        """Whether the interval says which one is better."""
        return self.interval is not None and not (
            self.interval[0] <= 0 <= self.interval[1]
        )


def paired_difference(
    one: SplitOutputs, other: SplitOutputs, name: Literal["accuracy", "macro_f1"]
) -> Difference | None:
    """Returns the difference; None: they were not measured on the same patches.

    Each draw of patients counts for both, so that what makes a draw hard for both is
    no part of the interval.
    """
    if not np.array_equal(one.rows, other.rows) or len(one.rows) < FEWEST_PATCHES:
        return None
    pair = [_figures(one, name), _figures(other, name)]
    (value, draws), (value_of_other, draws_of_other) = pair
    if np.isnan(value) or np.isnan(value_of_other):
        return None
    few = len(np.unique(one.grouping.codes)) < FEWEST_GROUPS
    interval = None if few else percentile_interval(draws - draws_of_other)
    return Difference(value - value_of_other, interval)


def _figures(found: SplitOutputs, name: str) -> tuple[float, Floats]:
    outputs = Outputs(
        found.logits.double().numpy(),
        found.labels.numpy(),
        found.grouping.codes,
        found.is_ordered,
    )
    weighted = WeightedFigures(outputs)
    once = weighted.of(np.ones((1, len(outputs.labels))))[name]
    return float(once[0]), bootstrap(weighted, outputs, seed=INTERVAL_SEED)[name]
