"""Differences with their uncertainty: a paired bootstrap over seeds and images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_DRAWS = 2000
_BATCH = 200
Classes = NDArray[np.int64]


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


def macro_f1(truth: Classes, predicted: Classes, classes: int) -> NDArray[np.float64]:
    """Returns macro-F1 over the classes that occur or are predicted, for each row.

    Args:
        truth: (B, n).
        predicted: (B, n).
        classes: C.
    """
    offset = np.arange(len(truth))[:, None] * classes
    size = len(truth) * classes

    def counted(values: Classes, where: NDArray[np.bool_]) -> NDArray[np.float64]:
        flat = (values + offset)[where]
        return np.bincount(flat, minlength=size).reshape(-1, classes).astype(float)

    everywhere = np.ones(truth.shape, dtype=bool)
    hits = counted(truth, truth == predicted)
    total = counted(truth, everywhere) + counted(predicted, everywhere)
    scores = np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0)
    means: NDArray[np.float64] = scores.sum(axis=1) / (total > 0).sum(axis=1)
    return means


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
    classes = int(max(truth.max(), *(map(np.max, (*ours, *theirs))))) + 1
    first, second = np.stack(ours), np.stack(theirs)  # (S, n)
    whole = np.broadcast_to(truth, first.shape)
    mean = macro_f1(whole, first, classes) - macro_f1(whole, second, classes)
    random = np.random.default_rng(0)
    draws = [
        _drawn(random, truth, first, second, classes) for _ in range(_DRAWS // _BATCH)
    ]
    drawn = np.concatenate(draws)
    low, high = np.quantile(drawn, (0.025, 0.975))
    p = 2 * min((drawn <= 0).mean(), (drawn >= 0).mean())
    return Difference(
        float(mean.mean()), float(low), float(high), float(min(1.0, max(p, 1 / _DRAWS)))
    )


def _drawn(
    random: np.random.Generator,
    truth: Classes,
    first: Classes,
    second: Classes,
    classes: int,
) -> NDArray[np.float64]:
    """Returns `_BATCH` draws of the mean difference."""
    seeds, images = first.shape
    pictures = random.integers(images, size=(_BATCH, 1, images))
    chosen = random.integers(seeds, size=(_BATCH, seeds, 1))

    def scored(predictions: Classes) -> NDArray[np.float64]:
        said = predictions[chosen, pictures].reshape(-1, images)
        known = np.broadcast_to(truth[pictures], (_BATCH, seeds, images))
        return macro_f1(known.reshape(-1, images), said, classes)

    difference = scored(first) - scored(second)
    means: NDArray[np.float64] = difference.reshape(_BATCH, seeds).mean(axis=1)
    return means


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
