"""Losses of other methods that torchdistill lacks or defines in another way."""

import torch.nn.functional as F
from torch import Tensor

_CRD_EPS = 1e-7


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean squared difference of the batches' similarity matrices.

    Source: Tung and Mori (https://arxiv.org/abs/1907.09682).

    Args:
        student: (N, ...), embeddings or maps, carries the gradient.
        teacher: (N, ...), of any other shape behind N.
    """
    return F.mse_loss(similarity_rows(student), similarity_rows(teacher))


def similarity_rows(features: Tensor) -> Tensor:
    """Returns (N, N) inner products of (N, ...), each row of unit length."""
    flat = features.flatten(1)
    return F.normalize(flat @ flat.T, dim=1)


def correlation_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the correlation of neighbouring rows' absolute differences.

    This is CRD's comparison's form, `mean_i sum_d |s - t|_i |s - t|_(i+1)`; Peng et
    al. (https://arxiv.org/abs/1904.01802) compare kernel matrices instead.

    Args:
        student: (N, D), N > 1, carries the gradient.
        teacher: (N, D).
    """
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum(dim=1).mean()


def noise_contrast(scores: Tensor, data_size: int) -> Tensor:
    """Returns CRD's noise-contrastive loss of one side, a mean over the batch.

    Source: Tian et al. (https://arxiv.org/abs/1910.10699).

    Args:
        scores: (N, 1 + K), exponentials over their normaliser, the positive first.
        data_size: M, how many rows a negative is drawn from.
    """
    noise = (scores.shape[1] - 1) / data_size
    positive, negative = scores[:, :1], scores[:, 1:]
    is_pair = (positive / (positive + noise + _CRD_EPS)).log()
    is_noise = (noise / (negative + noise + _CRD_EPS)).log()
    return -(is_pair.sum() + is_noise.sum()) / len(scores)


def attended_difference(weights: Tensor, differences: Tensor) -> Tensor:
    """Returns SemCKD's loss: differences of stages, as each patch weighs them.

    Source: Chen et al. (https://arxiv.org/abs/2012.03236).

    Args:
        weights: (N, S, T), of each student's stage over the teacher's, sum 1.
        differences: (N, S, T), a patch's mean squared difference of two stages.
    """
    return (weights * differences).sum(dim=2).mean()


def patchwise_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns (N,) mean squared differences of two (N, ...)."""
    return (student - teacher).square().flatten(1).mean(dim=1)


def at_one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Returns two (N, channels, H, W), the larger averaged down to the smaller."""
    height = min(student.shape[2], teacher.shape[2])
    width = min(student.shape[3], teacher.shape[3])
    return _pooled(student, (height, width)), _pooled(teacher, (height, width))


def _pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    if maps.shape[2:] == size:
        return maps
    return F.adaptive_avg_pool2d(maps, size)
