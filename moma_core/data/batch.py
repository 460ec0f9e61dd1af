"""One batch of a training run, as the step and the teacher see it."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """N patches in one view each.

    Args:
        views: (N, 3, H, W) uint8, the replayable view; what a teacher is shown.
        images: (N, 3, H, W) uint8, the same views for the student, with
            photometric jitter where the recipe has it.
        labels: (N,) int64 class indices, NO_LABEL where a patch has none.
        step: Position in the run, counted over epochs from 0; with the run's seed
            it fixes every pixel of the batch.
        rows: (N,) int64, where each patch stands in its source.
        view_numbers: (N,) int64, which view of its patch each one is, from 0.
    """

    views: Tensor
    images: Tensor
    labels: Tensor
    step: int
    rows: Tensor
    view_numbers: Tensor
