"""One batch of a training run, as the step and the teacher see it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """N patches in one view each.

    Args:
        views: (N, 3, H, W) uint8, the replayable view; what a teacher is shown.
        images: (N, 3, H, W) uint8, the same views for the student, with
            photometric jitter where the recipe has it.
        labels: (N,) int64 class indices, NO_LABEL where a patch has none.
        step: Position in the run, counted over epochs from 0; with the run's seed
            it fixes every pixel of the batch.
    """

    views: Tensor
    images: Tensor
    labels: Tensor
    step: int
