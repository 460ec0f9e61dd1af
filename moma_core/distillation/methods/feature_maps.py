"""Methods that learn from feature maps: AT and VID; a teacher on this disk only."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moma_core.distillation.methods.base import Baseline, Term
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.methods.losses import at_one_size
from moma_core.distillation.methods.torchdistill_losses import (
    attention_transfer,
    variational_information,
)
from moma_core.errors import ConfigError
from moma_core.models.encoder import Encoder, Features
from moma_core.teacher.protocol import TeacherOutput

_VARIANCE_EPS = 1e-5

_Item = TypeVar("_Item")


class AttentionTransfer(Baseline):
    """AT: where the maps of paired stages are active, summed over the stages.

    Source: Zagoruyko and Komodakis (https://arxiv.org/abs/1612.03928).
    """

    needs_maps = True

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        super().__init__(student, setup, setup.numbers.at_weight)
        self._between = attention_transfer()

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Compares stage by stage, at the smaller side of each pair."""
        stages = paired(features.maps, answer.maps)
        losses = [self._between(*at_one_size(own, other)) for own, other in stages]
        return Term(torch.stack(losses).sum())


class VariationalInformation(Baseline):
    """VID: each teacher's stage is likely, seen from the student's paired one.

    Source: Ahn et al. (https://arxiv.org/abs/1904.05835).
    """

    needs_maps = True

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        super().__init__(student, setup, setup.numbers.vid_weight)
        size_px = setup.run.view_size_px
        channels = paired(
            map_channels(student, size_px),
            map_channels(setup.teacher.network(), size_px),
        )
        self.regressors = nn.ModuleList(
            Variational(own, other, variance=setup.numbers.vid_variance)
            for own, other in channels
        )
        self._between = variational_information()

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Sums the stages' mean negative log-likelihoods, without their constant."""
        losses = []
        stages = paired(features.maps, answer.maps)
        for regressor, pair in zip(self.regressors, stages, strict=True):
            own, other = at_one_size(*pair)
            losses.append(self._between(regressor(own), other))
        return Term(torch.stack(losses).sum())


class Variational(nn.Module):
    """A Gaussian over a teacher's map: its mean a function of the student's.

    Args:
        channels: Of the student's map.
        teacher_channels: Of the teacher's.
        variance: Where it starts, > 1e-5; one is learned for each teacher's channel.
    """

    def __init__(
        self, channels: int, teacher_channels: int, *, variance: float
    ) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        start = math.log(math.expm1(variance - _VARIANCE_EPS))
        self.log_scale = nn.Parameter(torch.full((teacher_channels,), start))

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean, (N, T, H, W), and the variance, (1, T, 1, 1)."""
        variance = F.softplus(self.log_scale) + _VARIANCE_EPS
        return self.mean(maps), variance.view(1, -1, 1, 1)


def paired(own: Sequence[_Item], other: Sequence[_Item]) -> list[tuple[_Item, _Item]]:
    """Returns stages of two networks side by side, from the last one backwards.

    Networks of one family halve their maps as often; where one has more stages, its
    first ones have no partner.
    """
    return list(zip(reversed(own), reversed(other), strict=False))


@torch.no_grad()
def map_channels(encoder: Encoder, view_size_px: int) -> list[int]:
    """Returns the channels of each stage's map; the encoder is left as it is.

    Raises:
        ConfigError: The encoder shows no maps.
    """
    kept = {part: part.training for part in encoder.modules()}
    first = next(encoder.parameters())
    blank = first.new_zeros(1, 3, view_size_px, view_size_px)
    try:
        return [stage.shape[1] for stage in encoder.eval().with_maps(blank).maps]
    except (NotImplementedError, AttributeError) as error:
        raise ConfigError(f"this model shows no feature maps: {error}") from error
    finally:
        for part, is_training in kept.items():
            part.training = is_training
