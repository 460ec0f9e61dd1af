"""The learning rate over a run: linear warm-up, then a cosine to zero."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_schedule(
    optimiser: Optimizer, *, steps: int, warmup_steps: int = 0
) -> LambdaLR:
    """Returns a schedule that is stepped once a step.

    Source: Loshchilov and Hutter, eq. 5 (https://arxiv.org/abs/1608.03983).

    Args:
        optimiser: Its learning rate is the peak.
        steps: Of the whole run; beyond it the rate stays zero.
        warmup_steps: Linear from 1 / warmup_steps to 1.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        share = (step - warmup_steps) / max(1, steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    return LambdaLR(optimiser, factor)
