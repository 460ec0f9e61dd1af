"""SemCKD: each patch chooses which of the teacher's stages teach the student's."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moma_core.distillation.methods.base import Baseline, Term
from moma_core.distillation.methods.context import DistillationContext
from moma_core.distillation.methods.feature_maps import map_channels
from moma_core.distillation.methods.losses import (
    at_one_size,
    attended_difference,
    patchwise_mse,
    similarity_rows,
)
from moma_core.models.encoder import Encoder, Features
from moma_core.models.heads import ProjectionHead
from moma_core.teacher.protocol import TeacherOutput

_QUERY_LENGTH = 128


class SemanticCalibration(Baseline):
    """SemCKD: attention of the student's stages over the teacher's.

    A stage's query or key comes from a patch's similarities to its batch, so that the
    batch size is part of the layers' shape; where a batch is smaller, zeros stand for
    the rows that it lacks. Of our own choosing: the last `semckd_stages` of each side,
    and similarities at unit length, for maps of any size to weigh alike.

    Source: Chen et al. (https://arxiv.org/abs/2012.03236).
    """

    needs_maps = True

    def __init__(self, student: Encoder, setup: DistillationContext) -> None:
        super().__init__(student, setup, setup.numbers.semckd_weight)
        self._stages = setup.numbers.semckd_stages
        size_px, batch = setup.run.view_size_px, setup.run.batch_size
        self._batch_size = batch
        own = map_channels(student, size_px)[-self._stages :]
        others = map_channels(setup.teacher.network(), size_px)[-self._stages :]
        self.queries = nn.ModuleList(ProjectionHead(batch, _QUERY_LENGTH) for _ in own)
        self.keys = nn.ModuleList(ProjectionHead(batch, _QUERY_LENGTH) for _ in others)
        self.projections = nn.ModuleList(
            _projection(channels, other) for channels, other in product(own, others)
        )

    def term(
        self, features: Features, answer: TeacherOutput, rows: Tensor | None
    ) -> Term:
        """Weighs every pair of stages, patch by patch."""
        own = features.maps[-self._stages :]
        others = answer.maps[-self._stages :]
        query = self._by_stage(self.queries, own)  # (N, S, D)
        key = self._by_stage(self.keys, others)  # (N, T, D)
        weights = (query @ key.transpose(1, 2)).softmax(dim=2)  # (N, S, T)
        return Term(attended_difference(weights, self._differences(own, others)))

    def _by_stage(self, heads: nn.ModuleList, stages: tuple[Tensor, ...]) -> Tensor:
        lacking = self._batch_size - len(stages[0])
        rows = (F.pad(similarity_rows(stage), (0, lacking)) for stage in stages)
        seen = [head(row) for head, row in zip(heads, rows, strict=True)]
        return torch.stack(seen, dim=1)

    def _differences(
        self, own: tuple[Tensor, ...], others: tuple[Tensor, ...]
    ) -> Tensor:
        """Returns (N, S, T), after each pair met at one size and width."""
        losses = []
        pairs = product(own, others)
        for projection, (stage, other) in zip(self.projections, pairs, strict=True):
            mine, theirs = at_one_size(stage, other)
            losses.append(patchwise_mse(projection(mine), theirs))
        return torch.stack(losses, dim=1).view(-1, len(own), len(others))


def _projection(channels: int, teacher_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, teacher_channels, 1, bias=False),
        nn.BatchNorm2d(teacher_channels),
        nn.ReLU(),
        nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(teacher_channels),
        nn.ReLU(),
        nn.Conv2d(teacher_channels, teacher_channels, 1),
    )
