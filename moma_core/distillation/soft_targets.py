"""What a student learns from a teacher's logits, by whichever loss a config names."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from moma_core.data.patch import NO_LABEL
from moma_core.distillation.losses import soft_target_loss
from moma_core.distillation.settings import LogitLoss
from moma_core.distillation.terms.decoupled_kd import decoupled_loss
from moma_core.distillation.terms.dist import dist_loss
from moma_core.distillation.terms.wttm import wttm_loss
from moma_core.distillation.terms.z_score import standardised
from moma_core.models.encoder import Features
from moma_core.teacher.protocol import TeacherOutput

_Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""From the student's logits, the teacher's, each row's class, and T, to a scalar."""

_LOSSES: Mapping[LogitLoss, _Loss] = {
    "kl": lambda own, other, _, t: soft_target_loss(own, other, t),
    "dist": lambda own, other, _, t: dist_loss(own, other, t),
    "decoupled": decoupled_loss,
    "standardised": lambda own, other, _, t: soft_target_loss(
        standardised(own), standardised(other), t
    ),
    "wttm": lambda own, other, _, t: wttm_loss(own, other, t),
}


class SoftTargets(nn.Module):
    """A loss against the logits of a teacher of the same classes, or of others.

    Published for equal class sets. Where they differ this is our extension: a linear
    layer of its own over the teacher's classes, on the student's embedding, learns
    the teacher's logits with the same loss, and is left behind after the training.

    Args:
        embedding_length: The student's.
        teacher_classes: C', number of the teacher's logits.
        class_order: (C,) long, where the student's class c stands in the teacher's
            logits; None where the class sets differ.
        temperature: T > 0.
        loss: Which one; kl: Hinton et al. (https://arxiv.org/abs/1503.02531).
    """

    class_order: Tensor | None

    def __init__(
        self,
        embedding_length: int,
        teacher_classes: int,
        class_order: Tensor | None,
        temperature: float,
        loss: LogitLoss = "kl",
    ) -> None:
        super().__init__()
        self._temperature, self._loss = temperature, _LOSSES[loss]
        self.register_buffer("class_order", class_order, persistent=False)
        self.side_head: nn.Module | None = None
        if class_order is None:
            self.side_head = nn.Linear(embedding_length, teacher_classes)

    def forward(
        self, features: Features, output: TeacherOutput, labels: Tensor | None = None
    ) -> Tensor:
        """Returns the mean loss, a scalar.

        Args:
            features: The student's.
            output: The teacher's, row by row.
            labels: (N,), the student's classes, NO_LABEL where a row has none: there
                the teacher's likeliest class stands for it, and for every row where
                the class sets differ.
        """
        if self.side_head is not None:
            own, other = self.side_head(features.embedding), output.logits
            labels = None
        else:
            own, other = features.logits, output.logits[:, self.class_order]
        target = other.argmax(dim=1)
        if labels is not None:
            target = torch.where(labels == NO_LABEL, target, labels)
        return self._loss(own, other, target, self._temperature)
