"""What a student's embeddings show beside the classes: slide, patient, centre.

Source: de Jong et al., Current pathology foundation models are unrobust to medical
center differences (arXiv 2501.18055): neighbours of the same biology against
neighbours of the same centre.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moma_core.evaluation.figures import count_of_groups
from moma_core.evaluation.grouping import Grouping
from moma_core.evaluation.statistics import (
    Floats,
    Integers,
    percentile_interval,
    unanimous_interval,
)

NEIGHBOURS = 5
FEWEST_GROUPS_OF_ORIGIN = 3

_FOLDS = 5
_DRAWS = 500
_SEED = 0


class Leak(NamedTuple):
    """How well embeddings tell where a patch is from.

    Args:
        value: Balanced share that is told rightly; None: nothing can be said.
        chance: Share that is right by chance.
        interval: 95 % interval by a bootstrap over groups; None: there is none.
        patches: On how many patches.
        groups: Of how many groups of patches.
        reason: Why there is no value; empty: there is one.
        counted: What a group is, in a sentence: `patients`.
    """

    value: float | None
    chance: float
    interval: tuple[float, float] | None = None
    patches: int = 0
    groups: int = 0
    reason: str = ""
    counted: str = "patches"


def principal_components(embeddings: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Returns (N, 2) places on the two directions of most variance, and their shares.

    Of embeddings of unit length, as a contrast compares them.

    Args:
        embeddings: (N, D), N at least 2.
    """
    unit = _unit(embeddings).astype(np.float64)
    centred = unit - unit.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    whole = float((sizes**2).sum()) or 1.0
    places, shares = left[:, :2] * sizes[:2], sizes[:2] ** 2 / whole
    missing = 2 - places.shape[1]
    if missing > 0:
        places = np.pad(places, ((0, 0), (0, missing)))
        shares = np.pad(shares, (0, missing))
    return places, shares


def origin_leak(
    embeddings: NDArray[np.float32],
    labels: Integers,
    origins: Integers,
    grouping: Grouping,
) -> Leak:
    """Returns how often the nearest patches of the same class tell the origin.

    A patch is asked of patches of other groups alone, in five folds, so that knowing
    a patient again is no help where the groups are patients; of its own class alone,
    so that origins with other classes are no help either. Chance is one over the
    number of origins.

    Args:
        embeddings: (N, D).
        labels: (N,) class indices.
        origins: (N,) codes, such as of centres; each patient is of one.
        grouping: Of the N patches.
    """
    names, origin = np.unique(origins, return_inverse=True)
    if len(names) < 2:
        return Leak(None, 1.0, reason="the patches are of one origin")
    counted = grouping.counted
    _, group = np.unique(grouping.codes, return_inverse=True)
    of_each = [len(np.unique(group[origin == each])) for each in range(len(names))]
    if min(of_each) < FEWEST_GROUPS_OF_ORIGIN:
        few = (
            f"an origin has {count_of_groups(min(of_each), counted)}, at least "
            f"{FEWEST_GROUPS_OF_ORIGIN} are needed"
        )
        return Leak(None, 1 / len(names), reason=few)
    guess = _guesses(_unit(embeddings), labels, origin, _folds(origin, group))
    asked = guess >= 0
    if len(np.unique(origin[asked])) < len(names):
        none = "no class has patches of every origin"
        return Leak(None, 1 / len(names), reason=none)
    is_right = (guess == origin)[asked]
    value, interval = _balanced(is_right, origin[asked], group[asked])
    count = len(np.unique(group[asked]))
    return Leak(value, 1 / len(names), interval, int(asked.sum()), count, "", counted)


def neighbour_share(
    embeddings: NDArray[np.float32], labels: Integers, slides: Integers
) -> Leak:
    """Returns how many of the nearest patches of the same class are of the same slide.

    Chance is the share of such patches among all of the class.

    Args:
        embeddings: (N, D).
        labels: (N,) class indices.
        slides: (N,) codes of slides or patients.
    """
    found, expected = [], []
    unit = _unit(embeddings)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) <= NEIGHBOURS or len(np.unique(slides[rows])) < 2:
            continue
        near = _nearest(unit[rows], unit[rows], leave_out=np.arange(len(rows)))
        own = slides[rows]
        found.append((own[near] == own[:, None]).mean(axis=1))
        same = (own[:, None] == own[None, :]).sum(axis=1) - 1
        expected.append(same / (len(rows) - 1))
    if not found:
        return Leak(None, 0.0, reason="no class has patches of two slides")
    shares = np.concatenate(found)
    return Leak(
        float(shares.mean()),
        float(np.concatenate(expected).mean()),
        patches=len(shares),
        groups=len(np.unique(slides)),
    )


def _unit(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = embeddings - embeddings.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: NDArray[np.float32] = centred / np.maximum(length, 1e-12)
    return unit


def _nearest(
    asked: NDArray[np.float32],
    known: NDArray[np.float32],
    leave_out: Integers | None = None,
) -> Integers:
    """Returns (N, k) rows of `known`, the most alike by the cosine."""
    likeness = asked @ known.T
    if leave_out is not None:
        likeness[np.arange(len(asked)), leave_out] = -np.inf
    most = min(NEIGHBOURS, likeness.shape[1])
    return np.argpartition(-likeness, most - 1, axis=1)[:, :most]


def _folds(origin: Integers, group: Integers) -> Integers:
    """Returns (N,) the fold of each patch: a patient's own, each origin spread out."""
    random = np.random.default_rng(_SEED)
    fold_of = np.zeros(int(group.max()) + 1, np.int64)
    for each in np.unique(origin):
        own = np.unique(group[origin == each])
        fold_of[random.permutation(own)] = np.arange(len(own)) % _FOLDS
    return fold_of[group]


def _guesses(
    unit: NDArray[np.float32], labels: Integers, origin: Integers, folds: Integers
) -> Integers:
    """Returns (N,) the origin that each patch's neighbours say; -1: nobody can say."""
    guess = np.full(len(labels), -1, np.int64)
    for label in np.unique(labels):
        for fold in range(_FOLDS):
            asked = np.flatnonzero((labels == label) & (folds == fold))
            known = np.flatnonzero((labels == label) & (folds != fold))
            sizes = np.bincount(origin[known], minlength=int(origin.max()) + 1)
            if not len(asked) or (sizes == 0).any():
                continue
            near = origin[known][_nearest(unit[asked], unit[known])]
            # a vote weighs the less, the more patches its origin has
            votes = np.stack(
                [(near == each).sum(axis=1) / size for each, size in enumerate(sizes)]
            )
            guess[asked] = votes.argmax(axis=0)
    return guess


def _balanced(
    is_right: NDArray[np.bool_], origin: Integers, group: Integers
) -> tuple[float, tuple[float, float] | None]:
    """Returns the mean share over origins, and its interval by drawing patients."""
    _, code = np.unique(group, return_inverse=True)
    shape = (int(code.max()) + 1, int(origin.max()) + 1)
    whole, right = np.zeros(shape), np.zeros(shape)
    np.add.at(whole, (code, origin), 1)
    np.add.at(right, (code, origin), is_right)
    drawn = np.random.default_rng(_SEED).integers(shape[0], size=(_DRAWS, shape[0]))
    with np.errstate(invalid="ignore"):
        shares = right[drawn].sum(axis=1) / whole[drawn].sum(axis=1)
    value = float((right.sum(axis=0) / whole.sum(axis=0)).mean())
    if value in (0.0, 1.0):
        return value, unanimous_interval(value, shape[0])
    return value, percentile_interval(shares.mean(axis=1))
