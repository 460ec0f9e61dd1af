"""The gradient of one batch, in parts where a GPU's memory does not hold all of it."""

import logging

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torchvision.transforms import v2

from moma_core.data.batch import Batch
from moma_core.distillation.step import Distiller, StepOutput
from moma_core.errors import TrainingError
from moma_core.models.backbone import Normalise
from moma_core.teacher.protocol import AnyOutput
from moma_core.training.settings import TrainingSettings

_logger = logging.getLogger(__name__)

_LEAST_TO_HALVE = 4  # a batch norm needs two


def memory_format(settings: TrainingSettings) -> torch.memory_format:
    """Returns how images lie in memory."""
    return torch.channels_last if settings.channels_last else torch.contiguous_format


class BatchGradient:
    """Goes forward and backward on a batch; the step itself is the trainer's.

    Args:
        fabric: Launched.
        distiller: Method and student.
        model: The same, set up by the fabric.
        optimiser: Set up with it.
        normalise: From uint8 views to what the student takes, on the device.
        settings: Clipping, MixUp, layout in memory.
    """

    def __init__(
        self,
        fabric: Fabric,
        distiller: Distiller,
        model: nn.Module,
        optimiser: Optimizer,
        normalise: Normalise,
        settings: TrainingSettings,
    ) -> None:
        self._fabric, self._model, self._optimiser = fabric, model, optimiser
        self._normalise, self._settings = normalise, settings
        self._distiller = distiller

    def before(self) -> list[Tensor]:
        """Returns copies of what a forward pass changes in place."""
        return [tensor.clone() for tensor in self._distiller.moved_by_forward()]

    @torch.no_grad()
    def undo(self, before: list[Tensor]) -> None:
        """Takes back what forward passes changed since `before`."""
        moved = self._distiller.moved_by_forward()
        for tensor, former in zip(moved, before, strict=True):
            tensor.copy_(former)

    def of(
        self, batch: Batch, teacher_output: AnyOutput | None, before: list[Tensor]
    ) -> tuple[StepOutput, Tensor]:
        """Leaves a batch's clipped gradient in the parameters.

        Where the GPU's memory does not suffice, the student sees half as many patches
        at once, from now on; the losses and the gradient stay those of the batch.

        Args:
            batch: The patches.
            teacher_output: The teacher's, row by row; None without a teacher.
            before: What `before` returned.

        Returns:
            The step's losses, and the gradient's norm before it was clipped.

        Raises:
            TrainingError: A few patches are too many for the memory.
        """
        while True:
            try:
                return self._whole(batch, teacher_output)
            except torch.OutOfMemoryError as error:
                self._halve_micro_batch(batch, error)
            # Only here, outside of the handler, is the failed pass's memory free.
            self.undo(before)
            self._optimiser.zero_grad()
            torch.cuda.empty_cache()

    def _whole(
        self, batch: Batch, teacher_output: AnyOutput | None
    ) -> tuple[StepOutput, Tensor]:
        device = self._fabric.device
        images = self._normalise(batch.images.to(device, non_blocking=True))
        labels = batch.labels.to(device, non_blocking=True)
        if self._settings.mixup and not self._distiller.distils:
            classes = self._distiller.student.classes
            mix = v2.MixUp(alpha=self._settings.mixup, num_classes=classes)
            images, labels = mix(images, labels)
        output: StepOutput = self._model(
            images.contiguous(memory_format=memory_format(self._settings)),
            labels,
            None if teacher_output is None else teacher_output.to(device),
            batch.rows.to(device, non_blocking=True),
        )
        self._optimiser.zero_grad()
        self._fabric.backward(output.losses.total)
        norm = self._fabric.clip_gradients(
            self._model,
            self._optimiser,
            max_norm=self._settings.clip_norm,
            error_if_nonfinite=False,
        )
        if norm is None:
            raise TypeError("a gradient that is clipped has a norm")
        return output, norm

    def _halve_micro_batch(self, batch: Batch, error: Exception) -> None:
        rows = len(batch.images)
        size = min(self._distiller.micro_batch_size or rows, rows)
        if self._fabric.world_size > 1 or size < _LEAST_TO_HALVE:
            raise TrainingError(
                f"the device's memory does not hold {size} patches at once: set "
                f"training.micro_batch_size or view_size_px lower"
            ) from error
        self._distiller.micro_batch_size = -(-size // 2)
        _logger.warning(
            "step %d: the GPU's memory does not hold %d patches at once; from here on "
            "the student sees %d, and the losses the whole batch",
            batch.step + 1,
            size,
            self._distiller.micro_batch_size,
        )
