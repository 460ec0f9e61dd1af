"""Decoupled KD: how sure the teacher is, and how it orders the other classes, apart."""

import torch
import torch.nn.functional as F
from torch import Tensor

TARGET_WEIGHT, OTHERS_WEIGHT = 1.0, 8.0
"""alpha and beta of the published comparison."""


def decoupled_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float,
) -> Tensor:
    """Returns `T^2 (alpha TCKD + beta NCKD)`, batch mean, in nats.

    TCKD: KL between (p_target, 1 - p_target) of both. NCKD: KL between the
    probabilities of all other classes, given that it is not the target.

    Source: Zhao et al., eq. 5 to 7 (https://arxiv.org/abs/2203.08679).

    Args:
        student_logits: (N, C), carries the gradient.
        teacher_logits: (N, C), in the student's order of classes.
        target: (N,) long, each row's class.
        temperature: T > 0.
    """
    is_target = F.one_hot(target, student_logits.shape[1]).bool()  # (N, C)
    own, other = (
        F.log_softmax(logits / temperature, dim=1)
        for logits in (student_logits, teacher_logits)
    )
    binary = _divergence(_binary(own, is_target), _binary(other, is_target))
    others = _divergence(_given_not(own, is_target), _given_not(other, is_target))
    return temperature**2 * (TARGET_WEIGHT * binary + OTHERS_WEIGHT * others)


def _binary(log_probabilities: Tensor, is_target: Tensor) -> Tensor:
    """Returns (N, 2) log-probabilities: the target, and all else."""
    target = log_probabilities[is_target]
    rest = log_probabilities[~is_target].view(len(target), -1)
    return torch.stack([target, rest.logsumexp(dim=1)], dim=1)


def _given_not(log_probabilities: Tensor, is_target: Tensor) -> Tensor:
    """Returns (N, C - 1) log-probabilities of the other classes."""
    rest = log_probabilities[~is_target].view(len(log_probabilities), -1)
    return rest.log_softmax(dim=1)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)
