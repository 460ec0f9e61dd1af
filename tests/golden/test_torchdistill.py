"""Which of torchdistill's losses are ours, and how the others differ.

This is the table of `moma_core/distillation/methods/__init__.py`, row by row.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moma_core.distillation.losses import soft_target_loss
from moma_core.distillation.methods.crd import ContrastMemory
from moma_core.distillation.methods.losses import (
    correlation_congruence,
    similarity_preserving,
)

Golden = Callable[[str], dict[str, Tensor]]
EXACT = {"rtol": 1e-9, "atol": 1e-12}

theirs = pytest.importorskip("torchdistill.losses.mid_level")


@pytest.fixture
def vectors(golden: Golden) -> dict[str, Tensor]:
    return golden("baselines")


def _between(loss: Any, student: Tensor, teacher: Tensor) -> Tensor:
    found: Tensor = loss({"x": {"output": student}}, {"x": {"output": teacher}})
    return found


def test_their_kd_is_hintons_loss_without_the_squared_temperature(
    golden: Golden,
) -> None:
    vectors = golden("kl_divergence")
    student, teacher = vectors["student_logits"], vectors["teacher_logits"]
    loss = theirs.KDLoss("x", "output", "x", "output", temperature=4.0, beta=1.0)

    found = 16 * _between(loss, student, teacher)

    torch.testing.assert_close(found, soft_target_loss(student, teacher, 4.0), **EXACT)


def test_their_sp_is_ours_with_rows_over_their_sum(vectors: dict[str, Tensor]) -> None:
    student, teacher = vectors["student_embedding"], vectors["teacher_embedding"]

    found = _between(theirs.SPKDLoss("x", "x", "batchmean"), student, teacher)

    by_sum = F.mse_loss(
        F.normalize(student @ student.T, p=1), F.normalize(teacher @ teacher.T, p=1)
    )
    torch.testing.assert_close(found, by_sum, **EXACT)
    assert not torch.isclose(found, similarity_preserving(student, teacher))


def test_their_cc_is_a_distance_of_kernels_and_ours_is_not(
    vectors: dict[str, Tensor],
) -> None:
    student, teacher = vectors["student_embedding"], vectors["teacher_embedding"]
    loss = theirs.CCKDLoss("x", "x", {"type": "bilinear"}, "batchmean")

    found = _between(loss, student, teacher)

    distance = torch.dist(student @ student.T, teacher @ teacher.T) / len(student) ** 2
    torch.testing.assert_close(found, distance, **EXACT)
    assert not torch.isclose(found, correlation_congruence(student, teacher))


def test_their_crd_is_ours_for_given_negatives(vectors: dict[str, Tensor]) -> None:
    ours = ContrastMemory(50, 12, temperature=0.07, momentum=0.5, seed=0).double()
    loss = theirs.CRDLoss("x", "rows", "x", 12, 50, 7, 50).double()
    loss.params.copy_(torch.tensor([7, 0.07, -1, -1, 0.5], dtype=torch.float64))
    loss.memory_v1.copy_(ours.student)
    loss.memory_v2.copy_(ours.teacher)
    own, places = vectors["crd_idx"], vectors["crd_contrast_idx"]
    student, teacher = (
        F.normalize(vectors[f"{side}_embedding"][:, :12])
        for side in ("student", "teacher")
    )
    rows = {"input": {"pos_idx": own, "contrast_idx": places}}

    for _ in range(2):
        found = loss(
            {"x": {"output": student}, "rows": rows}, {"x": {"output": teacher}}
        )
        expected = ours(student, teacher, places)
        ours.remember(student, teacher, own)

        torch.testing.assert_close(found.squeeze(), expected, **EXACT)
    torch.testing.assert_close(ours.student, loss.memory_v1, **EXACT)


def test_their_crd_cannot_draw_negatives_itself() -> None:
    loss = theirs.CRDLoss("x", "rows", "x", 12, 50, 7, 50)
    rows = {"input": {"pos_idx": torch.arange(6)}}
    features = {"output": torch.ones(6, 12)}

    with pytest.raises(AttributeError, match="prob"):
        loss({"x": features, "rows": rows}, {"x": features})
