"""Losses that torchdistill defines as the published comparison does; its one door.

torchdistill reads dictionaries of layers' outputs; here they are functions of tensors.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor

from moma_core.errors import ConfigError

PairLoss = Callable[[Tensor, Tensor], Tensor]

_LAYER, _OUTPUT = "layer", "output"


def attention_transfer() -> PairLoss:
    """Returns the loss between two (N, channels, H, W) of one size.

    Source: Zagoruyko and Komodakis (https://arxiv.org/abs/1612.03928).
    """
    place = {"io": _OUTPUT, "path": _LAYER}
    pairs = {"pair": {"student": place, "teacher": place}}
    return _of_tensors(_mid_level().ATLoss(pairs, mode="code"))


def relational(distance_weight: float, angle_weight: float) -> PairLoss:
    """Returns the loss between (N, D) and (N, D'), N > 1.

    Source: Park et al. (https://arxiv.org/abs/1904.05068).
    """
    mid_level = _mid_level()
    return _of_tensors(
        mid_level.RKDLoss(_LAYER, _LAYER, distance_weight, angle_weight, "mean")
    )


def probabilistic_transfer() -> PairLoss:
    """Returns the loss between (N, D) and (N, D').

    Source: Passalis and Tefas (https://arxiv.org/abs/1803.10837).
    """
    return _of_tensors(_mid_level().PKTLoss(_LAYER, _OUTPUT, _LAYER, _OUTPUT))


def variational_information() -> Callable[[tuple[Tensor, Tensor], Tensor], Tensor]:
    """Returns the loss between a predicted (mean, variance) and a teacher's map.

    Source: Ahn et al. (https://arxiv.org/abs/1904.05835).
    """
    place = {"io": _OUTPUT, "path": _LAYER}
    pairs = {"pair": {"student": place, "teacher": place}}
    return _of_tensors(_mid_level().VIDLoss(pairs))


def _mid_level() -> ModuleType:
    try:
        from torchdistill.losses import mid_level
    except ImportError as error:
        raise ConfigError(
            "at, pkt, rkd and vid need torchdistill: pip install 'moma-service[bench]'"
        ) from error
    module: ModuleType = mid_level
    return module


def _of_tensors(loss: Callable[..., Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def between(student: object, teacher: Tensor) -> Tensor:
        return loss({_LAYER: {_OUTPUT: student}}, {_LAYER: {_OUTPUT: teacher}})

    return between
