"""The three terms of the method: InfoNCE, Hinton's KL, cross-entropy."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moma_core.data.patch import NO_LABEL


def contrastive_logits(
    query: Tensor, key: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """Returns (N, 1 + K) similarities over the temperature, the positive first.

    Args:
        query: (N, D), carries the gradient.
        key: (N, D), the positive of the same row.
        negatives: (K, D).
        temperature: Softmax temperature, > 0.
    """
    positive = torch.einsum("nd,nd->n", query, key).unsqueeze(1)  # (N, 1)
    negative = query @ negatives.T  # (N, K)
    return torch.cat([positive, negative], dim=1) / temperature


def info_nce(logits: Tensor) -> Tensor:
    """Returns the mean InfoNCE in nats: each query close to its key, far from the bank.

    Source: van den Oord et al., eq. 4 (https://arxiv.org/abs/1807.03748).

    Args:
        logits: (N, 1 + K) of `contrastive_logits`; -inf is no negative.
    """
    positive = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, positive)


def relational_loss(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Returns the mean cross-entropy in nats to the teacher's own similarities.

    The teacher's key is compared with itself and the bank, and the query shall be as
    similar to each of them as that key is.

    Source: SEED, eq. 4 (https://arxiv.org/abs/2101.04731).

    Args:
        logits: (N, 1 + K) of `contrastive_logits` for the queries.
        target_logits: The same for the keys, no gradient.
    """
    return F.cross_entropy(logits, target_logits.softmax(dim=1))


def soft_target_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> Tensor:
    """Returns `T^2 KL(softmax(teacher / T) || softmax(student / T))`, batch mean, nats.

    Source: Hinton et al., section 2 (https://arxiv.org/abs/1503.02531).

    Args:
        student_logits: (N, C), carries the gradient.
        teacher_logits: (N, C), in the student's order of classes.
        temperature: T > 0.
    """
    divergence = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2


def head_slices(rows: Tensor, heads: int) -> Tensor:
    """Returns (H, N, D / H) slices of (N, D), each row of a slice of unit length.

    Source: MiniLMv2's relation heads (https://arxiv.org/abs/2012.15828), carried over
    from a sequence to a memory bank.

    Args:
        rows: (N, D) of unit length; with one head they come back as they are.
        heads: H, a divisor of D.
    """
    if heads == 1:
        return rows.unsqueeze(0)
    slices = rows.view(len(rows), heads, rows.shape[1] // heads)  # rows may be none
    return F.normalize(slices, dim=2).transpose(0, 1)


class LabelTerms(NamedTuple):
    """How labels count in the cross-entropy; as published: each alike, and as it is.

    Args:
        smoothing: Share of a label that is spread over all classes, in [0, 1).
        class_weights: (C,), 1 on the average of the patches; None: each is 1.
    """

    smoothing: float = 0.0
    class_weights: Tensor | None = None


def labelled_cross_entropy(
    logits: Tensor, labels: Tensor, terms: LabelTerms | None = None
) -> Tensor:
    """Returns the mean cross-entropy over the labelled rows, 0 where there is none.

    Class weights do not change what it is divided by: a batch of common classes alone
    weighs less than one of rare ones.

    Args:
        logits: (N, C).
        labels: (N,), class indices, NO_LABEL where a row has none; or (N, C), shares
            of the classes where patches are mixed, each row labelled.
        terms: How they count; None: as published.
    """
    smoothing, weights = terms or LabelTerms()
    if labels.is_floating_point():
        return F.cross_entropy(
            logits, labels, weight=weights, label_smoothing=smoothing
        )
    total = F.cross_entropy(
        logits,
        labels,
        weight=weights,
        ignore_index=NO_LABEL,
        reduction="sum",
        label_smoothing=smoothing,
    )
    return total / (labels != NO_LABEL).sum().clamp(min=1)
