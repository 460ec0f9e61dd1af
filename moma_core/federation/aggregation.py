"""What a round makes of its updates: one student out of many.

`clipped_mean`: an update is pulled back to where no tensor of it moved further than the
median site's, and weighs no more than the median site; then the mean. One site moves it
by its share of the median movement, at most.
`mean`: by patches, as the sites claim them (McMahan et al., 2017, algorithm 1). For
sites that trust each other.
`median`, `trimmed_mean`: coordinate by coordinate, each site with one voice (Yin et
al., 2018).
`krum`: the update that lies nearest to its neighbours, alone (Blanchard et al., 2017).

All go tensor by tensor, so that memory holds one tensor of each site. Floats become
float64, batch-norm statistics among them. Of integer buffers no mean means anything:
`num_batches_tracked` counts steps. Their lower median is taken.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from moma_core.errors import UpdateRejectedError
from moma_core.federation.task import Weights

Aggregation = Literal["clipped_mean", "mean", "median", "trimmed_mean", "krum"]

FEWEST_SITES: Final[dict[Aggregation, int]] = {
    "clipped_mean": 1,
    "mean": 1,
    "median": 3,
    "trimmed_mean": 3,
    "krum": 3,
}
"""How many sites a rule needs: of two, nothing says which one is right."""

OUTLIER = 10.0
"""An update that moved so many times as far as the median site is not taken."""

_TRIMMED = 0.2  # of the sites, at each end

Floats = NDArray[np.float64]
_Merge = Callable[[Floats, Floats | None], Floats]  # (S, ...) and the start -> (...)


def aggregate(
    rule: Aggregation,
    updates: Sequence[Weights],
    patches: Sequence[int],
    *,
    start: Weights | None,
    max_patches: int,
) -> dict[str, NDArray[Any]]:
    """Returns the student that `rule` makes of a round's updates, in their types.

    Args:
        rule: What to do with them.
        updates: One a site, of the same names, shapes and types; each tensor is read
            twice at most.
        patches: How many patches each stands for, in the order of `updates`, >= 1.
        start: The student from which the round went out; None: each site's own.
        max_patches: In `mean`, no update weighs more than this.

    Raises:
        UpdateRejectedError: There are fewer updates than the rule needs.
    """
    if len(updates) < FEWEST_SITES[rule]:
        raise UpdateRejectedError(
            f"{len(updates)} updates were accepted, {rule} needs {FEWEST_SITES[rule]}"
        )
    if rule == "krum":
        return _copied(updates[_nearest(updates, start)])
    merge = _merge_of(rule, patches, max_patches)
    result: dict[str, NDArray[Any]] = {}
    for name, like in updates[0].items():
        if like.dtype.kind == "f":
            merged = merge(_stacked(updates, name), _started(start, name))
        else:
            merged = np.sort([update[name] for update in updates], axis=0)[
                (len(updates) - 1) // 2
            ]
        # numpy's arithmetic turns an array without axes into a scalar
        result[name] = np.array(merged, dtype=like.dtype)
    return result


def movements(updates: Sequence[Weights], start: Weights | None) -> list[float]:
    """Returns how far each update lies from the round's start, as an L2 norm.

    Without a start, from the coordinate-wise median of the updates.
    """
    squares = np.zeros(len(updates))
    for name, like in updates[0].items():
        if like.dtype.kind == "f":
            moved = _moved(_stacked(updates, name), _started(start, name))
            squares += np.square(_norms(moved))
    return [float(norm) for norm in np.sqrt(squares)]


def lower_median(values: Sequence[float]) -> float:
    """Returns the middle value, of an even number the smaller: one of two can lie."""
    return sorted(values)[(len(values) - 1) // 2]


def _merge_of(rule: Aggregation, patches: Sequence[int], max_patches: int) -> "_Merge":
    if rule == "median":
        return lambda stack, _start: np.median(stack, axis=0)
    if rule == "trimmed_mean":
        return lambda stack, _start: _trimmed_mean(stack)
    if rule == "mean":
        shares = _shares([min(count, max_patches) for count in patches])
        return lambda stack, _start: np.tensordot(shares, stack, axes=1)
    most = lower_median(patches)
    shares = _shares([min(count, most) for count in patches])
    return lambda stack, start: _clipped_mean(stack, start, shares)


def _shares(weights: Sequence[float]) -> Floats:
    return np.array(weights, dtype=np.float64) / sum(weights)


def _clipped_mean(stack: Floats, start: Floats | None, shares: Floats) -> Floats:
    """Centred clipping (Karimireddy et al., 2021), of each tensor by itself."""
    centre = np.median(stack, axis=0) if start is None else start
    norms = _norms(stack - centre)
    most = lower_median(norms.tolist())
    kept = np.where(norms > most, most / np.maximum(norms, 1e-300), 1.0)  # (S,)
    # an update that is not clipped comes through as it is, bit for bit
    pulled = np.tensordot(shares * kept, stack, axes=1)
    return pulled + float(shares @ (1.0 - kept)) * centre


def _trimmed_mean(stack: Floats) -> Floats:
    sites = len(stack)
    cut = max(1, int(_TRIMMED * sites))
    return np.asarray(np.sort(stack, axis=0)[cut : sites - cut].mean(axis=0))


def _nearest(updates: Sequence[Weights], start: Weights | None) -> int:
    """Returns which update has the smallest sum of distances to its neighbours.

    As many sites are taken for hostile as the rule can bear, so that a site is judged
    by the nearest of the others alone.
    """
    sites = len(updates)
    squares = np.zeros((sites, sites))
    for name, like in updates[0].items():
        if like.dtype.kind == "f":
            flat = _moved(_stacked(updates, name), _started(start, name))
            flat = flat.reshape(sites, -1)  # (S, size)
            own = np.square(flat).sum(axis=1)
            squares += own[:, None] + own[None, :] - 2 * flat @ flat.T
    np.fill_diagonal(squares, -1.0)  # first in its row
    hostile = (sites - 3) // 2
    nearest = np.sort(squares, axis=1)[:, 1 : sites - hostile - 1]
    return int(np.argmin(nearest.sum(axis=1)))


def _stacked(updates: Sequence[Weights], name: str) -> Floats:
    return np.stack([update[name].astype(np.float64) for update in updates])


def _started(start: Weights | None, name: str) -> Floats | None:
    return None if start is None else start[name].astype(np.float64)


def _moved(stack: Floats, start: Floats | None) -> Floats:
    return stack - (np.median(stack, axis=0) if start is None else start)


def _norms(stack: Floats) -> Floats:
    squares: Floats = np.square(stack.reshape(len(stack), -1)).sum(axis=1)
    return np.sqrt(squares)


def _copied(weights: Weights) -> dict[str, NDArray[Any]]:
    return {name: np.array(array) for name, array in weights.items()}
