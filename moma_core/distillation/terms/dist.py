"""DIST: a student's class probabilities correlate with the teacher's, both ways."""

import torch.nn.functional as F
from torch import Tensor

_EPS = 1e-8


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> Tensor:
    """Returns `T^2 (inter + intra)`, each one minus a mean Pearson correlation.

    Inter: of a row's class probabilities. Intra: of a class's probabilities over the
    batch; it is 1 where the batch is one row.

    Source: Huang et al., eq. 6 to 10 (https://arxiv.org/abs/2205.10536).

    Args:
        student_logits: (N, C), carries the gradient.
        teacher_logits: (N, C), in the student's order of classes.
        temperature: T > 0.
    """
    own = F.softmax(student_logits / temperature, dim=1)
    other = F.softmax(teacher_logits / temperature, dim=1)
    inter = 1 - _correlations(own, other).mean()
    intra = 1 - _correlations(own.T, other.T).mean()
    return temperature**2 * (inter + intra)


def _correlations(one: Tensor, other: Tensor) -> Tensor:
    """Returns the Pearson correlation of each pair of rows; 0 where one is flat."""
    centred = one - one.mean(dim=1, keepdim=True)
    beside = other - other.mean(dim=1, keepdim=True)
    return F.cosine_similarity(centred, beside, dim=1, eps=_EPS)
