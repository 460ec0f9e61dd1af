"""95 % intervals by a bootstrap over seeds and, within a seed, over images."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.evaluation.membership_inference import Scores, advantage

_DRAWS = 500
Figure = Callable[[Scores, Scores], float]


class Interval(NamedTuple):
    """A mean over seeds, and its 95 % interval."""

    mean: float
    low: float
    high: float


def difference_in_agreement(
    ours: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]]
) -> Interval:
    """Returns ours minus theirs; the same seeds and images are drawn for both.

    Args:
        ours: For each seed (n,), 1 where student and teacher agree, else 0.
        theirs: The same seeds in the same order, of the same images.
    """
    gain = np.stack(ours) - np.stack(theirs)  # (S, n)
    seeds, images = gain.shape
    random = np.random.default_rng(0)
    drawn = [
        gain[random.integers(seeds, size=(seeds, 1)), random.integers(images, size=n)]
        for n in [images] * _DRAWS
    ]
    return _interval(float(gain.mean()), [float(one.mean()) for one in drawn])


def attack_interval(
    groups: Sequence[tuple[Scores, Scores]], figure: Figure
) -> Interval:
    """Returns a figure of an attack over several teachers.

    Args:
        groups: For each seed the scores of both groups.
        figure: Of two groups of scores.
    """
    random = np.random.default_rng(0)

    def again(scores: Scores) -> Scores:
        return scores[random.integers(len(scores), size=len(scores))]

    drawn = []
    for _ in range(_DRAWS):
        chosen = random.integers(len(groups), size=len(groups))
        found = [figure(again(groups[c][0]), again(groups[c][1])) for c in chosen]
        drawn.append(float(np.mean(found)))
    mean = float(np.mean([figure(*scores) for scores in groups]))
    return _interval(mean, drawn)


def advantage_above_zero(first: Scores, second: Scores) -> float:
    """Returns the advantage of scores that say "member" above 0."""
    return advantage(first, second, 0.0)


def area_under_curve(members: Scores, others: Scores) -> float:
    """Returns how often a member's score is above another's; an equal one is half."""
    ranks = np.sort(others)
    below = np.searchsorted(ranks, members, "left")
    up_to = np.searchsorted(ranks, members, "right")
    return float((below + up_to).mean() / (2 * len(others)))


FIGURES = {"advantage": advantage_above_zero, "auc": area_under_curve}


def _interval(mean: float, drawn: Sequence[float]) -> Interval:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(mean, float(low), float(high))
