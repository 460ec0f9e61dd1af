"""Whether a student's probabilities mean what they say, and one number to mend them.

Source: Guo et al., On calibration of modern neural networks (ICML 2017), sections 2
and 4.2: reliability diagrams, the expected calibration error, temperature scaling.
"""

import math
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from moma_core.evaluation.metrics import SplitOutputs
from moma_core.evaluation.statistics import confidence_bins

FEWEST_PATCHES = 20  # on fewer, a temperature is chance

_LOWEST, _HIGHEST = 0.1, 10.0
_STEPS = 60  # of a golden-section search, which keeps 0.618 of its range a step
_RATIO = (5**0.5 - 1) / 2
_DECIMALS = 4


class Temperature(NamedTuple):
    """What logits are divided by before they become probabilities.

    Args:
        value: Above 1 a student was too sure; None: none could be fitted.
        reason: Why there is none; empty: there is one.
    """

    value: float | None
    reason: str = ""


class ReliabilityBin(NamedTuple):
    """The patches whose highest probability lies in one of 15 equal bins.

    Args:
        confidence: Mean of that probability.
        accuracy: Share of them that are right.
        patches: How many there are.
    """

    confidence: float
    accuracy: float
    patches: int


def fit_temperature(outputs: SplitOutputs) -> Temperature:
    """Returns the temperature of the least cross-entropy on these patches.

    It changes no prediction, only how sure the student says it is. It is 1 where the
    calibration error grows by it: a student that is mostly wrong can gain
    cross-entropy by being surer of the rest.

    Args:
        outputs: Of the validation split; no other one may have a say.
    """
    logits, labels = outputs.logits.double(), outputs.labels
    if len(labels) < FEWEST_PATCHES:
        return Temperature(
            None, f"{len(labels)} patches, at least {FEWEST_PATCHES} are needed"
        )
    if not logits.isfinite().all():
        return Temperature(None, "outputs are not finite")
    if (logits.argmax(dim=1) == labels).all():
        return Temperature(None, "every patch is right, so none is too sure")
    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    for _ in range(_STEPS):
        left, right = high - _RATIO * (high - low), low + _RATIO * (high - low)
        if _cross_entropy(logits, labels, left) < _cross_entropy(logits, labels, right):
            high = right
        else:
            low = left
    fitted = round(math.exp((low + high) / 2), _DECIMALS)
    is_better = _error(outputs.softened(fitted)) < _error(outputs)
    return Temperature(fitted if is_better else 1.0)


def reliability(outputs: SplitOutputs) -> tuple[ReliabilityBin, ...]:
    """Returns the bins that hold a patch, from the least sure to the surest.

    They are the bins of the figure `ece`, which is the mean of their gaps.
    """
    logits, labels = outputs.logits.double().numpy(), outputs.labels.numpy()
    if not len(labels) or not np.isfinite(logits).all():
        return ()
    confidence, bins = confidence_bins(logits)
    is_right = logits.argmax(axis=1) == labels
    return tuple(
        ReliabilityBin(
            float(confidence[chosen].mean()),
            float(is_right[chosen].mean()),
            int(chosen.sum()),
        )
        for chosen in (bins == number for number in np.unique(bins))
    )


def probabilities(logits: Tensor, temperature: float | None) -> Tensor:
    """Returns (N, C) float64 probabilities of logits.

    Args:
        logits: (N, C).
        temperature: As a student's card has it; None: 1.
    """
    return (logits.double() / (temperature or 1.0)).softmax(dim=1)


def _error(outputs: SplitOutputs) -> float:
    """Returns the expected calibration error, as the figure `ece` has it."""
    gaps = [
        each.patches * abs(each.confidence - each.accuracy)
        for each in reliability(outputs)
    ]
    return sum(gaps) / len(outputs.labels)


def _cross_entropy(logits: Tensor, labels: Tensor, log_temperature: float) -> float:
    return F.cross_entropy(logits / math.exp(log_temperature), labels).item()
