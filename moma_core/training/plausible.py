"""Settings that are allowed and seldom meant, told before anything is spent on them.

A value that cannot work at all is refused where the config is read. What is warned of
here was seen to train badly, or is a power of ten away from all that was ever measured.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from moma_core.distillation.settings import DistillationSettings
from moma_core.runtime.finding import Finding
from moma_core.training.settings import TrainingSettings


class _Usual(NamedTuple):
    """Between which values a setting was ever seen to work.

    Args:
        low: Below it, `below` happens.
        high: Above it, `above` happens.
        below: What comes of a smaller value.
        above: What comes of a larger one.
        advice: A value that works, or where to find one.
    """

    low: float
    high: float
    below: str
    above: str
    advice: str


_RUNS_OFF, _STANDS = "the loss runs off", "a student hardly learns"
_RATES = {
    "sgd": _Usual(1e-4, 0.5, _STANDS, _RUNS_OFF, "0.02 and 0.05 were measured"),
    "adamw": _Usual(1e-6, 0.01, _STANDS, _RUNS_OFF, "0.0005 is usual"),
}
_TRAINING = {
    "sgd_momentum": _Usual(
        0.0, 0.99, "", "steps of long ago go on deciding", "0.9 was measured"
    ),
    "weight_decay": _Usual(
        0.0, 0.1, "", "the weights shrink to nothing", "1e-4 was measured"
    ),
    "clip_norm": _Usual(0.05, 1e9, "no step moves anything", "", "5 was measured"),
    "ema_decay": _Usual(
        0.0, 0.9995, "", "the student that is kept is the one that began", "try 0.99"
    ),
    "label_smoothing": _Usual(
        0.0, 0.4, "", "labels say little any more", "0.1 is usual"
    ),
    "mixup": _Usual(0.0, 1.0, "", "every patch is half another", "0.2 is usual"),
}
_DISTILLATION = {
    "temperature": _Usual(
        0.01, 1.0, "one key decides all", "no key counts more than another", "0.07 won"
    ),
    "kl_temperature": _Usual(
        1.0, 20.0, "the teacher's doubts are lost", "it doubts everything", "4 won"
    ),
    "classification_weight": _Usual(0.0, 30.0, "", "nothing else counts", "1 won"),
    "contrastive_weight": _Usual(0.0, 30.0, "", "nothing else counts", "3 won"),
    "distillation_weight": _Usual(0.0, 30.0, "", "nothing else counts", "3 won"),
}


def look_at_training(training: TrainingSettings, *, patches: int) -> Iterator[Finding]:
    """Yields settings of the training that are seldom meant.

    Args:
        training: How is trained.
        patches: Number of patches to train on.
    """
    rate = _RATES[training.optimiser]
    usual = {"learning_rate": rate, "head_learning_rate": rate, **_TRAINING}
    yield from _unusual("training", training, usual)
    if 0 < patches < training.batch_size:
        text = (
            f"training.batch_size is {training.batch_size}, and there are {patches} "
            f"patches to train on: each epoch is one step; set a batch_size of at "
            f"most {max(2, patches // 2)}, or add patches"
        )
        yield Finding("settings", "warning", text)
    cores = os.cpu_count() or 1
    for key, value in (("threads", training.threads), ("workers", training.workers)):
        if isinstance(value, int) and value > 2 * cores:
            text = (
                f"training.{key} is {value}, and this machine has {cores} cores: they "
                f"wait for one another; set {cores} at most, or leave it out"
            )
            yield Finding("settings", "warning", text)


def look_at_warmup(training: TrainingSettings, steps: int) -> Iterator[Finding]:
    """Yields whether the warm-up takes the run.

    Args:
        training: How is trained.
        steps: Of the whole run.
    """
    if training.warmup_steps and 2 * training.warmup_steps > steps:
        text = (
            f"training.warmup_steps is {training.warmup_steps}, and the run has "
            f"{steps} steps: the learning rate is hardly reached; set at most "
            f"{steps // 10}"
        )
        yield Finding("settings", "warning", text)


def look_at_distillation(settings: DistillationSettings) -> Iterator[Finding]:
    """Yields settings of the method that are seldom meant, or leave nothing to learn.

    Args:
        settings: The method's own numbers.
    """
    yield from _unusual("distillation", settings, _DISTILLATION)
    labels = settings.classification_weight
    teacher = settings.contrastive_weight + settings.distillation_weight
    teacher += settings.hint_weight
    if not labels + teacher:
        text = (
            "every weight of distillation is 0: there is nothing to learn from; leave "
            "them out, and they are as measured"
        )
        yield Finding("settings", "problem", text)
    elif not labels:
        text = (
            "distillation.classification_weight is 0: labels teach nothing; leave it "
            "out, and it is 1"
        )
        yield Finding("settings", "warning", text)
    elif not teacher:
        text = (
            "distillation.contrastive_weight and distillation_weight are 0: the "
            "teacher is asked and teaches nothing; leave them out, and they are 3"
        )
        yield Finding("settings", "warning", text)


def _unusual(
    section: str,
    settings: TrainingSettings | DistillationSettings,
    usual: dict[str, _Usual],
) -> Iterator[Finding]:
    for key, each in usual.items():
        value = getattr(settings, key)
        if value is None or each.low <= value <= each.high:
            continue
        is_low = value < each.low
        bound = f"under {each.low:g}" if is_low else f"above {each.high:g}"
        text = (
            f"{section}.{key} is {value:g}: {bound} "
            f"{each.below if is_low else each.above}; {each.advice}"
        )
        yield Finding("settings", "warning", text)
