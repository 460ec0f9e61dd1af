"""Logit standardisation: a student need not reach the teacher's scale of logits."""

from torch import Tensor

_EPS = 1e-7


def standardised(logits: Tensor) -> Tensor:
    """Returns each row's Z-scores, (N, C): mean 0 and deviation 1 over the classes.

    Hinton's loss of two such rows is the published loss; its temperature is the base
    temperature.

    Source: Sun et al., algorithm 1 (https://arxiv.org/abs/2403.01878).
    """
    mean = logits.mean(dim=1, keepdim=True)
    deviation = logits.std(dim=1, keepdim=True, correction=0)
    return (logits - mean) / (deviation + _EPS)
