"""Figures and differences of a study: patients or slides crossed with seeds."""

from collections.abc import Sequence

import numpy as np

from benchmarks.quality.statistics import (
    Classes,
    Difference,
    Floats,
    counts,
    difference_of,
    scores,
)

_DRAWS, _BATCH = 2000, 250


def grouped_difference(
    truth: Classes,
    ours: Sequence[Classes],
    theirs: Sequence[Classes],
    groups: Classes,
) -> Difference:
    """Returns ours minus theirs in macro-F1.

    Seeds and groups (patients, slides, or single images) are both drawn with
    replacement, the same ones for both sides; a seed's evaluations stay together.

    Args:
        truth: (n,), the images' classes.
        ours: (E, n) predictions for each seed, one row an evaluation.
        theirs: The same seeds in the same order.
        groups: (n,) codes from 0.
    """
    first, second = (counts(truth, side, groups) for side in (ours, theirs))
    count = first.shape[3]
    whole = np.ones((1, count))
    mean = float((scores(first, whole) - scores(second, whole)).mean())
    random, drawn = np.random.default_rng(0), list[Floats]()
    for _ in range(_DRAWS // _BATCH):
        weights = random.multinomial(count, np.full(count, 1 / count), size=_BATCH)
        seeds = random.integers(first.shape[1], size=(_BATCH, first.shape[1]))
        difference = scores(first, weights) - scores(second, weights)
        drawn.append(np.take_along_axis(difference, seeds, axis=1).mean(axis=1))
    return difference_of(mean, np.concatenate(drawn))
