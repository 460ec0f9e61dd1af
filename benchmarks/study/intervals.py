"""Figures and differences of a study: patients or slides crossed with seeds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.statistics import Difference

_DRAWS, _BATCH = 2000, 250
Classes = NDArray[np.int64]
Floats = NDArray[np.float64]


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
    first, second = (_confusions(truth, side, groups) for side in (ours, theirs))
    count = first.shape[2]
    whole = np.ones((1, count))
    mean = float((_scores(first, whole) - _scores(second, whole)).mean())
    random, drawn = np.random.default_rng(0), list[Floats]()
    for _ in range(_DRAWS // _BATCH):
        weights = random.multinomial(count, np.full(count, 1 / count), size=_BATCH)
        seeds = random.integers(len(first), size=(_BATCH, len(first)))
        difference = _scores(first, weights) - _scores(second, weights)
        drawn.append(np.take_along_axis(difference, seeds, axis=1).mean(axis=1))
    means = np.concatenate(drawn)
    low, high = np.quantile(means, (0.025, 0.975))
    p = 2 * min((means <= 0).mean(), (means >= 0).mean())
    return Difference(
        mean, float(low), float(high), float(min(1.0, max(p, 1 / _DRAWS)))
    )


def mean_macro_f1(truth: Classes, said: Sequence[Classes]) -> Floats:
    """Returns (S,) macro-F1 of each seed, the mean of its evaluations."""
    every = np.zeros(len(truth), dtype=np.int64)
    found: Floats = _scores(_confusions(truth, said, every), np.ones((1, 1)))[0]
    return found


def _confusions(truth: Classes, said: Sequence[Classes], groups: Classes) -> Floats:
    """Returns (S, E, G, C, C) counts: true class, predicted class."""
    together = np.stack(said)  # (S, E, n)
    classes = int(max(truth.max(), together.max())) + 1
    # One number of classes for both sides would do no harm, and is not needed: a class
    # that nobody names does not count.
    count = int(groups.max()) + 1
    cell = (groups * classes + truth) * classes + together
    size = count * classes * classes
    flat = cell.reshape(-1, len(truth))
    counted = np.stack([np.bincount(row, minlength=size) for row in flat])
    shape = (*together.shape[:2], count, classes, classes)
    return counted.reshape(shape).astype(float)


def _scores(confusions: Floats, weights: NDArray[np.generic]) -> Floats:
    """Returns (B, S): macro-F1 under each row of (B, G) weights, mean of evaluations.

    Over the classes that occur or are predicted.
    """
    weighed = np.tensordot(weights.astype(float), confusions, axes=(1, 2))
    hits = np.diagonal(weighed, axis1=3, axis2=4)
    total = weighed.sum(axis=3) + weighed.sum(axis=4)  # (B, S, E, C)
    f1 = np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)
    means = f1.sum(axis=3) / (total > 0).sum(axis=3)
    averaged: Floats = means.mean(axis=2)
    return averaged
