"""What the methods of the comparison have in common: one loss beside cross-entropy."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.step import Distiller, ExtraLosses
from moma_core.models.encoder import Encoder, Features
from moma_core.teacher.protocol import TeacherOutput

_Outputs = TypeVar("_Outputs", Features, TeacherOutput)


class Baseline(Distiller):
    """One loss against the teacher's output, for labelled and unlabelled rows alike.

    The step's `distillation` is the loss times the method's weight, and not MoMA's own
    weights for its terms: they are tuned for MoMA. It is computed in single precision
    also where the student runs in half: squares of unnormalised embeddings leave a
    half's range.

    Args:
        student: Its parameters learn.
        context: Settings, teacher and run.
        weight: Of the method's loss, before `weight_scale`.
    """

    distils = True

    def __init__(
        self, student: Encoder, context: DistillationContext, weight: float
    ) -> None:
        once = {"contrastive_weight": 1.0, "distillation_weight": 1.0}
        super().__init__(student, context.settings.model_copy(update=once))
        self.weight = weight * context.baseline_settings.weight_scale

    def extra_losses(
        self,
        features: Features,
        labels: Tensor,
        output: TeacherOutput,
        rows: Tensor | None,
    ) -> ExtraLosses:
        """Returns the method's weighted loss as the distillation."""
        with torch.autocast(features.embedding.device.type, enabled=False):
            loss = self.loss(in_single(features), in_single(output))
        return ExtraLosses(torch.zeros_like(loss), self.weight * loss, None)

    def loss(self, features: Features, output: TeacherOutput) -> Tensor:
        """Returns the method's loss, a scalar before its weight.

        Args:
            features: The student's, in single precision.
            output: The teacher's, row by row, in single precision.
        """
        raise NotImplementedError(f"{type(self).__name__} has no loss")


def adapter(own_length: int, teacher_length: int) -> nn.Module:
    """Returns what brings a student's embedding to the teacher's length, if it must."""
    if own_length == teacher_length:
        return nn.Identity()
    return nn.Linear(own_length, teacher_length)


def in_single(outputs: _Outputs) -> _Outputs:
    """Returns a network's outputs in single precision at least."""
    return outputs._replace(
        embedding=_single(outputs.embedding),
        logits=_single(outputs.logits),
        maps=tuple(map(_single, outputs.maps)),
    )


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() < 4 else tensor
