"""A small student, teachers and a setup, for tests of any method."""

from typing import Any

import torch
from torch import Tensor

from moma_core.distillation.methods.names import Method
from moma_core.distillation.methods.registry import (
    DistillationContext,
    RunFacts,
    TeacherFacts,
    make_distiller,
)
from moma_core.distillation.methods.settings import BaselineSettings
from moma_core.distillation.settings import DistillationSettings
from moma_core.distillation.step import Distiller
from moma_core.models.encoder import Encoder
from moma_core.teacher.protocol import TeacherOutput
from tests.support.site.tiny import TwoStageEncoder

BATCH, SIDE_PX = 6, 12
ROWS = torch.arange(20, 50)


def images(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(BATCH, 3, SIDE_PX, SIDE_PX, generator=generator)


def setup_for(
    teacher: Encoder | None,
    *,
    length: int = 8,
    class_order: Tensor | None = None,
    rows: Tensor = ROWS,
    **numbers: Any,
) -> DistillationContext:
    """Of a teacher whose weights are here, or that has embeddings of a length only."""
    return DistillationContext(
        DistillationSettings(feature_length=8, attention_heads=2, bank_size=32),
        BaselineSettings(**{"crd_negatives": 16, **numbers}),
        TeacherFacts(
            teacher.embedding_length if teacher else length, 3, class_order, teacher
        ),
        RunFacts(rows, BATCH, SIDE_PX, seed=3),
    )


def local_pair(
    method: Method, *, length: int = 8, **changes: Any
) -> tuple[Distiller, Encoder]:
    """Returns a distiller and its frozen teacher of an embedding length."""
    torch.manual_seed(5)
    teacher = TwoStageEncoder(length=length).eval().requires_grad_(False)
    setup = setup_for(teacher, class_order=torch.arange(3), **changes)
    torch.manual_seed(6)
    return make_distiller(method, TwoStageEncoder(), setup), teacher


@torch.no_grad()
def answer_of(teacher: Encoder, views: Tensor) -> TeacherOutput:
    return TeacherOutput(*teacher.with_maps(views))
