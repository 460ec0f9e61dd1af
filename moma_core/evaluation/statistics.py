"""Figures of weighted patches, and their intervals by a bootstrap over patients.

Every figure is a function of how often each patch counts: once each for the figure
itself, as often as its patient was drawn for each draw of the bootstrap. So one code
gives both, for many draws at a time; a library's metrics know no such weights. The
tests hold it against scikit-learn, and the AUROC against fractions.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, section 13.3 (the
percentile interval); of patients, since patches of one patient are alike.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FEWEST_GROUPS = 5  # with fewer, the ends of an interval are the extremes themselves

_BINS = 15
_MOST_DRAWS = 1000
_FEWEST_DRAWS = 100
_WORK = 40_000_000  # patches times draws times arrays: a few seconds
_CHUNK = 1 << 20  # weights held at a time
_LEVEL = 0.95
_NORMAL_QUANTILE = 1.959964  # of the level, on either side
_DEFINED = 0.8  # share of draws that must have the figure


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What a network said of labelled patches.

    Args:
        logits: (N, C) float64, finite.
        labels: (N,) class indices.
        groups: (N,) codes, equal for patches that are drawn together.
        is_ordered: Whether the classes are grades, in the order of their indices.
    """

    logits: Floats
    labels: Integers
    groups: Integers
    is_ordered: bool

    @property
    def classes(self) -> int:
        """Number of classes, C."""
        return int(self.logits.shape[1])


class WeightedFigures:
    """The figures of `Outputs` under weights; NaN where one is not defined.

    Args:
        outputs: What was said of the patches.
    """

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        classes, logits = outputs.classes, outputs.logits
        predicted = logits.argmax(axis=1)
        self._cells = outputs.labels * classes + predicted
        confidence, self._bins = confidence_bins(logits)
        self._gap = (predicted == outputs.labels) - confidence
        self._rankings = [
            _Ranking(log_odds(logits, label), outputs.labels == label)
            for label in range(classes)
            if classes > 1
        ]

    def of(self, weights: Floats) -> dict[str, Floats]:
        """Returns (B,) arrays by name; `recall` and `precision` as (B, C).

        Args:
            weights: (B, N), how often each patch counts.
        """
        classes = self._outputs.classes
        matrix = _binned(self._cells, weights, classes * classes)
        matrix = matrix.reshape(-1, classes, classes)  # (B, truth, prediction)
        hits = matrix.diagonal(axis1=1, axis2=2)  # (B, C)
        truth, said, total = matrix.sum(2), matrix.sum(1), matrix.sum((1, 2))
        is_one_class = (truth > 0).sum(1) < 2
        scores = _ratio(2 * hits, truth + said)  # NaN: neither there nor said
        gaps = _binned(self._bins, weights * self._gap, _BINS)
        found = {
            "accuracy": _ratio(hits.sum(1), total),
            "macro_f1": _mean_of_known(scores),
            "kappa": _kappa(matrix, truth, said, self._outputs.is_ordered),
            "auroc": self._auroc(weights, truth),
        }
        for name in ("macro_f1", "kappa", "auroc"):
            found[name][is_one_class] = np.nan
        found["ece"] = _ratio(np.abs(gaps).sum(1), total)
        return {
            **found,
            "recall": _ratio(hits, truth),
            "precision": _ratio(hits, said),
        }

    def _auroc(self, weights: Floats, truth: Floats) -> Floats:
        """Macro over the classes that occur, one against the rest."""
        if not self._rankings:
            return np.full(len(weights), np.nan)
        found = np.stack([each.auroc(weights) for each in self._rankings], axis=1)
        return _mean_of_known(np.where(truth > 0, found, np.nan))


class _Ranking:
    """The patches of one class among those of all others, by the class's score."""

    def __init__(self, scores: Floats, is_positive: NDArray[np.bool_]) -> None:
        negative = np.flatnonzero(~is_positive)
        self._positive = np.flatnonzero(is_positive)
        self._negative = negative[np.argsort(scores[negative], kind="stable")]
        ordered, own = scores[self._negative], scores[self._positive]
        self._below = np.searchsorted(ordered, own, "left")
        self._not_above = np.searchsorted(ordered, own, "right")

    def auroc(self, weights: Floats) -> Floats:
        """Returns (B,): the share of pairs in order, of a tie one half."""
        lost = np.zeros((len(weights), len(self._negative) + 1))
        np.cumsum(weights[:, self._negative], axis=1, out=lost[:, 1:])
        own = weights[:, self._positive]
        won = np.einsum("bp,bp->b", own, lost[:, self._below])
        won += np.einsum("bp,bp->b", own, lost[:, self._not_above])
        return _ratio(won / 2, own.sum(axis=1) * lost[:, -1])


def confidence_bins(logits: Floats) -> tuple[Floats, Integers]:
    """Returns (N,) the highest probability, and which of 15 equal bins it lies in.

    Args:
        logits: (N, C).
    """
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence: Floats = shares.max(axis=1) / shares.sum(axis=1)
    return confidence, np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)


def log_odds(logits: Floats, label: int) -> Floats:
    """Returns (N,): the log-odds of a class, by which patches are ranked.

    Probabilities of a sure network are all 1.0; their log-odds still differ. The
    others are sorted first, so that equal ones in another order give equal odds.

    Args:
        logits: (N, C) float64, C at least 2.
        label: Index of the class.
    """
    others = np.sort(np.delete(logits, label, axis=1), axis=1)
    most = others[:, -1]
    rest = np.log(np.exp(others - most[:, None]).sum(axis=1))
    odds: Floats = logits[:, label] - most - rest
    return odds


def bootstrap(
    figures: WeightedFigures, outputs: Outputs, *, seed: int
) -> dict[str, Floats]:
    """Returns the figures of draws of groups, with replacement: (B,), (B, C).

    The draws get fewer as patches get more, so that it takes a few seconds, and of
    millions of patches a small part of what it took to evaluate them.

    Args:
        figures: Of the outputs.
        outputs: What was said of the patches.
        seed: Of the draws.
    """
    _, groups = np.unique(outputs.groups, return_inverse=True)
    work = len(groups) * (outputs.classes + 4)
    draws = int(np.clip(_WORK // work, _FEWEST_DRAWS, _MOST_DRAWS))
    parts = [figures.of(each) for each in _drawn_weights(groups, draws, seed)]
    return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}


def _drawn_weights(groups: Integers, draws: int, seed: int) -> Iterator[Floats]:
    random, count = np.random.default_rng(seed), int(groups.max()) + 1
    rows = max(1, _CHUNK // len(groups))
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        drawn = random.integers(count, size=(size, count))
        offset = np.arange(size)[:, None] * count
        times = np.bincount((drawn + offset).ravel(), minlength=size * count)
        yield times.reshape(size, count)[:, groups].astype(np.float64)


def percentile_interval(draws: Floats) -> tuple[float, float] | None:
    """Returns the interval of a figure; None: draws lack it, or are all the same.

    Args:
        draws: (B,), NaN where a draw has no such figure.
    """
    known = draws[~np.isnan(draws)]
    if len(known) < _DEFINED * len(draws):
        return None
    rest = (1 - _LEVEL) / 2
    low, high = map(float, np.quantile(known, (rest, 1 - rest)))
    return None if low == high else (low, high)


def unanimous_interval(value: float, groups: int) -> tuple[float, float]:
    """Returns the exact interval of a share that is 0 or 1 in all groups.

    Source: Clopper and Pearson (1934); all of n right: from the n-th root of 0.025.

    Args:
        value: 0 or 1.
        groups: How many there are, n.
    """
    end = ((1 - _LEVEL) / 2) ** (1 / groups)
    return (end, 1.0) if value == 1 else (0.0, 1 - end)


def wilson_interval(value: float, groups: int) -> tuple[float, float]:
    """Returns the interval of a share that is the same in every draw of groups.

    Each group counts as one patch, which is the widest that it can be: where all
    groups have the same share, draws cannot say how much another one would differ.
    Source: Wilson (1927), the score interval.

    Args:
        value: In (0, 1).
        groups: How many there are, n.
    """
    square = _NORMAL_QUANTILE**2
    middle = value + square / (2 * groups)
    spread = value * (1 - value) / groups + square / (4 * groups**2)
    reach = _NORMAL_QUANTILE * spread**0.5
    whole = 1 + square / groups
    return (middle - reach) / whole, (middle + reach) / whole


def groups_of_class(classes: Integers, groups: Integers) -> Mapping[int, int]:
    """Returns in how many groups each class occurs, for those that do.

    Args:
        classes: (N,) class indices, true or predicted.
        groups: (N,) codes of the groups.
    """
    pairs = np.unique(np.stack([classes, groups]), axis=1)
    labels, counts = np.unique(pairs[0], return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))


def _kappa(matrix: Floats, truth: Floats, said: Floats, is_ordered: bool) -> Floats:
    """Cohen's: quadratic weights where classes are grades, else none."""
    place = np.arange(matrix.shape[1])
    distance = (place[:, None] - place[None, :]) ** 2.0
    cost = distance if is_ordered else (distance > 0).astype(float)
    observed = (matrix * cost).sum((1, 2))
    by_chance = np.einsum("bi,bj,ij->b", truth, said, cost)
    return 1 - _ratio(observed * matrix.sum((1, 2)), by_chance)


def _binned(places: Integers, weights: Floats, size: int) -> Floats:
    """Returns (B, size): the weights of each row, added up by place."""
    rows = len(weights)
    at = places[None, :] + np.arange(rows)[:, None] * size
    counts = np.bincount(at.ravel(), weights.ravel(), minlength=rows * size)
    return counts.reshape(rows, size).astype(np.float64, copy=False)


def _ratio(above: Floats, below: Floats) -> Floats:
    shape = np.broadcast_shapes(above.shape, below.shape)
    ratio: Floats = np.full(shape, np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio


def _mean_of_known(values: Floats) -> Floats:
    """Returns (B,): the mean of (B, C) over what is not NaN."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(1), known.sum(1).astype(float))
