"""A hint that compares directions: projected student, standardised teacher."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from moma_core.distillation.settings import ProjectorKind

_EPS = 1e-6


class AlignedHint(nn.Module):
    """Cosine and smooth-L1 between a projected embedding and a standardised one.

    The orthogonal projector cannot change how a student's rows lie to each other, so
    that the student itself has to; it is VkD's. The linear one can.

    Source: Miles et al., section 3 (https://arxiv.org/abs/2403.06213); the cosine
    beside its smooth-L1 is ours.

    Args:
        embedding_length: The student's.
        teacher_length: D, the teacher's.
        projector: Kind of the projector; it has no bias.
    """

    def __init__(
        self, embedding_length: int, teacher_length: int, projector: ProjectorKind
    ) -> None:
        super().__init__()
        layer: nn.Module = nn.Linear(embedding_length, teacher_length, bias=False)
        if projector == "orthogonal":
            # By Householder's reflections: the exponential of a matrix of this size
            # takes longer than a step.
            layer = orthogonal(layer, orthogonal_map="householder")
        self.projector = layer

    def forward(self, embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
        """Returns the mean loss, a scalar.

        Args:
            embedding: (N, embedding_length), carries the gradient.
            teacher_embedding: (N, D).
        """
        own = self.projector(embedding)
        target = standardised_columns(teacher_embedding)
        cosine = 1 - F.cosine_similarity(own, target, dim=1).mean()
        return cosine + F.smooth_l1_loss(own, target)


def standardised_columns(rows: Tensor) -> Tensor:
    """Returns (N, D) with mean 0 and deviation 1 over the batch, column by column.

    A column that does not vary is 0.
    """
    deviation, mean = rows.std(dim=0, correction=0), rows.mean(dim=0)
    return (rows - mean) / (deviation + _EPS)
