"""Weighted transformed teacher matching: only the teacher's side is softened."""

import torch.nn.functional as F
from torch import Tensor


def wttm_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> Tensor:
    """Returns the mean of `U(p) KL(p_T || q)` in nats.

    p_T is the teacher's distribution to the power 1 / T, normalised; q the student's as
    it is; U(p) = sum of p^(1 / T), which is large where the teacher is unsure.

    Source: Zheng and Yang, eq. 13 to 15 (https://arxiv.org/abs/2402.11148).

    Args:
        student_logits: (N, C), carries the gradient.
        teacher_logits: (N, C), in the student's order of classes.
        temperature: T >= 1.
    """
    powers = F.log_softmax(teacher_logits, dim=1) / temperature
    log_sum = powers.logsumexp(dim=1, keepdim=True)
    divergence = F.kl_div(
        F.log_softmax(student_logits, dim=1),
        powers - log_sum,
        reduction="none",
        log_target=True,
    ).sum(dim=1)
    return (log_sum.squeeze(1).exp() * divergence).mean()
