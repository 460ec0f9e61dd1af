"""Differences with their uncertainty: a paired bootstrap over seeds and images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_DRAWS = 2000
_BATCH = 200
Classes = NDArray[np.int64]
Floats = NDArray[np.float64]


class Difference(NamedTuple):
    """A paired difference in macro-F1.

    Args:
        mean: Over the seeds.
        low: End of the 95 % interval.
        high: The other end.
        p: Two-sided, that there is none.
    """

    mean: float
    low: float
    high: float
    p: float


def mean_macro_f1(truth: Classes, said: Sequence[Classes]) -> Floats:
    """Returns (S,) macro-F1 of each seed, the mean of its evaluations.

    Args:
        truth: (n,), the images' classes.
        said: (E, n) predictions for each seed, one row an evaluation.
    """
    every = np.zeros(len(truth), dtype=np.int64)
    found: Floats = scores(counts(truth, said, every), np.ones((1, 1)))[0]
    return found


def paired_difference(
    truth: Classes, ours: Sequence[Classes], theirs: Sequence[Classes]
) -> Difference:
    """Returns ours minus theirs.

    Seeds and images are both drawn with replacement, the same ones for both sides.

    Args:
        truth: (n,), the images' classes.
        ours: (n,) predictions for each seed.
        theirs: The same seeds in the same order.
    """
    images, seeds = len(truth), len(ours)
    each = np.arange(images)
    first, second = (
        counts(truth, [said[None] for said in side], each) for side in (ours, theirs)
    )
    whole = np.ones((1, images))
    mean = float((scores(first, whole) - scores(second, whole)).mean())
    random, drawn = np.random.default_rng(0), list[Floats]()
    for _ in range(_DRAWS // _BATCH):
        pictures = random.integers(images, size=(_BATCH, images))
        weights = np.stack([np.bincount(row, minlength=images) for row in pictures])
        chosen = random.integers(seeds, size=(_BATCH, seeds))
        difference = scores(first, weights) - scores(second, weights)
        drawn.append(np.take_along_axis(difference, chosen, axis=1).mean(axis=1))
    return difference_of(mean, np.concatenate(drawn))


def difference_of(mean: float, drawn: Floats) -> Difference:
    """Returns a difference with the interval and p-value of its draws."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    p = 2 * min((drawn <= 0).mean(), (drawn >= 0).mean())
    return Difference(
        mean, float(low), float(high), float(min(1.0, max(p, 1 / len(drawn))))
    )


def counts(truth: Classes, said: Sequence[Classes], groups: Classes) -> Floats:
    """Returns (2, S, E, G, C): an F1's hits, and the times a class occurs or is said.

    Args:
        truth: (n,), the images' classes.
        said: (E, n) predictions for each of S seeds, one row an evaluation.
        groups: (n,) codes from 0: patients, slides or single images.
    """
    together = np.stack(said)  # (S, E, n)
    classes = int(max(truth.max(), together.max())) + 1
    # One number of classes for both sides would do no harm, and is not needed: a class
    # that nobody names does not count.
    size = (int(groups.max()) + 1) * classes
    place = groups * classes
    known = np.bincount(place + truth, minlength=size)
    rows = together.reshape(-1, len(truth))
    hits = [np.bincount((place + truth)[row == truth], minlength=size) for row in rows]
    named = [known + np.bincount(place + row, minlength=size) for row in rows]
    shape = (2, *together.shape[:2], -1, classes)
    return np.stack([hits, named]).reshape(shape).astype(float)


def scores(counted: Floats, weights: NDArray[np.generic]) -> Floats:
    """Returns (B, S): macro-F1 under each row of (B, G) weights, mean of evaluations.

    Over the classes that occur or are predicted.
    """
    weighed = np.tensordot(weights.astype(float), counted, axes=(1, 3))
    hits, named = weighed[:, 0], weighed[:, 1]  # (B, S, E, C)
    f1 = np.divide(2 * hits, named, out=np.zeros_like(named), where=named > 0)
    means = f1.sum(axis=3) / (named > 0).sum(axis=3)
    averaged: Floats = means.mean(axis=2)
    return averaged


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number.

    Source: Holm, Scand J Stat 6:65 (1979).
    """
    order = np.argsort(p_values)
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, (len(p_values) - rank) * p_values[place])
        corrected[place] = min(1.0, highest)
    return corrected
