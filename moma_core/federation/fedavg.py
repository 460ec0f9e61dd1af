"""Federated averaging (McMahan et al., 2017, algorithm 1), one update at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moma_core.errors import UpdateRejectedError
from moma_core.federation.task import Weights
from moma_core.federation.weights import check_weights


class RunningAverage:
    """The mean of the sites' weights, each weighted by its patches.

    Updates are added as they come, so that memory does not grow with the number of
    sites. Floats, batch-norm statistics among them, are averaged in float64. Integer
    buffers have no mean that means anything (`num_batches_tracked` counts steps): the
    largest is kept.

    Args:
        like: The global model, whose names, shapes and types every update must have;
            without one, the first update that is added says what they are.
        max_patches: No update weighs more than this, whatever its site claims.
    """

    def __init__(self, *, like: Weights | None, max_patches: int) -> None:
        if max_patches < 1:
            raise ValueError(f"max_patches must be >= 1, got {max_patches}")
        self._like = like
        self._max_patches = max_patches
        self._mean: dict[str, NDArray[Any]] = {}
        self._patches = 0

    def add(self, update: Weights, patches: int) -> None:
        """Adds one site's update; a refused one leaves the average as it was.

        Raises:
            UpdateRejectedError: The update does not fit, holds a value that is not
                finite, or stands for no patches.
        """
        if patches < 1:
            raise UpdateRejectedError(f"an update of {patches} patches weighs nothing")
        check_weights(update, self._like)
        if self._like is None:
            self._like = {name: np.empty_like(array) for name, array in update.items()}
        patches = min(patches, self._max_patches)
        self._patches += patches
        share = patches / self._patches
        for name, array in update.items():
            self._mean[name] = _merged(self._mean.get(name), array, share)

    def result(self) -> dict[str, NDArray[Any]]:
        """Returns the average, in the types of the model.

        Raises:
            UpdateRejectedError: No update was added.
        """
        if self._like is None or not self._mean:
            raise UpdateRejectedError("no update was accepted, nothing to average")
        return {  # numpy's arithmetic turns an array without axes into a scalar
            name: np.array(mean, dtype=self._like[name].dtype)
            for name, mean in self._mean.items()
        }


def _merged(
    mean: NDArray[Any] | None, array: NDArray[Any], share: float
) -> NDArray[Any]:
    """Moves `mean` by `share` of the way to `array`; exact for the first update."""
    if array.dtype.kind != "f":
        return array.copy() if mean is None else np.maximum(mean, array)
    wide = array.astype(np.float64)
    return wide if mean is None else mean * (1.0 - share) + wide * share
