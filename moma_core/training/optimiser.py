"""The optimiser and its schedule: what learns, how fast, and when it slows down."""

import math
import warnings
from collections.abc import Iterator

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from moma_core.distillation.step import Distiller
from moma_core.training.settings import TrainingSettings


def make_optimiser(distiller: Distiller, settings: TrainingSettings) -> Optimizer:
    """Returns the optimiser of everything in a distiller that learns.

    With `head_learning_rate` there are two groups: the student's body, and the rest,
    its classifier and the method's own layers.

    Args:
        distiller: Method and student; what requires no gradient is left out.
        settings: Kind, rates, momentum, decay.
    """
    groups = _groups(distiller, settings)
    if settings.optimiser == "adamw":
        return AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
    return SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.sgd_momentum,
        weight_decay=settings.weight_decay,
    )


def _groups(
    distiller: Distiller, settings: TrainingSettings
) -> list[dict[str, object]]:
    learning = list(_learning(distiller))
    if settings.head_learning_rate is None:
        return [{"params": learning}]
    student = distiller.student
    heads = {id(weight) for weight in student.classifier.parameters()}
    body = {id(weight) for weight in student.parameters()} - heads
    return [
        {"params": [weight for weight in learning if id(weight) in body]},
        {
            "params": [weight for weight in learning if id(weight) not in body],
            "lr": settings.head_learning_rate,
        },
    ]


def _learning(module: nn.Module) -> Iterator[nn.Parameter]:
    return (weight for weight in module.parameters() if weight.requires_grad)


def cosine_schedule(
    optimiser: Optimizer, *, steps: int, warmup_steps: int = 0
) -> LambdaLR:
    """Returns a schedule that is stepped once a step.

    Source: Loshchilov and Hutter, eq. 5 (https://arxiv.org/abs/1608.03983).

    Args:
        optimiser: Its learning rates are the peaks.
        steps: Of the whole run; beyond it the rates stay zero.
        warmup_steps: Linear from 1 / warmup_steps to 1.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        share = (step - warmup_steps) / max(1, steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    return LambdaLR(optimiser, factor)


def advance(schedule: LambdaLR, steps: int = 1) -> None:
    """Moves a schedule on, also by steps that the optimiser has left out."""
    with warnings.catch_warnings():
        # torch warns where the very first step of the optimiser is left out.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler")
        for _ in range(steps):
            schedule.step()
